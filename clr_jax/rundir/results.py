"""What was measured in a run: one JSON file per number, with all that it depends on."""

from __future__ import annotations

import contextlib
import io
import json
import secrets
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from absl import logging
from etils import epath

from clr_jax.core.programs import compiler_options
from clr_jax.core.storage import (
  atomic_write,
  check_writable,
  files_in,
  first_line,
  is_file,
  is_local,
  read_file,
)
from clr_jax.rundir.codec import jsonable, now, number, read_object, write_arrays
from clr_jax.rundir.provenance import code_version, device, libraries
from clr_jax.rundir.workdir import Workdir, next_number

# What readers need of a record.
_READ: Mapping[str, Any] = {
  **dict.fromkeys(('metric', 'protocol', 'features', 'config_hash', 'data'), str),
  **dict.fromkeys(('data_checksum', 'time'), str),
  'value': (int, float),
  'step': int,
  'params': dict,
}


FeaturesOf = Literal['trained', 'untrained', 'pixels']
Evaluated = FeaturesOf | Literal['weights']  # those of a file, see `clr-jax evaluate --weights`
"""What is evaluated: the trained network, that of step 0, or the pixels themselves."""


class Measurement(NamedTuple):
  """One number of one evaluation.

  Attributes:
    metric: 'top1', ...
    value: as the protocol defines it (accuracies in [0, 1]).
    protocol: 'linear', 'knn', ...
    params: everything of the protocol that the number depends on; 'draw' numbers repetitions.
    features: what was evaluated.
    seconds: wall time.
    arrays: what is behind the number, such as a distance for each image; kept beside the record.
  """

  metric: str
  value: float
  protocol: str
  params: dict[str, Any]
  features: Evaluated
  seconds: float
  arrays: Mapping[str, np.ndarray] | None = None


def make_record(
  measurement: Measurement,
  *,
  step: int,
  checkpoint: str | None,
  config_hash: str,
  data: str,
  data_checksum: str,
  seed: int,
) -> dict[str, Any]:
  """A measurement with all that it depends on, as `read_results` gives it back."""
  record = {
    **{k: v for k, v in measurement._asdict().items() if k != 'arrays'},
    'step': step,
    'checkpoint': checkpoint,
    'config_hash': config_hash,
    'code_version': code_version(),
    'libraries': libraries(),
    'compiler_options': compiler_options() or {},
    'data': data,
    'data_checksum': data_checksum,
    'seed': seed,
    'device': device(),
    'time': now(),
  }
  plain = json.loads(json.dumps(jsonable(record), allow_nan=False))
  return {**plain, 'value': number(plain['value'])}


def write_result(run: Workdir, measurement: Measurement, **circumstances: Any) -> str:
  """Writes a measurement as one JSON file; only process 0 does.

  Args:
    circumstances: see `make_record`.

  Returns:
    The name of the file.
  """
  if jax.process_index():
    return ''
  # Names sort by creation; the token keeps those apart that two evaluations write at once.
  name = f'{next_number(run.results):020d}-{_token()}-{measurement.protocol}-{measurement.metric}'
  path = run.results / f'{name.replace("/", "_")}.json'
  record = make_record(measurement, **circumstances)
  if measurement.arrays is not None:
    record['arrays'] = f'{path.stem}.npz'
    write_arrays(path.with_suffix('.npz'), measurement.arrays)
  text = json.dumps(jsonable(record), indent=2, allow_nan=False)
  atomic_write(path, text + '\n')
  return path.name


def _token() -> str:
  return secrets.token_hex(4)


class Found(NamedTuple):
  """What the folder of results holds.

  Attributes:
    run: whose results.
    records: by the name of the file, oldest first.
    damaged: name of the file -> why it cannot be read.
  """

  run: Workdir
  records: dict[str, dict[str, Any]]
  damaged: dict[str, str]

  def is_whole(self, name: str) -> bool:
    """Whether a record can be read, with the arrays behind it."""
    record = self.records.get(name)
    return record is not None and ('arrays' not in record or bool(read_arrays(self.run, record)))


def find_results(run: Workdir) -> Found:
  """All results, and what cannot be read.

  Raises:
    UserError: the folder cannot be read.
  """
  records, damaged = {}, {}
  for path in files_in(run.results, '.json'):
    try:
      records[path.name] = _read_record(path)
    except (OSError, ValueError, KeyError, TypeError) as error:
      damaged[path.name] = first_line(error)
  return Found(run, records, damaged)


def read_results(run: Workdir) -> list[dict[str, Any]]:
  """All records, oldest first; a damaged file is skipped with a warning.

  Raises:
    UserError: the folder cannot be read.
  """
  found = find_results(run)
  for name, why in found.damaged.items():
    logging.warning('skipped the damaged result %s (%s)', run.results / name, why)
  return list(found.records.values())


def set_aside(run: Workdir, name: str) -> None:
  """Renames a damaged result, which was measured again, to '<name>.damaged'; in process 0."""
  if jax.process_index():
    return
  path = run.results / name
  with contextlib.suppress(FileNotFoundError):  # another evaluation was faster
    if is_local(path):
      path.replace(run.results / f'{name}.damaged')
    else:
      atomic_write(run.results / f'{name}.damaged', path.read_bytes())
      path.unlink()


def why_not_kept(run: Workdir) -> str:
  """Why no result can be written, in short; '' if they can be."""
  try:
    check_writable(run.results if run.results.exists() else run.path)
  except OSError as error:
    return error.strerror or first_line(error)
  return ''


def _read_record(path: epath.Path) -> dict[str, Any]:
  """The record in a file; KeyError, TypeError or ValueError if readers cannot use it."""
  record = read_object(read_file(path))
  record = {**record, 'value': number(record['value'])}
  for key, kind in _READ.items():
    if not isinstance(record[key], kind) or isinstance(record[key], bool):
      raise TypeError(f'its {key} is {record[key]!r:.80}')
  return record


def read_arrays(run: Workdir, record: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """What is behind a record that `read_results` gave; empty if nothing was kept or it is lost."""
  path = run.results / str(record.get('arrays', 'none'))
  if not is_file(path):
    return {}
  try:
    with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
      return dict(file)
  except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
    logging.warning('cannot read %s (%s)', path, error)
    return {}
