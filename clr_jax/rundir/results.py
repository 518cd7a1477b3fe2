"""What was measured in a run: one JSON file per number, with all that it depends on."""

from __future__ import annotations

import io
import itertools
import json
import time
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from absl import logging

from clr_jax.core.storage import atomic_write
from clr_jax.rundir.codec import jsonable, now, number, write_arrays
from clr_jax.rundir.provenance import code_version, device, libraries
from clr_jax.rundir.workdir import Workdir

_count = itertools.count()
# What readers need of a record, beyond its value.
_READ = (
  *('metric', 'value', 'protocol', 'params', 'features', 'step'),
  *('config_hash', 'data', 'data_checksum', 'time'),
)


FeaturesOf = Literal['trained', 'untrained', 'pixels']
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
  features: FeaturesOf
  seconds: float
  arrays: Mapping[str, np.ndarray] | None = None


def write_result(
  run: Workdir,
  measurement: Measurement,
  *,
  step: int,
  checkpoint: str | None,
  config_hash: str,
  data: str,
  data_checksum: str,
  seed: int,
) -> None:
  """Records a measurement, with all that it depends on, as one JSON file."""
  if jax.process_index():
    return
  # Names sort by time; the count keeps them apart where the clock is coarse.
  name = f'{time.time_ns():020d}-{next(_count):06d}-{measurement.protocol}-{measurement.metric}'
  path = run.results / f'{name.replace("/", "_")}.json'
  record = {k: v for k, v in measurement._asdict().items() if k != 'arrays'}
  if measurement.arrays is not None:
    record['arrays'] = f'{path.stem}.npz'
    write_arrays(path.with_suffix('.npz'), measurement.arrays)
  record = {
    **record,
    'step': step,
    'checkpoint': checkpoint,
    'config_hash': config_hash,
    'code_version': code_version(),
    'libraries': libraries(),
    'data': data,
    'data_checksum': data_checksum,
    'seed': seed,
    'device': device(),
    'time': now(),
  }
  text = json.dumps(jsonable(record), indent=2, allow_nan=False)
  atomic_write(path, text + '\n')


def read_results(run: Workdir) -> list[dict[str, Any]]:
  """All records, oldest first; a damaged file is skipped with a warning."""
  records = []
  if not run.results.exists():
    return records
  for path in sorted(run.results.glob('*.json'), key=lambda p: p.name):
    try:
      record = json.loads(path.read_text())
      known = {key: record[key] for key in _READ}
      if not isinstance(known['params'], Mapping):
        raise TypeError('its params are no object')
      records.append({**record, 'value': number(known['value'])})
    except (OSError, ValueError, KeyError, TypeError) as error:
      logging.warning('skipped the damaged result %s (%s)', path, error)
  return records


def read_arrays(run: Workdir, record: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """What is behind a record that `read_results` gave; empty if nothing was kept or it is lost."""
  path = run.results / str(record.get('arrays', 'none'))
  if not path.is_file():
    return {}
  try:
    with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
      return dict(file)
  except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
    logging.warning('cannot read %s (%s)', path, error)
    return {}
