"""Fine-tuning of the whole network on all or few labels, or training from scratch."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from absl import logging

from clr_jax import data
from clr_jax.core.bounds import BelowOne, Count, CountOrZero, Seed, Share
from clr_jax.core.errors import UserError
from clr_jax.core.options import SEVERAL, OneOf, options_of, takes_options_of
from clr_jax.core.types import Params, State
from clr_jax.evaluation.probing.finetuning import (
  Recipe,
  Tuned,
  backbone_weights,
  fit,
  own_classifier,
)
from clr_jax.evaluation.probing.presets import with_preset
from clr_jax.evaluation.probing.recipes import PRESETS, make_recipe
from clr_jax.evaluation.probing.sets import Sets
from clr_jax.evaluation.probing.subject import Kind, Subject
from clr_jax.evaluation.probing.subsets import labeled_subset, stratified_subset
from clr_jax.rundir.results import Measurement

NEEDS_NETWORK = True
_TESTS = 10  # largest number of tests per training by default


@takes_options_of(make_recipe)
def measure(
  subject: Subject,
  *,
  preset: Annotated[str | None, OneOf(PRESETS)] = None,
  label_fraction: Annotated[Share, SEVERAL] = 1.0,
  per_class: Annotated[Count | None, SEVERAL] = None,
  balanced: bool | None = None,
  draw: Annotated[CountOrZero, SEVERAL] = 0,
  seed: Seed = 0,
  held_out: BelowOne = 0.0,
  test_every: Count | None = None,
  **options: Any,
) -> list[Measurement]:
  """Measures top-1 test accuracy, in [0, 1], after training the backbone with a new classifier.

  A trained network starts from the checkpoint, an untrained one from the run's weights of step 0,
  which is the supervised baseline with the same labels. The given network is not modified.
  `selection` is 'last' (the last epoch: the number to report), 'best_on_test' (the best tested
  epoch on the test set: too high) and, with `held_out`, 'best_on_held_out'. `arrays` of the first
  has the mean training loss of each epoch ('loss') and the accuracies ('top1') after 'epoch'.

  Args:
    subject: a network, whose backbone in `represent` is trained, and the labeled sets.
    preset: other defaults of the options; None = 'small', or 'small_supervised' if untrained.
    label_fraction: share of the training labels used, in (0, 1], or several shares.
    per_class: number of labels per class instead of a share, or several numbers.
    balanced: True for equal numbers per class or stratified shares (see `labeled_subset`); False
      for random labels; None = as in the preset.
    draw: number of the random subset, or several numbers.
    seed: RNG seed, together with the draw, of subset, classifier weights, order and augmentation.
    held_out: share of the labels held out from training, to choose the epoch.
    test_every: epochs between tests; None = at most 10 tests.
    options: hyper-parameters, see `make_recipe`.

  Raises:
    UserError: fewer labels than classes or devices, or a method without a 'backbone'.
  """
  start = time.perf_counter()
  preset = preset or ('small' if subject.is_pretrained else 'small_supervised')
  amount = {'label_fraction': None if per_class else label_fraction, 'per_class': per_class}
  used = {'balanced': _balanced(preset, balanced), 'draw': draw, 'seed': seed}
  fitted, held, fit_seed = _choose(subject.sets, held_out, **amount, **used)
  recipe = make_recipe(subject, len(fitted), **_resolved(preset, options))
  test_every = test_every or math.ceil(recipe.epochs / _TESTS)
  tuned = _train(subject, recipe, fitted, held, test_every=test_every, seed=fit_seed)
  num_labels = len(fitted) + len(held)
  share = num_labels / subject.sets.train.num_examples if per_class else label_fraction
  labels = {'label_fraction': share, 'per_class': per_class, 'num_labels': num_labels, **used}
  params = {'preset': preset, **labels, 'held_out': held_out, **recipe._asdict()}
  params['test_every'] = test_every
  return measurements(tuned, params, subject.kind, time.perf_counter() - start)


def check(sets: Sets, options: Mapping[str, Any]) -> None:
  """Raises a UserError for conflicting options and for missing labels."""
  preset, known = options.get('preset') or 'small', options_of(make_recipe)
  _resolved(preset, {k: v for k, v in options.items() if k in known})
  per_class, fraction = options.get('per_class'), options.get('label_fraction', 1.0)
  if per_class and fraction != 1:
    raise UserError('finetune: give label_fraction or per_class, not both')
  if sets.train.labels() is not None:  # runs without labels are not evaluated at the end
    _choose(
      sets,
      options.get('held_out', 0.0),
      label_fraction=None if per_class else fraction,
      per_class=per_class,
      balanced=_balanced(preset, options.get('balanced')),
    )


def _balanced(preset: str, given: bool | None) -> bool:
  return PRESETS[preset]['balanced'] if given is None else given


def _resolved(preset: str, given: Mapping[str, Any]) -> dict[str, Any]:
  """Options of `make_recipe` with the preset's values."""
  defaults = {k: v for k, v in PRESETS[preset].items() if k != 'balanced'}
  values = with_preset(make_recipe, defaults, given, what='finetune')
  if values['schedule'] == 'step' and not values['milestones']:
    raise UserError('finetune: schedule=step needs milestones, the epochs of its steps')
  epochs, warmup = values.get('epochs'), values.get('warmup_epochs', 0.0)
  if values['schedule'] == 'cosine' and epochs and warmup > epochs:
    raise UserError(
      f'finetune: warmup_epochs={warmup} exceeds epochs={epochs}: lower it, or train longer'
    )
  if values['head'] == 'own' and (values['head_layers'] != 1 or values['normalize'] != 'none'):
    raise UserError("finetune: the run's own head is one layer: set head_layers=1, normalize=none")
  return values


