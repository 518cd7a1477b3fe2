"""Transfer: evaluates a run's network on other data sets by other protocols."""

from __future__ import annotations

import functools
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal

import numpy as np

from clr_jax.core.errors import UserError
from clr_jax.core.names import check_name
from clr_jax.core.options import SEVERAL, OneOf, Option, options_of
from clr_jax.core.options import check as check_options
from clr_jax.evaluation import registry
from clr_jax.evaluation.probing.sets import Sets, target_sets
from clr_jax.evaluation.probing.subject import Subject
from clr_jax.evaluation.protocols import PROTOCOLS
from clr_jax.rundir.results import Measurement
from clr_jax.rundir.table import aligned

NEEDS_NETWORK = True
Inner = Literal['linear', 'finetune', 'knn']


def measure(
  subject: Subject,
  *,
  target: Annotated[str, SEVERAL] = '',
  protocol: Annotated[Inner, SEVERAL] = 'linear',
  train_split: str | None = None,
  test_split: str | None = None,
  **options: Any,
) -> Iterator[Measurement]:
  """Measures by another protocol on another data set.

  Args:
    subject: subject on the target, from `on_target`.
    target: name of the data set, see `data.load_source`. Its images are converted to the size and
      channels of the run's; its classes are its own.
    protocol: protocol to use, with its defaults.
    train_split, test_split: splits of the data sets; None = those usual for each, else 'train' and
      'test'.
    options: options of the protocols; each protocol uses those that it has.

  Raises:
    UserError: errors of the protocol.
  """
  del train_split, test_split  # used by `on_target`
  assert subject.sets.train.name == target
  for unit in registry.units(protocol, _given(protocol, options)):
    for measurement in PROTOCOLS.factory(protocol)(subject, **unit):
      params = {'target': target, 'protocol': protocol, **measurement.params}
      yield measurement._replace(protocol='transfer', params=params)


def parameters() -> dict[str, Option]:
  """Options of `measure` and of all protocols that it can use."""
  merged, presets = options_of(measure), {}
  for name in typing.get_args(Inner):
    own = options_of(PROTOCOLS.factory(name))
    merged = {**own, **merged}
    facts = own['preset'].facts if 'preset' in own else ()
    presets |= {preset: None for fact in facts if isinstance(fact, OneOf) for preset in fact.names}
  # Each protocol has presets of its own; `check_together` knows which is used.
  hint = Annotated[str | None, OneOf(tuple(presets))]
  return {**merged, 'preset': merged['preset']._replace(hint=hint)}


def check_together(options: Mapping[str, Any], prefix: str) -> None:
  """Raises a UserError for an option that none of the chosen protocols has.

  Args:
    options: options from `parameters`.
    prefix: text before an option in messages.
  """
  chosen = np.atleast_1d(options.get('protocol', 'linear')).tolist()
  known = options_of(measure)
  for name in chosen:
    known = {**options_of(PROTOCOLS.factory(name)), **known}
  for key in options:
    check_name(parameters(), key, 'option of transfer')
    if key not in known:
      owners = [n for n in typing.get_args(Inner) if key in options_of(PROTOCOLS.factory(n))]
      raise UserError(
        f'{prefix}{key} has no effect with protocol={",".join(chosen)}: leave it out, or set '
        f'protocol to {" or ".join(owners)}'
      )
  check_options(known, options, what='transfer', prefix=prefix, complete=False)


def check(sets: Sets, options: Mapping[str, Any]) -> None:
  """Raises a UserError for a missing target or invalid options, without loading the target."""
  del sets
  if not options.get('target'):
    raise UserError(
      'transfer needs the name of one or several data sets: set target, as in '
      '--params.target=cifar10'
    )
  protocol = options.get('protocol', 'linear')
  registry.units(protocol, _given(protocol, options))


def on_target(subject: Subject, options: Mapping[str, Any]) -> Subject:
  """Makes the subject on the data set that the options name.

  Raises:
    UserError: see `target_sets`; errors of the protocol.
  """
  check(subject.sets, options)
  on = _on(subject, options['target'], options.get('train_split'), options.get('test_split'))
  protocol = options.get('protocol', 'linear')
  registry.check(on.sets, protocol, _given(protocol, options), [subject.kind])
  registry.check_classes(on.sets, protocol)
  return on


def _given(protocol: str, options: Mapping[str, Any]) -> dict[str, Any]:
  """Options that the protocol has."""
  known = options_of(PROTOCOLS.factory(protocol))
  return {key: value for key, value in options.items() if key in known}


# All protocols share the features of a target.
@functools.lru_cache(maxsize=16)
def _on(subject: Subject, to: str, train_split: str | None, test_split: str | None) -> Subject:
  return subject.on(
    target_sets(subject.experiment, to, train_split=train_split, test_split=test_split)
  )


def table(records: Iterable[Mapping[str, Any]]) -> str:
  """Table of transfer accuracies, a row per run and a column per target and protocol.

  Each cell is the mean over the draws of the newest options, at the last epoch.

  Args:
    records: records of `read_results`; with several runs, each with its run's name as 'run'.
  """
  cells: dict[tuple[str, str], dict[Any, float]] = {}
  newest: dict[tuple[str, str], Any] = {}
  for record in records:
    params = record['params']
    if record['protocol'] != 'transfer' or params.get('selection', 'last') != 'last':
      continue
    row = ' '.join(str(record[key]) for key in ('run', 'features') if key in record)
    cell = (row, f'{params["target"]} {params["protocol"]}')
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
  return aligned(lines)
