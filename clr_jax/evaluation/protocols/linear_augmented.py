"""Linear evaluation by SGD on augmented training images."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

import numpy as np

from clr_jax.augment import Policy, policies
from clr_jax.core.bounds import Repeats, Seed
from clr_jax.core.errors import UserError
from clr_jax.core.options import OneOf, options_of, takes_options_of
from clr_jax.evaluation.probing.features import extract
from clr_jax.evaluation.probing.finetuning import Recipe, backbone_weights, fit
from clr_jax.evaluation.probing.linear_draws import measure_subsets
from clr_jax.evaluation.probing.linear_settings import Settings, settings
from clr_jax.evaluation.probing.presets import AUGMENTED_PRESETS, PRESETS
from clr_jax.evaluation.probing.sets import Sets
from clr_jax.evaluation.probing.subject import Subject
from clr_jax.evaluation.protocols import finetune, linear
from clr_jax.rundir.results import Measurement

NEEDS_NETWORK = True
FITS_CLASSES = True
_COPIES = 10  # augmented copies of the training set by default
_TESTS = 10  # largest number of tests per training in which BatchNorm's statistics move


@takes_options_of(settings)
def measure(
  subject: Subject,
  *,
  preset: Annotated[str, OneOf((*PRESETS, *AUGMENTED_PRESETS))] = 'sogclr',
  augmentations: Repeats | None = None,
  policy: Annotated[str | None, OneOf(('own', *policies.names()))] = None,
  batch_norm: Literal['inference', 'train'] | None = None,
  draws: Repeats = 1,
  seed: Seed = 0,
  **options: Any,
) -> Iterator[Measurement]:
  """Measures top-1 test accuracy of `linear` by SGD on augmented images, as in the sources.

  Computes the frozen features of `augmentations` augmented copies of the training set once, and
  uses them in turn for the epochs; with a copy per epoch this is the sources' protocol. Test images
  are not augmented. With batch_norm=train, every epoch augments the images anew.

  Args:
    subject: a network and the labeled sets.
    preset: preset of `linear`, or 'tcl_published', the thesis on TCL as its code runs it.
    augmentations: number K of copies; each costs one pass over the training images and N * F * 4
      bytes; 10 by default. No effect with batch_norm=train.
    policy: a policy of `clr_jax.augment` with its defaults; 'rrc_flip' (random resized crop and
      flip) in the SogCLR report and MoCo, 'crop_flip' (padding 4) in ARB; 'own' is the first view
      of the run with its options. Default: the preset's, else 'rrc_flip'.
    batch_norm: mode of the frozen network's BatchNorm: 'inference'; 'train', statistics of the
      batch, which move the running ones that the test uses. Default: the preset's, else
      'inference'.
    draws: number of fits with other initial weights and batches, on the same copies.
    seed: RNG seed of the augmentation and of `linear`.
    options: see `settings`; held-out images use the first copy.
  """
  how, fitted = _resolved(preset, {'policy': policy, 'batch_norm': batch_norm, **options})
  chosen = settings(**fitted)
  if how['batch_norm'] == 'train':
    yield from _with_moving_statistics(subject, chosen, {'preset': preset, **how}, draws, seed)
    return
  train, count = subject.sets.train, augmentations or _COPIES
  copies = [
    extract(
      subject.experiment.method.represent,
      *subject.weights,
      train,
      mesh=subject.experiment.mesh,
      augment=_policy(subject, how['policy']),
      seed=int(np.random.SeedSequence([seed, copy]).generate_state(1)[0]),
    )
    for copy in range(count)
  ]
  stacked = copies[0]._replace(h=np.stack([c.h for c in copies]))
  for measurement in measure_subsets(
    stacked,
    subject.features[1],
    [{}],
    chosen,
    protocol='linear_augmented',
    draws=draws,
    seed=seed,
    features=subject.kind,
  ):
    more = {'augmentations': count, 'policy': how['policy']}
    yield measurement._replace(params={**measurement.params, **more})


def check(sets: Sets, options: Mapping[str, Any]) -> None:
  """See `linear.check`; also refuses options that batch_norm=train does not support."""
  how, fitted = _resolved(options.get('preset', 'sogclr'), options)
  linear.check(sets, fitted)
  if how['batch_norm'] == 'inference':
    return
  if options.get('augmentations'):
    raise UserError(
      f'augmentations={options["augmentations"]} has no effect with batch_norm=train, which '
      'augments the images in every epoch: leave it out'
    )
  chosen = settings(**fitted)
  for key, allowed in (('nesterov', False), ('init', 'normal')):
    if chosen.options[key] != allowed:
      raise UserError(
        f'{key}={chosen.options[key]} cannot be used with batch_norm=train: leave it at {allowed}'
      )
  if chosen.held_out or len(chosen.candidates) > 1 or chosen.normalize == 'standardize':
    raise UserError(
      'batch_norm=train fits one head: give one base_lr and one weight_decay, no held_out, and '
      'normalize none or l2'
    )


def _policy(subject: Subject, name: str) -> Policy:
  if name == 'own':
    return subject.experiment.views.policies[0]
  return policies.make(name, size=subject.sets.train.image_shape[0])


def _resolved(preset: str, given: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, Any]]:
  """Policy and mode of BatchNorm, and the options of `settings`."""
  how = {'policy': 'rrc_flip', 'batch_norm': 'inference'}
  known = options_of(settings).keys() | how.keys()
  values = {
    **how,
    **AUGMENTED_PRESETS.get(preset, {}),
    **{k: v for k, v in given.items() if k in known and v is not None},
  }
  how = {key: values.pop(key) for key in how}
  solver = {'preset': preset} if preset in PRESETS else {'preset': None, 'solver': 'sgd'}
  return how, {**values, **solver}


def _with_moving_statistics(
  subject: Subject, chosen: Settings, how: Mapping[str, Any], draws: int, seed: int
) -> Iterator[Measurement]:
  """Trains a classifier beside the frozen network, whose BatchNorm is in training mode."""
  train, test = subject.sets
  assert test is not None  # refused before
  (values,), options = chosen.candidates, chosen.options
  size = min(options['batch_size'], train.num_examples)
  rate = values['base_lr'] * (size / 256 if options['scaling'] == 'linear' else 1)
  recipe = Recipe(
    epochs=options['epochs'],
    batch_size=size,
    backbone_lr=0.0,
    head_lr=rate,
    momentum=options['momentum'],
    weight_decay=values['weight_decay'],
    schedule=options['schedule'],
    milestones=tuple(map(float, options.get('milestones', ()))),
    factor=options.get('factor', 0.0),
    warmup_epochs=0.0,
    head_layers=1,
    normalize=chosen.normalize,
    detach_features=True,
    augment=how['policy'],
  )
  weights = backbone_weights(subject.experiment, *subject.weights)
  every = math.ceil(recipe.epochs / _TESTS)
  for draw in range(draws):
    start = time.perf_counter()
    fit_seed = int(np.random.SeedSequence([seed, draw]).generate_state(1)[0]) % 2**31
    tuned = fit(subject.experiment, weights, train, [test], recipe, test_every=every, seed=fit_seed)
    used = {**how, **options, **values, 'batch_size': size, 'draw': draw, 'seed': seed}
    seconds = time.perf_counter() - start
    yield from finetune.measurements(tuned, used, subject.kind, seconds, 'linear_augmented')
