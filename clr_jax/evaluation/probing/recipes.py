"""Recipes of fine-tuning: hyper-parameters and presets, with defaults for numbers of labels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from clr_jax.augment import policies
from clr_jax.core.bounds import (
  BelowOne,
  Count,
  EpochCount,
  Epochs,
  Milestones,
  NonNegative,
  RateFactor,
  Share,
)
from clr_jax.core.errors import UserError
from clr_jax.core.options import SEVERAL, OneOf, OnlyWith
from clr_jax.evaluation.probing.finetuning import Recipe
from clr_jax.evaluation.probing.subject import Subject

_NOT_MIRRORED = ('digits', 'mnist', 'emnist', 'kmnist', 'omniglot', 'svhn_cropped')
_FEW = 500  # labels up to which the robustness document lowers the baseline's rate

PRESETS: Mapping[str, Mapping[str, Any]] = {
  # Presets of this library for a few thousand small images on a CPU: the defaults of `make_recipe`.
  'small': {'balanced': True},
  'small_supervised': {'backbone_lr': 0.1, 'balanced': True},
  # MoCo's transfer to iNaturalist 2018 (He et al. 2020, appendix, as recalled), for networks and
  # images of ImageNet's kind.
  'moco_transfer': {
    'epochs': 100,
    'batch_size': 256,
    'backbone_lr': 0.025,
    'head_lr': 0.025,
    'momentum': 0.9,
    'weight_decay': 1e-4,
    'schedule': 'step',
    'milestones': (70, 90),
    'factor': 0.1,
    'warmup_epochs': 0.0,
    'head_layers': 1,
    'normalize': 'none',
    'augment': 'rrc_flip',
    'head': 'new',
    'layer_decay': 1.0,
    'balanced': True,
  },
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
    'normalize': 'l2',
    'augment': 'crop_flip',
    'head': 'new',
    'layer_decay': 1.0,
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
    'normalize': 'none',
    'augment': 'crop_flip',
    'head': 'new',
    'layer_decay': 1.0,
    'balanced': False,
  },
}


def make_recipe(
  subject: Subject,
  num_labels: int,
  *,
  epochs: EpochCount | None = None,
  batch_size: Count | None = None,
  backbone_lr: Annotated[NonNegative | None, SEVERAL] = 0.02,
  head_lr: Annotated[NonNegative | None, SEVERAL] = 0.1,
  momentum: BelowOne = 0.9,
  weight_decay: Annotated[NonNegative, SEVERAL] = 1e-4,
  schedule: Literal['cosine', 'tcl', 'step', 'constant'] = 'cosine',
  milestones: Annotated[Milestones, OnlyWith(schedule='step')] = (),
  factor: Annotated[RateFactor, OnlyWith(schedule='step')] = 0.2,
  warmup_epochs: Annotated[Epochs, OnlyWith(schedule='cosine')] = 1.0,
  head_layers: Literal[1, 2] = 1,
  normalize: Literal['none', 'l2'] = 'none',
  detach_features: bool = False,
  augment: Annotated[str, OneOf(('auto', 'own', *policies.names()))] = 'auto',
  head: Literal['new', 'own'] = 'new',
  layer_decay: Share = 1.0,
) -> Recipe:
  """Makes the recipe of one training; the defaults are the preset 'small'.

  Args:
    subject: the network and the labeled sets.
    num_labels: labels to train on.
    epochs: number of epochs; None = 150 steps, but at least 15 epochs.
    batch_size: images per step, at most the number of labels, rounded down to a multiple of the
      devices. None = an eighth of the labels, rounded down to a power of two, from 8 to 64.
    backbone_lr, head_lr: peak rates; 0 keeps the backbone's parameters to the bit. None = 0.1, or
      0.01 for at most 500 labels.
    momentum, weight_decay: options of SGD; biases and normalization decay, too.
    schedule: 'cosine' (to 0, after `warmup_epochs` of linear warm-up), 'tcl' (one epoch late, to a
      thousandth), 'step' (times `factor` at the epochs `milestones`) or 'constant'.
    milestones: epochs at which the rates are multiplied by factor, with schedule='step'.
    factor: multiplier of the rates at each of the milestones.
    warmup_epochs: epochs of linear warm-up, with schedule='cosine'.
    head_layers: 1 for Linear; 2 for Linear - ReLU - Linear of the features' width.
    normalize: 'l2' for unit features; 'none' for raw features.
    detach_features: stop the gradient to the backbone, of which only the BatchNorm statistics
      change, as in the robustness document's code.
    augment: a policy of `clr_jax.augment` with its defaults (crop_flip pads an eighth of the side);
      'auto' is crop_flip, but affine for digits and letters, which must not be mirrored, and for a
      run's own data if it was trained with affine; 'own' is the run's first view with its options.
    head: first weights of the classifier: 'new', or the run's 'own' classification head, with
      head_layers=1 and features as they are.
    layer_decay: factor of the backbone's rate from each block of a vision transformer to the one
      below, such as 0.65 (BEiT, https://arxiv.org/abs/2106.08254); 1 is off.

  Raises:
    UserError: a batch of fewer labels than devices; a layer decay for another backbone.
  """
  if layer_decay != 1 and not hasattr(subject.experiment.backbone, 'layer_factors'):
    raise UserError(
      f'{subject.experiment.config.model.name} has no blocks with rates of their own: leave '
      f'layer_decay at 1, or use a vision transformer'
    )
  usual_lr = 0.01 if num_labels <= _FEW else 0.1
  size = _batch_size(batch_size, num_labels, subject.experiment.mesh.size)
  return Recipe(
    epochs=epochs or max(15, math.ceil(150 / (num_labels // size))),
    batch_size=size,
    backbone_lr=usual_lr if backbone_lr is None else backbone_lr,
    head_lr=usual_lr if head_lr is None else head_lr,
    momentum=momentum,
    weight_decay=weight_decay,
    schedule=schedule,
    milestones=tuple(map(float, milestones)) if schedule == 'step' else (),
    factor=factor if schedule == 'step' else 0.0,
    warmup_epochs=warmup_epochs if schedule == 'cosine' else 0.0,
    head_layers=head_layers,
    normalize=normalize,
    detach_features=detach_features,
    augment=_policy(subject) if augment == 'auto' else augment,
    head=head,
    layer_decay=layer_decay,
  )


def _batch_size(asked: int | None, num_labels: int, devices: int) -> int:
  usual = min(max(2 ** int(math.log2(max(num_labels / 8, 1))), 8), 64)
  size = min(asked or usual, num_labels)
  if size < devices:
    raise UserError(
      f'a batch of {size} labels cannot be split across {devices} devices: use more labels, a '
      'larger batch_size or fewer devices'
    )
  return size // devices * devices


def _policy(subject: Subject) -> str:
  """Augmentation for 'auto'."""
  config, name = subject.experiment.config, subject.sets.train.name
  own = name == config.data.name and config.augment.name == 'affine'
  letters = name.partition(':')[0].partition('/')[0] in _NOT_MIRRORED
  return 'affine' if own or letters else 'crop_flip'
