"""Misclassified starting points for attacks such as ProxLogBarrier."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from clr_jax.core.programs import host_jit
from clr_jax.core.types import Array
from clr_jax.evaluation.attacks.base import Problem, as_arrays, correct, image_keys, num_classes
from clr_jax.evaluation.attacks.norms import expand_like
from clr_jax.ops.batches import batches


def gaussian_start(
  problem: Problem,
  *,
  key: Any,
  pool: tuple[Any, Any] | None = None,
  sigma: float = 0.01,
  growth: float = 1.01,
  tries: int = 1000,
) -> Array:
  """Misclassified points [B, H, W, C] in [0, 1]: noisy images, else images of another class.

  Try k adds fresh Gaussian noise of standard deviation sigma * growth^k and clips to [0, 1], until
  the image is misclassified. If all tries fail, an image starts from the first correctly classified
  image of the pool with the next class after its label (cyclically: y + 1, y + 2, ... as available
  in the pool); without one it is unchanged, like images that are misclassified without attack.
  sigma and growth are those of the robustness project, which allows 5000 tries: beyond about 800
  the noise is far larger than the box and only corners are drawn.

  Args:
    problem: problem with images and labels; norm and budget are not used.
    key: a random key, or one per image.
    pool: (images [N, H, W, C], labels [N]) to fall back on, usually all attacked images; default
      the batch itself.
  """
  pool = (problem.images, problem.labels) if pool is None else pool
  keys = image_keys(key, len(problem.images))
  point = problem.images
  still_correct = correct(problem.classifier, problem.images, problem.labels)
  for k in range(tries):
    if not still_correct.any():
      return point
    point, still_correct = _try(problem, point, still_correct, keys, k, sigma * growth**k)
  if not still_correct.any():
    return point
  return jnp.where(expand_like(still_correct, point), _other_class(problem, pool), point)


@host_jit
def _try(
  problem: Problem, point: Array, still_correct: Array, keys: Array, k: Any, scale: Any
) -> tuple[Array, Array]:
  def noise(key: Array, image: Array) -> Array:
    return jax.random.normal(jax.random.fold_in(key, k), image.shape, image.dtype)

  noisy = jnp.clip(problem.images + scale * jax.vmap(noise)(keys, problem.images), 0, 1)
  point = jnp.where(expand_like(still_correct, point), noisy, point)
  return point, still_correct & correct(problem.classifier, point, problem.labels)


def _other_class(problem: Problem, pool: tuple[Any, Any]) -> Array:
  """The pool's first correct image of the next class for each image, or the image itself."""
  images, labels = problem.images, problem.labels
  pool_images, pool_labels = np.asarray(pool[0]), np.asarray(pool[1])
  usable = np.zeros(len(pool_labels), bool)
  for rows, real in batches(np.arange(len(pool_labels)), len(labels)):
    right = correct(problem.classifier, *as_arrays(pool_images[rows], pool_labels[rows]))
    usable[rows[:real]] = np.asarray(right)[:real]
  classes = num_classes(problem.classifier, images)
  away = (pool_labels[None] - np.asarray(labels)[:, None] - 1) % classes
  away = np.where(usable[None] & (away < classes - 1), away, classes)  # classes - 1: its own class
  nearest = away.argmin(1)
  found = jnp.asarray(away.min(1) < classes)
  other = jnp.asarray(pool_images, images.dtype)[nearest]
  return jnp.where(expand_like(found, images), other, images)
