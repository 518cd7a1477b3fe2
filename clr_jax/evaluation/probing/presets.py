"""Linear evaluation protocols of the sources, as defaults of the options of `linear`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from clr_jax.core.options import OnlyWith, Option, check, options_of
from clr_jax.optim.schedules import check_milestones

# All are SGD on frozen features in inference mode. The protocol `linear_augmented` adds augmented
# training images. Every value may be overridden.
PRESETS: Mapping[str, Mapping[str, Any]] = {
  # The SogCLR report (second stage: 90 epochs, batch 1024, momentum SGD without weight decay) with
  # the code's rate, cosine per epoch. The report's 40k / 10k split: held_out=0.2.
  'sogclr': {
    'epochs': 90,
    'batch_size': 1024,
    'base_lr': 0.1,
    'momentum': 0.9,
    'weight_decay': 0.0,
  },
  # The thesis on TCL, self-supervised (appendix A.3): 100 epochs, cosine, a rate of 0.5 as it is,
  # batch 256.
  'tcl': {
    'epochs': 100,
    'batch_size': 256,
    'base_lr': 0.5,
    'scaling': 'none',
    'momentum': 0.9,
    'weight_decay': 0.0,
  },
  # The same, supervised (appendix A.1): 50 epochs, weight decay 1e-4, as many images a batch as for
  # CIFAR-10.
  'tcl_supervised': {
    'epochs': 50,
    'batch_size': 64,
    'base_lr': 0.5,
    'scaling': 'none',
    'momentum': 0.9,
    'weight_decay': 1e-4,
  },
  # solo-learn, offline, ImageNet-100: x 0.1 at 60 and 80. The rate is SimCLR's; others: Barlow
  # Twins 0.1, SwAV 0.15, BYOL, DINO, MoCo v3, NNCLR, VICReg 0.3, MoCo v2+, ReSSL 3, SimSiam 30.
  'solo_learn': {
    'epochs': 100,
    'batch_size': 256,
    'base_lr': 1.0,
    'schedule': 'step',
    'milestones': (60, 80),
    'factor': 0.1,
    'momentum': 0.9,
    'weight_decay': 0.0,
  },
  # google-research/simclr, README, CIFAR-10 (its cosine goes by step, and its head starts at 0).
  'simclr': {
    'epochs': 100,
    'batch_size': 512,
    'base_lr': 0.1,
    'momentum': 0.9,
    'nesterov': True,
    'weight_decay': 0.0,
  },
  # The margin paper, appendix B.1 (small data sets): rate 1, momentum .9, cosine, batch 256.
  'margins': {
    'epochs': 100,
    'batch_size': 256,
    'base_lr': 1.0,
    'momentum': 0.9,
    'weight_decay': 0.0,
  },
  # The robustness document's code, "stage 2": unit features, no momentum, x 1.5 every 20 epochs.
  # It reports the best epoch on the test set: selection=best_on_test.
  'robustness': {
    'normalize': 'l2',
    'epochs': 100,
    'batch_size': 128,
    'base_lr': 0.8,
    'scaling': 'none',
    'schedule': 'step',
    'milestones': (20, 40, 60, 80),
    'factor': 1.5,
    'momentum': 0.0,
    'weight_decay': 0.0,
  },
  # MoCo's main_lincls (He et al. 2020, section 4.1): rate 30, x 0.1 at 60 and 80.
  'moco': {
    'epochs': 100,
    'batch_size': 256,
    'base_lr': 30.0,
    'schedule': 'step',
    'milestones': (60, 80),
    'factor': 0.1,
    'momentum': 0.9,
    'weight_decay': 0.0,
  },
  # ARB's linear evaluation on CIFAR: cosine, weight decay 1e-4.
  'arb': {
    'epochs': 100,
    'batch_size': 256,
    'base_lr': 0.1,
    'momentum': 0.9,
    'weight_decay': 1e-4,
  },
}

# Presets of `linear_augmented` alone, with the policy of the training images and the mode of
# BatchNorm; the solver is SGD.
AUGMENTED_PRESETS: Mapping[str, Mapping[str, Any]] = {
  # The thesis on TCL, supervised, as its code (chaitanyaanimesh/Tuned-Contrastive-Learning) runs
  # it: as 'tcl_supervised' on images that are augmented as before, in batches of as many images as
  # before (64 for CIFAR-10), with BatchNorm in training mode and the cosine one epoch late.
  'tcl_published': {
    'policy': 'own',
    'batch_norm': 'train',
    'epochs': 50,
    'batch_size': 64,
    'base_lr': 0.5,
    'scaling': 'none',
    'schedule': 'tcl',
    'momentum': 0.9,
    'weight_decay': 1e-4,
  },
}


def with_preset(
  factory: Callable, preset: Mapping[str, Any], given: Mapping[str, Any], *, what: str
) -> dict[str, Any]:
  """All effective options of `factory`: given values, else the preset's, else the defaults.

  Args:
    preset: values used where none is given; given options may make them ineffective.
    given: options of the user.
    what: name of the factory in messages.

  Raises:
    UserError: a given option that is unknown, not allowed or without effect.
  """
  known = options_of(factory)
  values = {**preset, **given}
  values = {k: v for k, v in values.items() if k in given or _has_effect(k, known, values)}
  check(factory, values, what=what)
  values = {**{k: option.default for k, option in known.items()}, **values}
  if given.get('milestones') and values.get('epochs') is not None:  # a preset's may be ineffective
    check_milestones(given['milestones'], values['epochs'], prefix=f'{what}: ')
  return {k: v for k, v in values.items() if _has_effect(k, known, values)}


def _has_effect(key: str, known: Mapping[str, Option], values: Mapping[str, Any]) -> bool:
  return all(fact.holds(known, values) for fact in known[key].facts if isinstance(fact, OnlyWith))
