"""What all attacks share: the classifier, the result, checks of input."""

from __future__ import annotations

import functools
import math
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from clr_jax.core.errors import UserError
from clr_jax.core.names import check_name
from clr_jax.core.types import Array, PyTree
from clr_jax.evaluation.attacks.norms import distance, spread
from clr_jax.ops.similarity import widen

T = TypeVar('T')
Apply = Callable[[PyTree, Array], Array]


class Classifier(NamedTuple):
  """A network in inference mode: no image may influence the logits of another.

  Attributes:
    apply: (params, images [B, H, W, C] in [0, 1]) -> logits [B, K]. Hashable, and the same object
      for every call: a program is compiled once for each `apply`, batch shape and precision.
    params: whatever `apply` takes first.
  """

  apply: Apply
  params: PyTree


class Attacked(NamedTuple):
  """What an attack found.

  Attributes:
    images: [B, H, W, C] in [0, 1], misclassified; the image itself where the attack failed and
      where it was misclassified from the start.
    success: [B] bool, misclassified, from the start or by the attack.
    distance: [B] from the image to `images` in the attack's norm: 0 where misclassified from the
      start, +inf where the attack failed.
  """

  images: Array
  success: Array
  distance: Array


@functools.partial(jax.jit, static_argnums=0)
def logits_of(apply: Apply, params: PyTree, images: Array) -> Array:
  """[B, K], float32 or wider."""
  return widen(apply(params, images))


def num_classes(classifier: Classifier, images: Array) -> int:
  """K, without running the network."""
  logits = functools.partial(logits_of, classifier.apply)
  return jax.eval_shape(logits, classifier.params, images).shape[1]


@functools.partial(jax.jit, static_argnums=0)
def correct(apply: Apply, params: PyTree, images: Array, labels: Array) -> Array:
  """[B] bool, whether the largest logit (the first of equal ones) is the label's."""
  return jnp.argmax(logits_of(apply, params, images), axis=1) == labels


@functools.partial(jax.jit, static_argnums=(0, 5))
def verdict(
  apply: Apply, params: PyTree, candidates: Array, images: Array, labels: Array, norm: str
) -> Attacked:
  """`Attacked` for one candidate [B, ...] per image."""
  clean_wrong = ~correct(apply, params, images, labels)
  hit = ~correct(apply, params, candidates, labels) & ~clean_wrong
  found = jnp.where(spread(hit, images), candidates, images)
  success = hit | clean_wrong
  return Attacked(found, success, jnp.where(success, distance(found - images, norm), jnp.inf))


@jax.jit
def closest(first: Attacked, second: Attacked) -> Attacked:
  """Of two results for the same images the one with the smaller distance, image by image."""
  better = second.distance < first.distance
  return Attacked(
    jnp.where(spread(better, first.images), second.images, first.images),
    first.success | second.success,
    jnp.minimum(first.distance, second.distance),
  )


def image_keys(key: Any, size: int) -> Array:
  """One key for each of `size` images; [size] keys pass through.

  Give a key per image, such as fold_in(key, index), and random attacks do not depend on how the
  images are divided into batches.
  """
  if key is None:
    raise UserError('a random attack needs a key; give key=jax.random.key(seed)')
  return key if key.ndim else _keys(key, size)


@functools.partial(jax.jit, static_argnums=1)
def _keys(key: Array, size: int) -> Array:
  return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(size))


@jax.jit
def fold(keys: Array, data: Any) -> Array:
  """[B] new keys from [B] keys and one integer."""
  return jax.vmap(jax.random.fold_in, (0, None))(keys, data)


def as_arrays(images: Any, labels: Any) -> tuple[Array, Array]:
  """Images in float32 or wider and labels in int32; UserError where they do not fit."""
  images, labels = jnp.asarray(images), jnp.asarray(labels)
  if not jnp.issubdtype(images.dtype, jnp.floating):
    raise UserError(f'images are {images.dtype}; an attack needs floats in [0, 1]: divide by 255')
  if labels.shape != images.shape[:1] or not jnp.issubdtype(labels.dtype, jnp.integer):
    raise UserError(
      f'labels are {labels.dtype} of shape {labels.shape}; give one integer for each of the '
      f'{len(images)} images'
    )
  return widen(images), labels.astype(jnp.int32)


def check_budget(norm: str, epsilon: float, steps: int, what: str = 'steps') -> None:
  """UserError unless the norm is 'l2' or 'linf', the budget positive and there is a step."""
  check_name(('l2', 'linf'), norm, 'norm of an attack with a budget')
  if not (epsilon > 0 and math.isfinite(epsilon)):
    raise UserError(f'epsilon={epsilon} leaves no room to attack; give a positive budget')
  if steps < 1:
    raise UserError(f'{what}={steps} is no attack; give at least 1')


def last(states: Iterator[T]) -> T:
  """The last of at least one state; the others are let go."""
  return deque(states, maxlen=1).pop()


def batches(size: int, batch_size: int) -> list[tuple[np.ndarray, int]]:
  """Rows of each batch, the last one filled up with its first row, and how many are real."""
  parts = [np.arange(i, min(i + batch_size, size)) for i in range(0, size, batch_size)]
  return [(np.pad(p, (0, batch_size - len(p)), constant_values=p[0]), len(p)) for p in parts]
