"""Linear evaluation of frozen features, with all labels or a few."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from clr_jax.core.errors import UserError
from clr_jax.evaluation.probing.features import Features
from clr_jax.evaluation.probing.linear_settings import FIT, SWEPT, Settings, settings
from clr_jax.evaluation.probing.logistic import Head, score
from clr_jax.evaluation.probing.subsets import labeled_subset, stratified_subset
from clr_jax.ops.similarity import unit
from clr_jax.rundir.results import Measurement

Examples = tuple[np.ndarray, np.ndarray]  # features, labels
Outcome = tuple[float, dict[str, Any]]  # test accuracy, what it depends on
_HELD_OUT = 0.2  # of the labels, to choose among the values of a sweep


def linear(
  train: Features,
  test: Features,
  *,
  preset: str | None = None,
  solver: str | None = None,
  label_fraction: float | Sequence[float] = 1.0,
  draws: int = 1,
  seed: int = 0,
  normalise: str | None = None,
  standardise: bool | None = None,
  held_out: float = 0.0,
  features: Literal['trained', 'untrained', 'pixels'] = 'trained',
  **options: Any,
) -> list[Measurement]:
  """Top-1 test accuracy, in [0, 1], of a linear classifier on frozen features.

  Compare trained, untrained and pixel features by calls that differ in the features only: the
  labeled subsets depend on the labels, the fraction, the seed and the draw. Everything that was
  used is in `params` of the measurement.

  Args:
    train, test: features of `extract` or `pixels`; `test` is used for nothing but the accuracy.
      For SGD `train.h` may be [K, N, F], see `fit_sgd`.
    preset: a source's protocol (`PRESETS`): other defaults of solver, normalise and the options.
    solver: 'lbfgs' (default without a preset), logistic regression to convergence (`fit_lbfgs`;
      l2 = 1 is scikit-learn's C = 1, on standardised features a safe choice from one label a class
      to all); 'sgd' (`fit_sgd`), which gives two measurements a draw, `selection` 'last' (the last
      epoch: the number to report) and 'best_on_test' (the best epoch on the test set, as the
      report's and the robustness document's code print: optimistic), and with `held_out` a third,
      'best_on_held_out' (the epoch, and the value of a sweep, that is best on the labels held out).
    label_fraction: the share of the training labels used, in (0, 1], or several shares. Subsets
      are class-stratified (`stratified_subset`).
    draws: random subsets per fraction; where nothing is random (all labels, L-BFGS, one l2), one.
    seed: of subsets, held-out splits, initial weights and batches.
    normalise: of the features. 'none'; 'l2', to length 1; 'standardise', to mean 0 and standard
      deviation 1 of *all* training features, labeled or not (no label enters). Default:
      'standardise' for 'lbfgs', 'none' for 'sgd' (the report's protocol).
    standardise: True is normalise='standardise', False is 'none'.
    held_out: the share of the labels that are never fitted and choose instead, in [0, 1); the
      report's 40k of 50k is .2. 0: all labels are fitted.
    features: which features these are, for the record.
    options: hyper-parameters of the solver. Several values of `l2` (lbfgs), `base_lr` or
      `weight_decay` (sgd) are fitted side by side and compared on held-out labels, by accuracy,
      then by cross-entropy. With held_out=0 these are 20 % of the labels, and the best value is
      fitted again to all.

  Raises:
    UserError: features without labels, a class of the test set that has no training example, a
      fraction with fewer labels than classes, an unknown preset, solver or option.
  """
  chosen = settings(
    preset=preset,
    solver=solver,
    normalise=normalise,
    standardise=standardise,
    held_out=held_out,
    **options,
  )
  amounts = [{'label_fraction': f} for f in np.atleast_1d(label_fraction).tolist()]
  return list(
    measure_subsets(
      train, test, amounts, chosen, protocol='linear', draws=draws, seed=seed, features=features
    )
  )


# ---------------------------------------------------------------- draws
def measure_subsets(
  train: Features,
  test: Features,
  amounts: Iterable[Mapping[str, Any]],
  chosen: Settings,
  *,
  protocol: str,
  draws: int,
  seed: int,
  features: Literal['trained', 'untrained', 'pixels'],
) -> Iterator[Measurement]:
  """Measurements of `draws` subsets for each amount of labels, one by one.

  Args:
    amounts: arguments of `labeled_subset`, which become `params`.
    chosen: how to fit.
    protocol: for the record.

  Raises:
    UserError: see `linear`.
  """
  if draws < 1:
    raise UserError(f'draws={draws} must be at least 1')
  classes, train_label, test_label = _class_indices(train, test)
  if np.ndim(train.h) == 3 and chosen.solver == 'lbfgs':
    raise UserError('augmented copies are for the epochs of SGD: set solver=sgd or a preset')
  options = {**chosen.options, 'num_classes': len(classes)}
  chosen = chosen._replace(options=options)
  train_h, test_h = _normalised(train.h, test.h, chosen.normalise)
  record = {'solver': chosen.solver, 'seed': seed, 'normalise': chosen.normalise}
  if chosen.preset:
    record['preset'] = chosen.preset
  for amount in amounts:
    for draw in range(draws):
      start = time.perf_counter()
      rows = labeled_subset(train_label, **amount, seed=seed, draw=draw)
      _, *seeds = np.random.SeedSequence([seed, draw]).generate_state(3).tolist()
      outcomes = _one_draw(
        chosen, train_h[..., rows, :], train_label[rows], (test_h, test_label), *seeds
      )
      seconds = time.perf_counter() - start
      subset = {**amount, 'num_labels': len(rows), 'draw': draw}
      for value, used in outcomes:
        params = {**record, **subset, **used}
        yield Measurement('top1', value, protocol, params, features, seconds)
      if len(rows) == len(train_label) and not chosen.random:
        break


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


def _normalised(train: np.ndarray, test: np.ndarray, how: str) -> tuple[np.ndarray, np.ndarray]:
  if how == 'none':
    return train, test
  if how == 'l2':
    return np.asarray(unit(jnp.asarray(train))), np.asarray(unit(jnp.asarray(test)))
  examples = tuple(range(train.ndim - 1))
  mean, std = train.mean(examples, dtype=np.float64), train.std(examples, dtype=np.float64)
  scale = 1 / np.where(std > 1e-6 * np.abs(mean), std, np.inf)  # a constant feature becomes 0
  mean, scale = mean.astype(train.dtype), scale.astype(train.dtype)
  return (train - mean) * scale, (test - mean) * scale


# ---------------------------------------------------------------- one draw
def _one_draw(
  chosen: Settings,
  h: np.ndarray,
  label: np.ndarray,
  test: Examples,
  split_seed: int,
  fit_seed: int,
) -> list[Outcome]:
  """Test accuracies, each with all hyper-parameters behind it."""
  candidates, how = chosen.candidates, {}
  held = np.zeros(len(label), bool)
  if chosen.held_out or len(candidates) > 1:
    held = _held_out(chosen, label, split_seed)
    how = _how(candidates, int(held.sum()))
  fitted, held_set = (h[..., ~held, :], label[~held]), None
  if held.any():  # of augmented copies the first one
    held_set = ((h if h.ndim == 2 else h[0])[held], label[held])
  if held_set and not chosen.held_out:
    heads, _ = _fit(chosen, candidates, fitted, fit_seed)
    candidates = [candidates[_best(heads, held_set)]]
    fitted, held_set = (h, label), None
  finish = _sgd_outcomes if chosen.solver == 'sgd' else _lbfgs_outcomes
  if chosen.held_out:
    how = {**how, 'held_out': chosen.held_out}
  return [
    (value, {**chosen.options, **used, **how})
    for value, used in finish(chosen, candidates, fitted, held_set, test, fit_seed)
  ]


def _held_out(chosen: Settings, label: np.ndarray, seed: int) -> np.ndarray:
  """[N] bool: the labels that choose."""
  size = num_fitted(chosen, len(label), chosen.options['num_classes'])
  held = np.ones(len(label), bool)
  held[stratified_subset(label, size, seed=seed)] = False
  return held


def num_fitted(chosen: Settings, num_labels: int, num_classes: int) -> int:
  """How many of the labels are fitted before something is chosen by the others.

  Raises:
    UserError: fewer than one for each class.
  """
  if not chosen.held_out and len(chosen.candidates) == 1:
    return num_labels
  size = num_labels - max(1, round((chosen.held_out or _HELD_OUT) * num_labels))
  if size < num_classes:
    raise UserError(
      f'{num_labels} labels are too few to choose by some of them; give one value of '
      f'{" and ".join(SWEPT[chosen.solver])} and no held_out, or more labels'
    )
  return size


def _how(candidates: list[dict[str, float]], num_held_out: int) -> dict[str, Any]:
  """What is recorded of a choice among values."""
  values = {name: list(dict.fromkeys(c[name] for c in candidates)) for name in candidates[0]}
  how = {}
  for name, several in values.items():
    if len(several) > 1:
      how[f'{name}_candidates'] = several
      how[f'{name}_chosen_by'] = f'accuracy on {num_held_out} held-out training labels'
  return how


def _best(heads: Head, held_set: Examples) -> int:
  """The position of the candidate that is best on the labels held out."""
  correct, loss = score(heads, *held_set)
  return min(range(len(correct)), key=lambda i: (-correct[i], loss[i]))


def _lbfgs_outcomes(
  chosen: Settings,
  candidates: list[dict[str, float]],
  fitted: Examples,
  held_set: Examples | None,
  test: Examples,
  seed: int,
) -> list[Outcome]:
  heads, info = _fit(chosen, candidates, fitted, seed)
  best = _best(heads, held_set) if held_set else 0
  value = float(np.atleast_1d(score(heads, *test)[0])[best])
  iterations = int(np.atleast_1d(info['iterations'])[best])
  return [(value, {**candidates[best], 'iterations': iterations})]


def _sgd_outcomes(
  chosen: Settings,
  candidates: list[dict[str, float]],
  fitted: Examples,
  held_set: Examples | None,
  test: Examples,
  seed: int,
) -> list[Outcome]:
  watch = (test, held_set) if held_set else (test,)
  heads, curves = _fit(chosen, candidates, fitted, seed, watch=watch)
  on_test, *on_held = (curve.reshape(len(candidates), -1) for curve in curves)
  last = _best(heads, held_set) if held_set and len(candidates) > 1 else 0
  picks = {
    'last': (last, on_test.shape[1] - 1),
    'best_on_test': (last, int(np.argmax(on_test[last]))),
  }
  if on_held:
    row, epoch = np.unravel_index(np.argmax(on_held[0]), on_held[0].shape)
    picks['best_on_held_out'] = (int(row), int(epoch))
  used = {'batch_size': min(chosen.options['batch_size'], len(fitted[1]))}
  return [
    (
      float(on_test[row, epoch]),
      {**candidates[row], **used, 'selection': selection, 'epoch': epoch + 1},
    )
    for selection, (row, epoch) in picks.items()
  ]


def _fit(
  chosen: Settings,
  candidates: list[dict[str, float]],
  examples: Examples,
  seed: int,
  **more: Any,
) -> tuple[Head, Any]:
  """The head of one candidate, or those of several on a leading axis."""
  swept = candidates[0]
  if len(candidates) > 1:
    swept = {name: [c[name] for c in candidates] for name in candidates[0]}
  if chosen.solver == 'sgd':
    more = {**more, 'seed': seed}
  return FIT[chosen.solver](*examples, **{**chosen.options, **swept, **more})
