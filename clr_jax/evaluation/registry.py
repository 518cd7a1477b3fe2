"""The protocols that `clr-jax evaluate` knows, their options, and what they refuse at the start."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from clr_jax.augment import policies
from clr_jax.core.config_tree import Config, check_keys
from clr_jax.core.errors import UserError
from clr_jax.core.names import check_name
from clr_jax.core.options import component
from clr_jax.evaluation.probing.linear_settings import flags as linear_flags
from clr_jax.evaluation.probing.linear_settings import settings_of
from clr_jax.evaluation.probing.sets import Sets
from clr_jax.evaluation.probing.subject import FEATURES, Subject
from clr_jax.evaluation.protocols import few_label, finetune, robustness, transfer
from clr_jax.evaluation.protocols.knn import DISTANCES, WEIGHTS, knn
from clr_jax.evaluation.protocols.linear import linear, num_fitted
from clr_jax.evaluation.protocols.linear_augmented import linear_augmented
from clr_jax.rundir.results import Measurement

# Of the numbers of these names, in all protocols.
_LEAST = {
  **dict.fromkeys(('k', 'block', 'draws', 'epochs', 'batch_size', 'num_images', 'max_iter'), 1),
  **dict.fromkeys(('augmentations', 'test_every', 'steps', 'restarts', 'outer', 'inner'), 1),
  **dict.fromkeys(('seed', 'draw', 'l2', 'tol', 'momentum', 'weight_decay', 'factor'), 0),
  **dict.fromkeys(('base_lr', 'backbone_lr', 'head_lr', 'milestones', 'warmup_epochs'), 0),
}
_WHOLE = ('per_class', 'draw', 'severities')
_POSITIVE = ('temperature', 'prox_weight')
_MAY_BE_EMPTY = (('few_label', 'label_fraction'), ('few_label', 'per_class'))  # not both


class Protocol(NamedTuple):
  """How one kind of number is measured.

  Attributes:
    measure: (train, test, *, features, **options) -> measurements on features; with `subject` or
      `network`, (subject, *, features, **options). A generator's are kept one by one.
    check: (sets, options) refuses values before any work, with a UserError.
    subject: it takes a `Subject` rather than features.
    network: the same, and it needs a network: pixels are refused.
    swept: options of which several values are measured one after the other, each kept when it is
      done, and the values without any given.
    on: (subject, options) -> the subject on the sets that the options name, if not on its own.
    table: (records) -> a short table that says more than one row for each number.
    more: further options with defaults, where `measure` hands **options on.
  """

  measure: Callable[..., Iterable[Measurement]]
  check: Callable[[Sets, Mapping[str, Any]], None] = lambda sets, options: None
  subject: bool = False
  network: bool = False
  swept: Mapping[str, tuple[Any, ...]] = {}
  more: Callable[[], Mapping[str, Any]] = dict
  on: Callable[[Subject, Mapping[str, Any]], Subject] | None = None
  table: Callable[[Iterable[Mapping[str, Any]]], str] | None = None


def parameters(name: str) -> Config:
  """All options of a protocol with their defaults, as `--params.KEY=VALUE` may set them."""
  protocol = PROTOCOLS[name]
  config = component(protocol.measure)
  del config['features']  # chosen by --features
  for key, value in {**protocol.more(), **protocol.swept}.items():
    if key in config:
      del config[key]  # of another type
    config[key] = value
  return config


def units(name: str, options: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
  """The options of each measurement of a sweep: the product of the swept options' values."""
  swept = PROTOCOLS[name].swept
  values = [_several(options.get(key, default)) for key, default in swept.items()]
  for chosen in itertools.product(*values):
    yield {**options, **dict(zip(swept, chosen, strict=True))}


def _several(value: Any) -> Sequence[Any]:
  """Flags give 'a,b' as one string, alone or in a tuple."""
  values = value if isinstance(value, list | tuple) else (value,)
  return [
    part for v in values for part in (v.replace(' ', '').split(',') if isinstance(v, str) else (v,))
  ]


def check(sets: Sets, name: str, options: Mapping[str, Any], kinds: Iterable[str]) -> None:
  """UserError for what a protocol would refuse only after the features, or after hours."""
  check_name(PROTOCOLS, name, 'protocol')
  check_keys(parameters(name), options, f'evaluate {name}: ')
  for kind in kinds:
    check_name(FEATURES, kind, 'features')
    if kind == 'pixels' and PROTOCOLS[name].network:
      raise UserError(f'{name} needs a network: leave pixels out of the features')
  on_own_sets = PROTOCOLS[name].on is None  # else on the sets that the options name, later
  if on_own_sets:
    sets.refuse_other_classes()
  _check_numbers(name, options)
  for unit in units(name, options):
    if on_own_sets:
      _check_fractions(sets, name, unit)
    PROTOCOLS[name].check(sets, unit)


