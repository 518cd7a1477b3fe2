"""Transfer: a run's network measured on other data sets by the other protocols."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

import numpy as np

from clr_jax.core.errors import UserError
from clr_jax.core.names import check_name
from clr_jax.evaluation.probing.sets import Sets, target_sets
from clr_jax.evaluation.probing.subject import Subject
from clr_jax.rundir.results import Measurement

PROTOCOLS = ('linear', 'finetune', 'knn')
SWEPT: Mapping[str, tuple[Any, ...]] = {'to': ('',), 'protocol': ('linear',)}


def transfer(
  subject: Subject,
  *,
  features: Literal['trained', 'untrained', 'pixels'] = 'trained',
  to: str = '',
  protocol: Literal['linear', 'finetune', 'knn'] = 'linear',
  train_split: str | None = None,
  test_split: str | None = None,
  **options: Any,
) -> Iterator[Measurement]:
  """What another protocol measures on another data set, as measurements of 'transfer'.

  Args:
    subject: what `on_target` gave.
    features: see `Subject`.
    to: name of the data set, see `data.load_source`. Its images are made as large and as colourful
      as the run's; its classes are its own.
    protocol: one of PROTOCOLS, with its defaults.
    train_split, test_split: see `target_sets`.
    options: of the protocol; what another of PROTOCOLS knows and this one does not is not for it.

  Raises:
    UserError: what the protocol refuses.
  """
  from clr_jax.evaluation import registry as protocols  # which has this one in its registry

  del train_split, test_split  # in `on_target`
  assert subject.sets.train.name == to
  given = _given(protocol, options)
  measured_by = protocols.PROTOCOLS[protocol]
  for unit in protocols.units(protocol, given):
    on = (subject,) if measured_by.network else subject.features
    for measurement in measured_by.measure(*on, features=features, **unit):
      params = {'to': to, 'protocol': protocol, **measurement.params}
      yield measurement._replace(protocol='transfer', params=params)


def on_target(subject: Subject, options: Mapping[str, Any]) -> Subject:
  """The subject's network on the data set that the options of `transfer` name.

  Raises:
    UserError: see `target_sets`; what the protocol refuses.
  """
  from clr_jax.evaluation import registry as protocols

  check(subject.sets, options)
  on = _on(subject, options['to'], options.get('train_split'), options.get('test_split'))
  protocol = options.get('protocol', 'linear')
  protocols.check(on.sets, protocol, _given(protocol, options), [subject.kind])
  return on


def _given(protocol: str, options: Mapping[str, Any]) -> dict[str, Any]:
  """The options that the protocol knows."""
  from clr_jax.evaluation import registry as protocols

  known = protocols.parameters(protocol)
  return {key: _like(known[key], value) for key, value in options.items() if key in known}


# The features of a target are those of all its protocols.
@functools.lru_cache(maxsize=16)
def _on(subject: Subject, to: str, train_split: str | None, test_split: str | None) -> Subject:
  sets = target_sets(subject.experiment, to, train_split=train_split, test_split=test_split)
  if subject.kind != 'pixels':
    _ = subject.weights  # an untrained network's statistics are computed once for all targets
  other = copy.copy(subject)
  other.sets = sets
  for of_sets in ('checksum', 'features'):
    other.__dict__.pop(of_sets, None)
  return other


def more() -> dict[str, Any]:
  """The options of all of PROTOCOLS, as `Protocol.more` wants them."""
  from clr_jax.evaluation import registry as protocols

  options: dict[str, Any] = {}
  for name in PROTOCOLS:
    config = protocols.parameters(name)
    for key in config:
      # References keep the type of an option without a value. Several values include one.
      if key not in options or isinstance(config[key], tuple):
        options[key] = config.get_ref(key)
  return options


def check(sets: Sets, options: Mapping[str, Any]) -> None:
  """UserError for no target and for a protocol that cannot be; the target's sets are not loaded."""
  del sets
  if not options.get('to'):
    raise UserError(
      'transfer needs the name of a data set, or several: give to, such as --params.to=cifar10'
    )
  check_name(PROTOCOLS, options.get('protocol', 'linear'), 'transfer protocol')


def _like(default: Any, value: Any) -> Any:
  """A single value that came as several, as one: another protocol takes several."""
  one = isinstance(value, tuple) and len(value) == 1 and not isinstance(default, tuple)
  return value[0] if one else value


def format_matrix(records: Iterable[Mapping[str, Any]]) -> str:
  """Aligned table of transfer's accuracies: a row for each run, a column for target and protocol.

  Each cell is the mean over the draws of the newest options, of the last epoch where there are
  several.

  Args:
    records: of `read_results`; of several runs, each with its name as 'run'.
  """
  cells: dict[tuple[str, str], dict[Any, float]] = {}
  newest: dict[tuple[str, str], Any] = {}
  for record in records:
    params = record['params']
    if record['protocol'] != 'transfer' or params.get('selection', 'last') != 'last':
      continue
    row = ' '.join(str(record[key]) for key in ('run', 'features') if key in record)
    cell = (row, f'{params["to"]} {params["protocol"]}')
    settings = {k: v for k, v in params.items() if k not in ('draw', 'epoch', 'iterations')}
    if newest.get(cell) != (record['step'], settings):
      newest[cell] = (record['step'], settings)
      cells[cell] = {}
    cells[cell][params.get('draw')] = record['value']
  rows, columns = (list(dict.fromkeys(key[i] for key in cells)) for i in (0, 1))
  lines = [['', *columns]]
  for row in rows:
    values = [cells.get((row, column)) for column in columns]
    lines.append([row, *(f'{np.mean([*v.values()]):.4f}' if v else '-' for v in values)])
  widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
  return '\n'.join(
    '  '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
    for line in lines
  )
