"""Results of a run: one JSON file per number, with everything that it depends on."""

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

from clr_jax.core.cores import available_cores
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

# Fields of a record that readers need.
_READ: Mapping[str, Any] = {
  **dict.fromkeys(('metric', 'protocol', 'features', 'config_hash', 'data'), str),
  **dict.fromkeys(('data_checksum', 'time'), str),
  'value': (int, float),
  'step': int,
  'params': dict,
}


FeaturesOf = Literal['trained', 'untrained', 'pixels']
Evaluated = FeaturesOf | Literal['weights']  # 'weights' of a file: `clr-jax evaluate --weights`
"""Kinds of features: of the trained network, of the network of step 0, or raw pixels."""


class Measurement(NamedTuple):
  """A number measured by an evaluation.

  Attributes:
    metric: name of the metric, such as 'top1'.
    value: its value; accuracies are in [0, 1].
    protocol: 'linear', 'knn', ...
    params: all parameters of the protocol that the number depends on; 'draw' numbers repetitions.
    features: kind of the evaluated features.
    seconds: wall time.
    arrays: underlying arrays, such as a distance per image; stored beside the record.
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
  """Makes the record of a measurement, as returned by `read_results`."""
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
    'cores': len(available_cores()),  # on CPUs the order of sums depends on them
    'time': now(),
  }
  plain = json.loads(json.dumps(jsonable(record), allow_nan=False))
  return {**plain, 'value': number(plain['value'])}


def write_result(run: Workdir, measurement: Measurement, **circumstances: Any) -> str:
  """Writes a measurement as a JSON file, in process 0.

  Args:
    circumstances: see `make_record`.

  Returns:
    The name of the file.
  """
  if jax.process_index():
    return ''
  # Names sort by creation; the token avoids collisions of simultaneous evaluations.
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
  """Content of the folder of results.

  Attributes:
    run: workdir of the run.
    records: records by file name, oldest first.
    damaged: reasons by file name for files that cannot be read.
  """

  run: Workdir
  records: dict[str, dict[str, Any]]
  damaged: dict[str, str]

  def is_whole(self, name: str) -> bool:
    """True if a record and its arrays can be read."""
    record = self.records.get(name)
    return record is not None and ('arrays' not in record or bool(read_arrays(self.run, record)))


def find_results(run: Workdir) -> Found:
  """Finds all results, including unreadable ones.

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
  """Reads all records, oldest first; skips damaged files with one warning.

  Raises:
    UserError: the folder cannot be read.
  """
  found = find_results(run)
  if found.damaged:
    name, why = next(iter(found.damaged.items()))
    count, first = len(found.damaged), run.results / name
    logging.warning('skipped %d damaged results (first: %s, %s)', count, first, why)
  return list(found.records.values())


def set_aside(run: Workdir, name: str) -> None:
  """Renames a damaged result, after it was measured again, to '<name>.damaged'; in process 0."""
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
  """Short reason why results cannot be written; '' if they can."""
  try:
    check_writable(run.results if run.results.exists() else run.path)
  except OSError as error:
    return error.strerror or first_line(error)
  return ''


def _read_record(path: epath.Path) -> dict[str, Any]:
  """Reads a record; raises KeyError, TypeError or ValueError if it is unusable."""
  record = read_object(read_file(path))
  record = {**record, 'value': number(record['value'])}
  for key, kind in _READ.items():
    if not isinstance(record[key], kind) or isinstance(record[key], bool):
      raise TypeError(f'its {key} is {record[key]!r:.80}')
  return record


def read_arrays(run: Workdir, record: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Reads the arrays of a record of `read_results`; {} if there are none or they are lost."""
  path = run.results / str(record.get('arrays', 'none'))
  if not is_file(path):
    return {}
  try:
    with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
      return dict(file)
  except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
    logging.warning('cannot read %s (%s)', path, error)
    return {}