def _check_numbers(name: str, options: Mapping[str, Any]) -> None:
  """What numbers of the same name have in common, one by one where there are several."""
  known = parameters(name)
  for key, given in options.items():
    default = known[key]
    several = isinstance(default, tuple)
    texts = default if several else (default,)
    if given is None or known.get_type(key) is str or any(isinstance(t, str) for t in texts):
      continue
    values = given if isinstance(given, list | tuple) else (given,)
    if all(v == '' for v in values):
      if (name, key) in _MAY_BE_EMPTY or (not values and default == ()):
        continue
      raise UserError(f'{name}: {key} is empty: give a value or leave it out')
    for value in (v for v in values if v is not None):
      _check_number(f'{name}: {key}', key, value)


def _check_number(what: str, key: str, value: Any) -> None:
  if not isinstance(value, int | float | np.number):
    raise UserError(f'{what}={value} is no number, nor several numbers with commas between them')
  if not math.isfinite(value):
    raise UserError(f'{what}={value} must be finite')
  if key in _WHOLE and value != int(value):
    raise UserError(f'{what}={value} must be a whole number')
  if value < (least := _LEAST.get(key, -math.inf)):
    raise UserError(f'{what}={value} must be at least {least}')
  if key in _POSITIVE and value <= 0:
    raise UserError(f'{what}={value} must be positive')
  if key == 'momentum' and value >= 1:
    raise UserError(f'{what}={value} must be below 1')
  if key == 'seed' and value >= 2**32:
    raise UserError(f'{what}={value} must be below 2^32')


def _check_fractions(sets: Sets, name: str, options: Mapping[str, Any]) -> None:
  fractions = np.atleast_1d(options.get('label_fraction', 1.0)).tolist()
  for fraction in (f for f in fractions if f != ''):
    labels = round(fraction * sets.train.num_examples)
    few = fraction < 1 and sets.labeled and labels < (sets.train.num_classes or 0)
    if not 0 < fraction <= 1 or few:
      raise UserError(
        f'{name}: label_fraction={fraction} is {labels} labels: it must be at most 1 and give one '
        f'to each of {sets.train.num_classes} classes'
      )


def _check_linear(sets: Sets, options: Mapping[str, Any]) -> None:
  chosen = settings_of(options)
  if sets.labeled and sets.train.num_classes is not None:
    for fraction in np.atleast_1d(options.get('label_fraction', 1.0)).tolist():
      num_fitted(chosen, round(fraction * sets.train.num_examples), sets.train.num_classes)


def _check_augmented(sets: Sets, options: Mapping[str, Any]) -> None:
  _check_linear(sets, {'preset': 'report', **options})
  if not options.get('preset', 'report'):
    raise UserError('linear_augmented: preset is empty: name an SGD preset of linear')
  if 'policy' in options:
    check_name(policies.names(), options['policy'], 'augmentation policy')


def _check_knn(sets: Sets, options: Mapping[str, Any]) -> None:
  for key, choices in (('distance', DISTANCES), ('weights', WEIGHTS)):
    if key in options:
      check_name(choices, options[key], f'knn {key}')


PROTOCOLS: Mapping[str, Protocol] = {
  'knn': Protocol(knn, _check_knn),
  'linear': Protocol(
    linear, _check_linear, more=lambda: {'label_fraction': (1.0,), **linear_flags()}
  ),
  'linear_augmented': Protocol(linear_augmented, _check_augmented, network=True, more=linear_flags),
  'few_label': Protocol(
    few_label.few_label,
    few_label.check,
    subject=True,
    more=linear_flags,
  ),
  'finetune': Protocol(finetune.finetune, finetune.check, network=True, swept=finetune.SWEPT),
  'transfer': Protocol(
    transfer.transfer,
    transfer.check,
    network=True,
    swept=transfer.SWEPT,
    more=transfer.more,
    on=transfer.on_target,
    table=transfer.format_matrix,
  ),
  'robustness': Protocol(
    robustness.robustness,
    robustness.check,
    network=True,
    swept={'attack': ('pgd_l2', 'plb_l2')},
  ),
}
