"""Fine-tuning of the whole network on all or a few labels, and the same from scratch."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from absl import logging

from clr_jax import data
from clr_jax.augment import policies
from clr_jax.core.errors import UserError
from clr_jax.core.names import check_name
from clr_jax.core.types import Params, State
from clr_jax.evaluation.probing.sets import Sets
from clr_jax.evaluation.probing.subject import Subject
from clr_jax.evaluation.probing.subsets import labeled_subset, stratified_subset
from clr_jax.evaluation.probing.whole_network import (
  NORMALISATIONS,
  SCHEDULES,
  Recipe,
  Tuned,
  backbone_weights,
  fit,
)
from clr_jax.rundir.results import Measurement

_OF_SCHEDULE = {'warmup_epochs': 'cosine', 'milestones': 'step', 'factor': 'step'}
_TESTS = 10  # of one training, at most, unless test_every is given
_NOT_MIRRORED = ('digits', 'mnist', 'emnist', 'kmnist', 'omniglot', 'svhn_cropped')
_FEW = 500  # labels, for which the robustness document lowers the baseline's rate

# What an option is where it is None. None here: see `_recipe`.
_SMALL = {
  'epochs': None,
  'batch_size': None,
  'momentum': 0.9,
  'weight_decay': 1e-4,
  'schedule': 'cosine',
  'milestones': (),
  'factor': 0.2,
  'warmup_epochs': 1.0,
  'head_layers': 1,
  'normalise': 'none',
  'augment': 'auto',
  'balanced': True,
}
PRESETS: Mapping[str, Mapping[str, Any]] = {
  # This library's, for some thousand small images on a CPU.
  'small': {**_SMALL, 'backbone_lr': 0.02, 'head_lr': 0.1},
  'small_supervised': {**_SMALL, 'backbone_lr': 0.1, 'head_lr': 0.1},
  # The robustness document's code, with a gradient for the encoder (its text; `detach_features` is
  # its code): Linear - ReLU - Linear on unit features, one rate for all, x 0.2 at epoch 60 of 100.
  'robustness': {
    'epochs': 100,
    'batch_size': 128,
    'backbone_lr': 0.8,
    'head_lr': 0.8,
    'momentum': 0.9,
    'weight_decay': 0.0,
    'schedule': 'step',
    'milestones': (60,),
    'factor': 0.2,
    'warmup_epochs': 0.0,
    'head_layers': 2,
    'normalise': 'l2',
    'augment': 'crop_flip',
    'balanced': False,
  },
  # Its supervised baseline at the same labels: rate 0.1, but 0.01 for 500 labels (and fewer).
  'robustness_supervised': {
    'epochs': 200,
    'batch_size': 128,
    'backbone_lr': None,
    'head_lr': None,
    'momentum': 0.9,
    'weight_decay': 5e-4,
    'schedule': 'step',
    'milestones': (60, 120, 160),
    'factor': 0.2,
    'warmup_epochs': 0.0,
    'head_layers': 1,
    'normalise': 'none',
    'augment': 'crop_flip',
    'balanced': False,
  },
}
SWEPT: Mapping[str, tuple[Any, ...]] = {
  'label_fraction': (1.0,),
  'per_class': (None,),
  'draw': (0,),
  'backbone_lr': (None,),
  'head_lr': (None,),
}


def finetune(
  subject: Subject,
  *,
  features: Literal['trained', 'untrained', 'pixels'] = 'trained',
  preset: str | None = None,
  label_fraction: float = 1.0,
  per_class: int | None = None,
  balanced: bool | None = None,
  draw: int = 0,
  seed: int = 0,
  epochs: int | None = None,
  batch_size: int | None = None,
  backbone_lr: float | None = None,
  head_lr: float | None = None,
  momentum: float | None = None,
  weight_decay: float | None = None,
  schedule: str | None = None,
  milestones: tuple[float, ...] | None = None,
  factor: float | None = None,
  warmup_epochs: float | None = None,
  head_layers: int | None = None,
  normalise: str | None = None,
  detach_features: bool = False,
  augment: str | None = None,
  held_out: float = 0.0,
  test_every: int | None = None,
) -> list[Measurement]:
  """Top-1 test accuracy, in [0, 1], of the backbone trained with a new classifier on labels.

  SGD with cross-entropy, one augmented view an image. BatchNorm uses the batch's statistics in
  training and the running ones in every test. The network given is not changed. Measurements:
  `selection` 'last' (the last epoch: the number to report), 'best_on_test' (the best tested epoch
  on the test set: optimistic) and, with `held_out`, 'best_on_held_out'. `arrays` of the first has
  the mean training loss of each epoch ('loss') and the accuracies ('top1') after 'epoch'.

  Args:
    subject: a network and the labeled sets. `represent`'s backbone is the one that is trained.
    features: 'trained' starts from the checkpoint, 'untrained' from the run's weights of step 0:
      the supervised baseline at the same labels.
    preset: key of PRESETS; None = 'small' for a trained and 'small_supervised' for an untrained
      network. It gives all options that are None.
    label_fraction, per_class, balanced, draw: see `labeled_subset`; few-label evaluation has the
      same labels.
    seed: of subsets, the classifier's weights, order and augmentation, together with the draw.
    epochs: None in both: as many as make 150 steps, at least 15.
    batch_size: at most the number of labels, and a multiple of the devices. None in both: an eighth
      of the labels down to a power of two, from 8 to 64.
    backbone_lr, head_lr: peak rates; 0 keeps the backbone's parameters to the bit.
    momentum, weight_decay: of SGD; biases and normalisation decay too.
    schedule: 'cosine' (to 0, after `warmup_epochs` of linear warm-up), 'step' (times `factor` at
      the epochs `milestones`) or 'constant'.
    head_layers: 1, Linear; 2, Linear - ReLU - Linear of the features' width.
    normalise: 'l2', the classifier sees unit features; 'none', as they are.
    detach_features: no gradient reaches the backbone, of which only the BatchNorm statistics
      change: what the robustness document's code does.
    augment: a policy of `clr_jax.augment` with its defaults (crop_flip pads an eighth of the side);
      'auto' is crop_flip, but affine for digits and letters, which must not be mirrored, and for a
      run's own data if it was trained with affine.
    held_out: share of the labels that is not trained on, to choose the epoch by.
    test_every: epochs between tests; None = so many that there are at most 10.

  Raises:
    UserError: what `check` refuses, fewer labels than classes or devices, a method that keeps its
      backbone elsewhere.
  """
  options = {
    k: v for k, v in locals().items() if k not in ('subject', 'features') and v is not None
  }
  start = time.perf_counter()
  check(subject.sets, options)
  train, test = subject.sets
  label = train.labels()
  assert test is not None and label is not None  # refused before
  preset = preset or ('small' if features == 'trained' else 'small_supervised')
  options = {**PRESETS[preset], **options}
  rows = labeled_subset(
    label,
    label_fraction=label_fraction if per_class is None else None,
    per_class=per_class,
    balanced=options['balanced'],
    seed=seed,
    draw=draw,
  )
  _, fit_seed, split_seed = np.random.SeedSequence([seed, draw]).generate_state(3).tolist()
  fitted, held = _split(label, rows, held_out, split_seed)
  recipe = _recipe(options, len(fitted), subject)
  test_every = test_every or math.ceil(recipe.epochs / _TESTS)
  tuned = fit(
    subject.experiment,
    _first_weights(subject, features),
    train if len(fitted) == train.num_examples else data.SubsetSource(train, fitted),
    [test, *([data.SubsetSource(train, held)] if len(held) else [])],
    recipe,
    test_every=test_every,
    seed=fit_seed % 2**31,
  )
  labels = {
    'label_fraction': len(rows) / len(label) if per_class else label_fraction,
    'per_class': per_class,
    'num_labels': len(rows),
    'balanced': options['balanced'],
    'draw': draw,
    'seed': seed,
    'held_out': held_out,
  }
  params = {'preset': preset, **labels, **recipe._asdict(), 'test_every': test_every}
  return _measurements(tuned, params, features, time.perf_counter() - start)


def _measurements(
  tuned: Tuned,
  params: Mapping[str, Any],
  features: Literal['trained', 'untrained', 'pixels'],
  seconds: float,
) -> list[Measurement]:
  """The test accuracy of several epochs; the curves are kept beside the first."""
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
      'finetune',
      {**params, 'selection': selection, 'epoch': tuned.epoch[at]},
      features,
      seconds,
      behind if selection == 'last' else None,
    )
    for selection, at in selected.items()
  ]


def check(sets: Sets, options: Mapping[str, Any]) -> None:
  """UserError for options that cannot be, before anything is loaded; None is always allowed."""
  sets.refuse_other_classes()
  given = {key: value for key, value in options.items() if value is not None}
  for key, names in (
    ('preset', PRESETS),
    ('schedule', SCHEDULES),
    ('augment', ('auto', *policies.names())),
    ('normalise', NORMALISATIONS),
  ):
    if key in given:
      check_name(names, given[key], f'finetune {key}')
  if given.get('head_layers', 1) not in (1, 2):
    raise UserError(f'finetune: head_layers={given["head_layers"]} must be 1 or 2')
  for key, least in (
    ('epochs', 1),
    ('batch_size', 1),
    ('test_every', 1),
    ('per_class', 1),
    ('draw', 0),
    ('seed', 0),
    ('backbone_lr', 0),
    ('head_lr', 0),
    ('momentum', 0),
    ('weight_decay', 0),
    ('warmup_epochs', 0),
    ('held_out', 0),
  ):
    if not least <= given.get(key, least) < math.inf:
      raise UserError(f'finetune: {key}={given[key]} must be finite and at least {least}')
  if given.get('held_out', 0) >= 1:
    raise UserError(f'finetune: held_out={given["held_out"]} must be a share below 1')
  preset = PRESETS[given.get('preset', 'small')]
  schedule = given.get('schedule', preset['schedule'])
  for key, needed in _OF_SCHEDULE.items():
    if key in given and schedule != needed:
      raise UserError(f'finetune: {key} does nothing with schedule={schedule}: leave it out')
  if schedule == 'step' and not given.get('milestones', preset['milestones']):
    raise UserError('finetune: schedule=step needs milestones, the epochs of its steps')
  if given.get('per_class') and given.get('label_fraction', 1.0) != 1:
    raise UserError('finetune: give label_fraction or per_class, not both')
  _check_labels(sets, given, preset)


def _check_labels(sets: Sets, given: Mapping[str, Any], preset: Mapping[str, Any]) -> None:
  """UserError where the labels do not have the amount that is asked for."""
  label = sets.train.labels()
  if label is None:
    return  # a run without labels is not evaluated at its end
  per_class = given.get('per_class')
  rows = labeled_subset(
    label,
    label_fraction=given.get('label_fraction') if per_class is None else None,
    per_class=per_class,
    balanced=given.get('balanced', preset['balanced']),
  )
  _split(label, rows, given.get('held_out', 0.0), 0)


def _first_weights(subject: Subject, features: str) -> tuple[Params, State]:
  """Those of step 0 need no BatchNorm statistics of images: training makes them."""
  if features == 'trained':
    return backbone_weights(subject.experiment, *subject.weights)
  first = subject.experiment.init()
  return backbone_weights(subject.experiment, first.params, first.state)


def _split(
  label: np.ndarray, rows: np.ndarray, held_out: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
  """Positions to train on, with an example of each class, and positions held out."""
  if not held_out:
    return rows, rows[:0]
  size = len(rows) - max(1, round(held_out * len(rows)))
  fitted = np.zeros(len(rows), bool)
  fitted[stratified_subset(label[rows], size, seed=seed)] = True
  return rows[fitted], rows[~fitted]


def _recipe(options: Mapping[str, Any], labels: int, subject: Subject) -> Recipe:
  """All hyper-parameters, also those that depend on the number of labels."""
  values = {key: options[key] for key in Recipe._fields}
  unused = [key for key, needed in _OF_SCHEDULE.items() if values['schedule'] != needed]
  values['milestones'] = tuple(map(float, values['milestones']))
  values |= {key: () if key == 'milestones' else 0.0 for key in unused}
  if values['augment'] == 'auto':
    config, name = subject.experiment.config, subject.sets.train.name
    own = name == config.data.name and config.augment.name == 'affine'
    letters = name.partition(':')[0].partition('/')[0] in _NOT_MIRRORED
    values['augment'] = 'affine' if own or letters else 'crop_flip'
  for key in ('backbone_lr', 'head_lr'):
    if values[key] is None:
      values[key] = 0.01 if labels <= _FEW else 0.1
  batch_size = values['batch_size']
  if batch_size is None:
    batch_size = min(max(2 ** int(math.log2(max(labels / 8, 1))), 8), 64)
  devices = subject.experiment.mesh.size
  values['batch_size'] = min(batch_size, labels) // devices * devices
  if not values['batch_size']:
    raise UserError(
      f'{min(batch_size, labels)} labels in a batch do not share out over {devices} devices: use '
      'more labels, a larger batch_size or fewer devices'
    )
  if values['epochs'] is None:
    values['epochs'] = max(15, math.ceil(150 / (labels // values['batch_size'])))
  return Recipe(**values)
