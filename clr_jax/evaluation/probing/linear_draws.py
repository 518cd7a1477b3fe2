"""Linear layers fitted to draws of labeled subsets, and their test accuracies."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from clr_jax.core.errors import UserError
from clr_jax.evaluation.probing.features import Features
from clr_jax.evaluation.probing.linear_settings import FIT, Settings
from clr_jax.evaluation.probing.logistic import Head, score
from clr_jax.evaluation.probing.normalization import normalized
from clr_jax.evaluation.probing.subject import Kind
from clr_jax.evaluation.probing.subsets import labeled_subset, stratified_subset
from clr_jax.rundir.results import Measurement

Examples = tuple[np.ndarray, np.ndarray]  # features, labels
Outcome = tuple[float, dict[str, Any]]  # test accuracy, its parameters


def measure_subsets(
  train: Features,
  test: Features,
  amounts: Iterable[Mapping[str, Any]],
  chosen: Settings,
  *,
  protocol: str,
  draws: int,
  seed: int,
  features: Kind,
) -> Iterator[Measurement]:
  """Yields measurements of `draws` subsets for each amount of labels.

  Args:
    amounts: arguments of `labeled_subset`, which become `params`.
    chosen: settings of the fit.
    protocol: name of the protocol, for the record.

  Raises:
    UserError: see `linear`.
  """
  classes, train_label, test_label = _class_indices(train, test)
  if np.ndim(train.h) == 3 and chosen.solver == 'lbfgs':
    raise UserError('augmented copies are for the epochs of SGD: set solver=sgd or a preset')
  options = {**chosen.options, 'num_classes': len(classes)}
  chosen = chosen._replace(options=options)
  train_h, test_h = normalized(train.h, test.h, chosen.normalize)
  record = {'solver': chosen.solver, 'seed': seed, 'normalize': chosen.normalize}
  if chosen.preset:
    record['preset'] = chosen.preset
  for amount in amounts:
    for draw in range(draws):
      start = time.perf_counter()
      rows = labeled_subset(train_label, **amount, seed=seed, draw=draw)
      _, *seeds = np.random.SeedSequence([seed, draw]).generate_state(3).tolist()
      outcomes = _one_draw(
        chosen, _rows(train_h, rows), train_label[rows], (test_h, test_label), *seeds
      )
      seconds = time.perf_counter() - start
      subset = {**amount, 'num_labels': len(rows), 'draw': draw}
      for value, used in outcomes:
        params = {**record, **subset, **used}
        yield Measurement('top1', value, protocol, params, features, seconds)
      if len(rows) == len(train_label) and not chosen.random:
        break


def _class_indices(train: Features, test: Features) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Classes of the training set, and the labels of both sets as positions among them."""
  if train.label is None or test.label is None:
    raise UserError('linear evaluation needs labels; give labeled data for training and test')
  classes, train_label = np.unique(train.label, return_inverse=True)
  if len(unseen := np.setdiff1d(test.label, classes)):
    raise UserError(
      f'class {unseen[0]} of the test set has no training example; use sets with the same classes'
    )
  return classes, train_label, np.searchsorted(classes, test.label)


# ---------------------------------------------------------------- one draw
def _one_draw(
  chosen: Settings,
  h: np.ndarray,
  label: np.ndarray,
  test: Examples,
  split_seed: int,
  fit_seed: int,
) -> list[Outcome]:
  """Test accuracies with all their hyper-parameters."""
  candidates, how = chosen.candidates, {}
  held = np.zeros(len(label), bool)
  if chosen.held_out or len(candidates) > 1:
    held = _held_out(chosen, label, split_seed)
    how = _how(candidates, int(held.sum()))
  fitted, held_set = (_rows(h, np.flatnonzero(~held)), label[~held]), None
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


def _rows(h: np.ndarray, rows: np.ndarray) -> np.ndarray:
  """h[..., rows, :] of different, sorted rows; h itself if these are all: 10 GB of ImageNet's."""
  return h if len(rows) == h.shape[-2] else h[..., rows, :]


def _held_out(chosen: Settings, label: np.ndarray, seed: int) -> np.ndarray:
  """Mask [N] of the held-out labels."""
  size = chosen.num_fitted(len(label), chosen.options['num_classes'])
  held = np.ones(len(label), bool)
  held[stratified_subset(label, size, seed=seed)] = False
  return held


def _how(candidates: list[dict[str, float]], num_held_out: int) -> dict[str, Any]:
  """Record of a selection among values."""
  values = {name: list(dict.fromkeys(c[name] for c in candidates)) for name in candidates[0]}
  how = {}
  for name, several in values.items():
    if len(several) > 1:
      how[f'{name}_candidates'] = several
      how[f'{name}_chosen_by'] = f'accuracy on {num_held_out} held-out training labels'
  return how


def _best(heads: Head, held_set: Examples) -> int:
  """Position of the candidate that is best on held-out labels."""
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
  """Fits the head of one candidate, or of several on a leading axis."""
  swept = candidates[0]
  if len(candidates) > 1:
    swept = {name: [c[name] for c in candidates] for name in candidates[0]}
  if chosen.solver == 'sgd':
    more = {**more, 'seed': seed}
  return FIT[chosen.solver](*examples, **{**chosen.options, **swept, **more})
