"""Misclassified points for attacks that come from the other side of the boundary."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from clr_jax.core.types import Array, PyTree
from clr_jax.evaluation.attacks.base import (
  Apply,
  Classifier,
  as_arrays,
  batches,
  correct,
  image_keys,
  num_classes,
)
from clr_jax.evaluation.attacks.norms import spread


def gaussian_start(
  classifier: Classifier,
  images: Any,
  labels: Any,
  *,
  key: Any,
  pool: tuple[Any, Any] | None = None,
  sigma: float = 0.01,
  growth: float = 1.01,
  tries: int = 1000,
) -> Array:
  """A misclassified point [B, H, W, C] in [0, 1] for each image: noise, else another class's image.

  Try k adds fresh Gaussian noise of standard deviation sigma * growth^k and clips to [0, 1], until
  the image is misclassified. An image that withstands all tries starts from the first correctly
  classified image of the pool whose class comes next after its label (cyclically: y + 1, y + 2,
  ... as far as the pool has them); without any it stays as it is. Images misclassified from the
  start stay as they are. sigma and growth as in the robustness project, which allows 5000 tries:
  beyond about 800 noise is far larger than the box and only its corners are drawn.

  Args:
    images: [B, H, W, C] floats in [0, 1].
    labels: [B] integers.
    key: one, or one for each image.
    pool: (images [N, H, W, C], labels [N]) to fall back on, usually all attacked images; default
      the batch itself.
  """
  images, labels = as_arrays(images, labels)
  pool = (images, labels) if pool is None else pool
  keys = image_keys(key, len(images))
  point, standing = images, correct(*classifier, images, labels)
  for k in range(tries):
    if not standing.any():
      return point
    scale = sigma * growth**k
    point, standing = _try(*classifier, point, standing, images, labels, keys, k, scale)
  if not standing.any():
    return point
  return jnp.where(spread(standing, point), _other_class(classifier, images, labels, pool), point)


@functools.partial(jax.jit, static_argnames='apply')
def _try(
  apply: Apply,
  params: PyTree,
  point: Array,
  standing: Array,
  images: Array,
  labels: Array,
  keys: Array,
  k: Any,
  scale: Any,
) -> tuple[Array, Array]:
  def noise(key: Array, image: Array) -> Array:
    return jax.random.normal(jax.random.fold_in(key, k), image.shape, image.dtype)

  noisy = jnp.clip(images + scale * jax.vmap(noise)(keys, images), 0, 1)
  point = jnp.where(spread(standing, images), noisy, point)
  return point, standing & correct(apply, params, point, labels)


def _other_class(
  classifier: Classifier, images: Array, labels: Array, pool: tuple[Any, Any]
) -> Array:
  """For each image the pool's first correct image of the next class; without one, itself."""
  pool_images, pool_labels = np.asarray(pool[0]), np.asarray(pool[1])
  usable = np.zeros(len(pool_labels), bool)
  for rows, real in batches(len(pool_labels), len(labels)):
    right = correct(*classifier, *as_arrays(pool_images[rows], pool_labels[rows]))
    usable[rows[:real]] = np.asarray(right)[:real]
  classes = num_classes(classifier, images)
  away = (pool_labels[None] - np.asarray(labels)[:, None] - 1) % classes
  away = np.where(usable[None] & (away < classes - 1), away, classes)  # classes - 1: its own class
  nearest = away.argmin(1)
  found = jnp.asarray(away.min(1) < classes)
  return jnp.where(spread(found, images), jnp.asarray(pool_images, images.dtype)[nearest], images)
