"""Linear evaluation by SGD on augmented training images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import numpy as np

from clr_jax.augment import policies
from clr_jax.core.bounds import Repeats, Seed
from clr_jax.core.options import OneOf, takes_options_of
from clr_jax.evaluation.probing.features import extract
from clr_jax.evaluation.probing.linear_draws import measure_subsets
from clr_jax.evaluation.probing.linear_settings import settings
from clr_jax.evaluation.probing.presets import PRESETS
from clr_jax.evaluation.probing.sets import Sets
from clr_jax.evaluation.probing.subject import Subject
from clr_jax.evaluation.protocols import linear
from clr_jax.rundir.results import Measurement

NEEDS_NETWORK = True
FITS_CLASSES = True


@takes_options_of(settings)
def measure(
  subject: Subject,
  *,
  preset: Annotated[str, OneOf(PRESETS)] = 'sogclr',
  augmentations: Repeats = 10,
  policy: Annotated[str, OneOf(policies.names())] = 'rrc_flip',
  draws: Repeats = 1,
  seed: Seed = 0,
  **options: Any,
) -> Iterator[Measurement]:
  """Measures top-1 test accuracy of `linear` by SGD on augmented images, as in the sources.

  Computes the frozen features of `augmentations` augmented copies of the training set once, and
  uses them in turn for the epochs; with a copy per epoch this is the sources' protocol. Test images
  are not augmented.

  Args:
    subject: a network and the labeled sets.
    preset: preset of `linear`.
    augmentations: number K of copies; each costs one pass over the training images and N * F * 4
      bytes.
    policy: a policy of `clr_jax.augment`; 'rrc_flip' (random resized crop and flip) in the SogCLR
      report and MoCo, 'crop_flip' (padding 4) in ARB.
    draws: number of fits with other initial weights and batches, on the same copies.
    seed: RNG seed of the augmentation and of `linear`.
    options: see `settings`; held-out images use the first copy.
  """
  train = subject.sets.train
  make = policies.make(policy, size=train.image_shape[0])
  copies = [
    extract(
      subject.experiment.method.represent,
      *subject.weights,
      train,
      mesh=subject.experiment.mesh,
      augment=make,
      seed=int(np.random.SeedSequence([seed, copy]).generate_state(1)[0]),
    )
    for copy in range(augmentations)
  ]
  stacked = copies[0]._replace(h=np.stack([c.h for c in copies]))
  for measurement in measure_subsets(
    stacked,
    subject.features[1],
    [{}],
    settings(preset=preset, **options),
    protocol='linear_augmented',
    draws=draws,
    seed=seed,
    features=subject.kind,
  ):
    more = {'augmentations': augmentations, 'policy': policy}
    yield measurement._replace(params={**measurement.params, **more})


def check(sets: Sets, options: Mapping[str, Any]) -> None:
  """See `linear.check`."""
  linear.check(sets, {'preset': 'sogclr', **options})