def _choose(
  sets: Sets, held_out: float, *, seed: int = 0, draw: int = 0, **amount: Any
) -> tuple[np.ndarray, np.ndarray, int]:
  """Returns positions to train on (with all classes), held-out positions, and a seed for the fit.

  Args:
    amount: see `labeled_subset`.
  """
  label = sets.train.labels()
  assert label is not None  # refused before
  rows = labeled_subset(label, **amount, seed=seed, draw=draw)
  _, fit_seed, split_seed = np.random.SeedSequence([seed, draw]).generate_state(3).tolist()
  fitted = np.ones(len(rows), bool)
  if held_out:
    size = len(rows) - max(1, round(held_out * len(rows)))
    fitted[:] = False
    fitted[stratified_subset(label[rows], size, seed=split_seed)] = True
  return rows[fitted], rows[~fitted], fit_seed % 2**31


def _train(
  subject: Subject,
  recipe: Recipe,
  fitted: np.ndarray,
  held: np.ndarray,
  *,
  test_every: int,
  seed: int,
) -> Tuned:
  train, test = subject.sets
  assert test is not None  # refused before
  tested = [test, data.SubsetSource(train, held)] if len(held) else [test]
  some = train if len(fitted) == train.num_examples else data.SubsetSource(train, fitted)
  experiment, (params, state) = subject.experiment, _first_weights(subject)
  return fit(
    experiment,
    backbone_weights(experiment, params, state),
    some,
    tested,
    recipe,
    test_every=test_every,
    seed=seed,
    classifier=own_classifier(experiment, params) if recipe.head == 'own' else None,
  )


def _first_weights(subject: Subject) -> tuple[Params, State]:
  """Initial weights; those of step 0 need no BatchNorm statistics, which training computes."""
  if subject.is_pretrained:
    return subject.weights
  first = subject.experiment.init()
  return first.params, first.state


def measurements(
  tuned: Tuned,
  params: Mapping[str, Any],
  features: Kind,
  seconds: float,
  protocol: str = 'finetune',
) -> list[Measurement]:
  """Measurements of test accuracy for several epochs, the first with the training curves."""
  if not math.isfinite(tuned.loss[-1]):
    logging.warning('fine-tuning diverged (loss %s): lower backbone_lr, head_lr', tuned.loss[-1])
  names = ('top1', 'held_out_top1')
  scores = dict(zip(names, np.array(tuned.scores).T, strict=False))
  behind = {'epoch': np.array(tuned.epoch), 'loss': np.array(tuned.loss), **scores}
  selected = {'last': -1, 'best_on_test': int(scores['top1'].argmax())}
  if 'held_out_top1' in scores:
    selected['best_on_held_out'] = int(scores['held_out_top1'].argmax())
  return [
    Measurement(
      'top1',
      float(scores['top1'][at]),
      protocol,
      {**params, 'selection': selection, 'epoch': tuned.epoch[at]},
      features,
      seconds,
      behind if selection == 'last' else None,
    )
    for selection, at in selected.items()
  ]
