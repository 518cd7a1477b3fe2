"""Linear evaluation of frozen features, with all or few labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from annotated_types import MinLen

from clr_jax.core.bounds import Repeats, Seed, Share
from clr_jax.core.errors import UserError
from clr_jax.core.options import DISTINCT, checked, takes_options_of
from clr_jax.evaluation.probing.features import Features
from clr_jax.evaluation.probing.linear_draws import measure_subsets
from clr_jax.evaluation.probing.linear_settings import settings, settings_of
from clr_jax.evaluation.probing.planned import Program, Sizes, linear_programs
from clr_jax.evaluation.probing.sets import Sets
from clr_jax.evaluation.probing.subject import Kind, Subject
from clr_jax.rundir.results import Measurement

FITS_CLASSES = True


@checked
@takes_options_of(settings)
def linear(
  train: Features,
  test: Features,
  features: Kind = 'trained',
  *,
  label_fraction: Share | Annotated[Sequence[Share], MinLen(1), DISTINCT] = 1.0,
  draws: Repeats = 1,
  seed: Seed = 0,
  **options: Any,
) -> list[Measurement]:
  """Measures top-1 test accuracy, in [0, 1], of a linear classifier on frozen features.

  To compare trained, untrained and pixel features, change only the features: the labeled subsets
  depend on the labels, the fraction, the seed and the draw. `params` of the measurement record all
  settings.

  SGD yields two measurements per draw, `selection` 'last' (the last epoch: the number to report)
  and 'best_on_test' (the best epoch on the test set, as in the code of the SogCLR report and of the
  robustness document: too high), and with `held_out` a third, 'best_on_held_out' (the epoch, and
  the value of a sweep, that is best on held-out labels).

  Args:
    train, test: features from `extract` or `pixels`; `test` is used only for the accuracy. For SGD
      `train.h` may be [K, N, F], see `fit_sgd`.
    features: kind of the features, for the record.
    label_fraction: share of the training labels used, in (0, 1], or several shares. Subsets are
      class-stratified (`stratified_subset`).
    draws: random subsets per fraction; one if nothing is random (all labels, L-BFGS, one l2).
    seed: RNG seed of subsets, held-out splits, initial weights and batches.
    options: solver, preset and hyper-parameters, see `settings`.

  Raises:
    UserError: features without labels, a class of the test set without a training example, a
      fraction with fewer labels than classes, or errors of `settings`.
  """
  amounts = [{'label_fraction': f} for f in np.atleast_1d(label_fraction).tolist()]
  how = {'protocol': 'linear', 'draws': draws, 'seed': seed, 'features': features}
  return list(measure_subsets(train, test, amounts, settings(**options), **how))


@takes_options_of(linear)
def measure(subject: Subject, **options: Any) -> Iterable[Measurement]:
  """Runs `linear` on the features of a subject."""
  return linear(*subject.features, subject.kind, **options)


def programs(sizes: Sizes, options: Mapping[str, Any], devices: Sequence[Any]) -> Iterator[Program]:
  """Yields the programs of `linear` for each share of the labels; see `protocols`.

  Raises:
    UserError: fewer labels than classes.
  """
  chosen = settings_of(options)
  for labels in _label_counts(options, sizes.train, sizes.classes):
    several = chosen.random or labels < sizes.train
    for program in linear_programs(chosen, labels, sizes, devices):
      yield program._replace(calls=program.calls * (options.get('draws', 1) if several else 1))


def check(sets: Sets, options: Mapping[str, Any]) -> None:
  """Raises a UserError for conflicting options and for fewer labels than classes."""
  chosen = settings_of(options)
  train = sets.train
  if not sets.labeled or train.num_classes is None:
    return  # a run without labels is not evaluated at its end
  for labels in _label_counts(options, train.num_examples, train.num_classes):
    chosen.num_fitted(labels, train.num_classes)


def _label_counts(options: Mapping[str, Any], num_examples: int, num_classes: int) -> list[int]:
  """Numbers of labels, one for each share; UserError for fewer labels than classes."""
  found = []
  for fraction in np.atleast_1d(options.get('label_fraction', 1.0)).tolist():
    found.append(round(fraction * num_examples))
    if fraction < 1 and found[-1] < num_classes:
      raise UserError(
        f'label_fraction={fraction} is {found[-1]} labels: give one to each of {num_classes} '
        f'classes'
      )
  return found
