"""Linear evaluation by SGD on augmented training images, a new copy of them for every epoch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np

from clr_jax.augment import policies
from clr_jax.core.errors import UserError
from clr_jax.evaluation.probing.features import extract
from clr_jax.evaluation.probing.linear_settings import settings
from clr_jax.evaluation.probing.subject import Subject
from clr_jax.evaluation.protocols.linear import measure_subsets
from clr_jax.rundir.results import Measurement


def linear_augmented(
  subject: Subject,
  *,
  preset: str = 'report',
  augmentations: int = 10,
  policy: str = 'rrc_flip',
  draws: int = 1,
  seed: int = 0,
  normalise: str | None = None,
  held_out: float = 0.0,
  features: Literal['trained', 'untrained'] = 'trained',
  **options: Any,
) -> Iterator[Measurement]:
  """Top-1 test accuracy of `linear` by SGD, trained as its sources do: on augmented images.

  The frozen features of `augmentations` augmented copies of the training set are computed once,
  and the epochs use them in turn; with as many copies as epochs this is the sources' protocol. Test
  images are not augmented.

  Args:
    subject: a network and the labeled sets.
    preset: of `linear`, an SGD one.
    augmentations: K copies; each costs one pass over the training images and N * F * 4 bytes.
    policy: a name of `clr_jax.augment.policies`; 'rrc_flip', a random resized crop and a flip, is
      the report's and MoCo's, 'crop_flip' (padding 4) ARB's.
    draws: runs with other initial weights and batches, on the same copies.
    seed: of the augmentation and of `linear`.
    normalise, held_out, options: see `linear`; of held-out images the first copy is used.
    features: which features these are, for the record.

  Raises:
    UserError: what `linear` refuses, no copy, an unknown policy.
  """
  if augmentations < 1:
    raise UserError(f'linear_augmented: augmentations={augmentations} must be at least 1')
  chosen = settings(preset=preset, normalise=normalise, held_out=held_out, **options)
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
    chosen,
    protocol='linear_augmented',
    draws=draws,
    seed=seed,
    features=features,
  ):
    more = {'augmentations': augmentations, 'policy': policy}
    yield measurement._replace(params={**measurement.params, **more})
