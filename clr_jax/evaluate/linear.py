"""Linear evaluation of frozen features, with all labels or a few."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from clr_jax.evaluate.features import Features
from clr_jax.evaluate.logistic import Head, fit_lbfgs, fit_sgd, score
from clr_jax.evaluate.subsets import stratified_subset
from clr_jax.lookup import check_name, check_options, keyword_only
from clr_jax.results import Measurement
from clr_jax.types import UserError

_FIT = {'lbfgs': fit_lbfgs, 'sgd': fit_sgd}
_SWEPT = {'lbfgs': 'l2', 'sgd': 'base_lr'}
_GIVEN = ('num_classes', 'seed', 'watch')  # no hyper-parameters: `linear` fills them in
_HELD_OUT = 0.2  # of the labels, to choose among the values of a sweep


def linear(
  train: Features,
  test: Features,
  *,
  solver: Literal['lbfgs', 'sgd'] = 'lbfgs',
  label_fraction: float | Sequence[float] = 1.0,
  draws: int = 1,
  seed: int = 0,
  standardise: bool | None = None,
  features: Literal['trained', 'untrained', 'pixels'] = 'trained',
  **options: Any,
) -> list[Measurement]:
  """Top-1 test accuracy, in [0, 1], of a linear classifier on frozen features.

  Compare trained, untrained and pixel features by calls that differ in the features only: the
  labeled subsets depend on the labels, the fraction, the seed and the draw. Everything that was
  used is in `params` of the measurement.

  Args:
    train, test: features of `extract` or `pixels`; `test` is used for nothing but the accuracy.
    solver: 'lbfgs', logistic regression to convergence (`fit_lbfgs`; l2 = 1 is scikit-learn's
      C = 1, on standardised features a safe choice from one label a class to all); 'sgd', the
      SogCLR report's protocol (`fit_sgd`), which gives two measurements a draw, `selection` 'last'
      (the last epoch: the number to report) and 'best_on_test' (the best epoch on the test set, as
      the report's code prints: optimistic).
    label_fraction: the share of the training labels used, in (0, 1], or several shares. Subsets
      are class-stratified (`stratified_subset`).
    draws: random subsets per fraction; where nothing is random (all labels, L-BFGS, one l2), one.
    seed: of subsets, held-out splits, initial weights and batches.
    standardise: to mean 0 and standard deviation 1 of *all* training features, labeled or not (no
      label enters). Default: True for 'lbfgs', False for 'sgd' (the report's protocol).
    features: which features these are, for the record.
    options: hyper-parameters of the solver. Several values of `l2` (lbfgs) or `base_lr` (sgd) are
      fitted side by side to 80 % of the subset's labels, compared on the other 20 %, and the best
      one (by accuracy, then by cross-entropy) is fitted again to all of the subset.

  Raises:
    UserError: features without labels, a class of the test set that has no training example, a
      fraction with fewer labels than classes, an unknown solver or option.
  """
  check_name(_FIT, solver, 'linear solver')
  options = _with_defaults(solver, options)
  classes, train_label, test_label = _class_indices(train, test)
  options['num_classes'] = len(classes)
  if standardise is None:
    standardise = solver == 'lbfgs'
  train_h, test_h = _standardised(train.h, test.h) if standardise else (train.h, test.h)

  record = {'solver': solver, 'seed': seed, 'standardise': standardise}
  results = []
  for fraction in np.atleast_1d(np.asarray(label_fraction, float)).tolist():
    if not 0 < fraction <= 1:
      raise UserError(
        f'label_fraction={fraction} is not in (0, 1]; give the share of labels to use'
      )
    fixed = fraction == 1 and solver == 'lbfgs' and np.size(options['l2']) == 1
    for draw in range(1 if fixed else draws):
      start = time.perf_counter()
      subset_seed, *seeds = np.random.SeedSequence([seed, draw]).generate_state(3).tolist()
      size = round(fraction * len(train_label))
      rows = stratified_subset(train_label, size, seed=subset_seed)
      outcomes = _one_draw(
        solver, train_h[rows], train_label[rows], test_h, test_label, options, *seeds
      )
      seconds = time.perf_counter() - start
      subset = {'label_fraction': fraction, 'num_labels': size, 'draw': draw}
      results += [
        Measurement('top1', value, 'linear', {**record, **subset, **used}, features, seconds)
        for value, used in outcomes
      ]
  return results


def solver_options(solver: str | None = None) -> dict[str, Any]:
  """Hyper-parameters of a solver (None: of all) with their defaults, as a user may set them."""
  solvers = _FIT if solver is None else (solver,)
  return {
    name: parameter.default
    for each in solvers
    for name, parameter in keyword_only(_FIT[each]).items()
    if name not in _GIVEN
  }


def check_solver_options(solver: str, options: Mapping[str, Any]) -> None:
  """UserError for an unknown solver, or an option that it does not have."""
  check_name(_FIT, solver, 'linear solver')
  check_options(f'the linear solver {solver!r}', _FIT[solver], options, given=_GIVEN)


def _with_defaults(solver: str, options: dict[str, Any]) -> dict[str, Any]:
  check_solver_options(solver, options)
  return {**solver_options(solver), **options}


def _class_indices(train: Features, test: Features) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """The classes of the training set, and the labels of both sets as positions among them."""
  if train.label is None or test.label is None:
    raise UserError('linear evaluation needs labels; give labeled data for training and test')
  classes, train_label = np.unique(train.label, return_inverse=True)
  if len(unseen := np.setdiff1d(test.label, classes)):
    raise UserError(
      f'class {unseen[0]} of the test set has no training example; use sets with the same classes'
    )
  return classes, train_label, np.searchsorted(classes, test.label)


def _standardised(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  mean, std = train.mean(0, dtype=np.float64), train.std(0, dtype=np.float64)
  scale = 1 / np.where(std > 1e-6 * np.abs(mean), std, np.inf)  # a constant feature becomes 0
  mean, scale = mean.astype(train.dtype), scale.astype(train.dtype)
  return (train - mean) * scale, (test - mean) * scale


def _choose(
  solver: str,
  h: np.ndarray,
  label: np.ndarray,
  options: dict[str, Any],
  split_seed: int,
  fit_seed: int,
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Options with one value of the swept hyper-parameter, and how it was chosen: without test."""
  name = _SWEPT[solver]
  values = np.atleast_1d(np.asarray(options[name], float))
  if len(values) == 1:
    return {**options, name: float(values[0])}, {}
  size = len(label) - max(1, round(_HELD_OUT * len(label)))
  if size < options['num_classes']:
    raise UserError(
      f'{len(label)} labels are too few to choose among {len(values)} values of {name}; give one '
      'value or raise label_fraction'
    )
  fitted = np.zeros(len(label), bool)
  fitted[stratified_subset(label, size, seed=split_seed)] = True
  heads = _fit(solver, h[fitted], label[fitted], {**options, name: values}, fit_seed)[0]
  correct, loss = score(heads, h[~fitted], label[~fitted])
  best = min(range(len(values)), key=lambda i: (-correct[i], loss[i]))
  return {**options, name: float(values[best])}, {
    f'{name}_candidates': values.tolist(),
    f'{name}_chosen_by': f'accuracy on {len(label) - size} held-out training labels',
  }


def _one_draw(
  solver: str,
  h: np.ndarray,
  label: np.ndarray,
  test_h: np.ndarray,
  test_label: np.ndarray,
  options: dict[str, Any],
  split_seed: int,
  fit_seed: int,
) -> list[tuple[float, dict[str, Any]]]:
  """Test accuracies, each with all hyper-parameters behind it."""
  options, how = _choose(solver, h, label, options, split_seed, fit_seed)
  used = {**options, **how}
  if solver == 'lbfgs':
    head, info = _fit(solver, h, label, options, fit_seed)
    value = float(score(head, test_h, test_label)[0])
    return [(value, {**used, 'iterations': int(info['iterations'])})]
  _, curve = _fit(solver, h, label, {**options, 'watch': (test_h, test_label)}, fit_seed)
  used['batch_size'] = min(options['batch_size'], len(h))
  best = int(np.argmax(curve))
  return [
    (float(curve[-1]), {**used, 'selection': 'last', 'epoch': len(curve)}),
    (float(curve[best]), {**used, 'selection': 'best_on_test', 'epoch': best + 1}),
  ]


def _fit(
  solver: str, h: np.ndarray, label: np.ndarray, options: dict[str, Any], seed: int
) -> tuple[Head, Any]:
  if solver == 'sgd':
    options = {**options, 'seed': seed}
  return _FIT[solver](h, label, **options)
