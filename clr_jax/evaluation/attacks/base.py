"""Common code of attacks: the problem, the result, keys per image."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from typing import Annotated, Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from annotated_types import Gt
from flax import struct

from clr_jax.core.errors import UserError
from clr_jax.core.options import INFINITY_ALLOWED, checked
from clr_jax.core.programs import host_jit
from clr_jax.core.types import Array, PyTree
from clr_jax.evaluation.attacks.norms import Norm, distance, expand_like
from clr_jax.ops.similarity import at_least_float32

T = TypeVar('T')


class Classifier(struct.PyTreeNode):
  """A network in inference mode; images must not influence each other's logits.

  Attributes:
    apply: (params, images [B, H, W, C] in [0, 1]) -> logits [B, K]. Hashable, and the same object
      for every call: a program is compiled once for each `apply`, batch shape and precision.
    params: first argument of `apply`.
  """

  apply: Callable[[PyTree, Array], Array] = struct.field(pytree_node=False)
  params: PyTree


class Problem(struct.PyTreeNode):
  """Images to be misclassified; `Problem.of` checks them.

  Attributes:
    classifier: the network under attack.
    images: [B, H, W, C] in [0, 1], float32 or wider.
    labels: [B] int32.
    norm: norm of the distance from an image: 'l2', 'linf', 'l1' or 'l0'; 'linf_source' see `plb`.
    epsilon: largest distance, in pixel units of [0, 1]; infinite for attacks without a budget.
  """

  classifier: Classifier
  images: Array
  labels: Array
  norm: str = struct.field(pytree_node=False)
  epsilon: float = math.inf

  @classmethod
  @checked
  def of(
    cls,
    classifier: Classifier,
    images: Any,
    labels: Any,
    *,
    norm: Norm,
    epsilon: Annotated[float, Gt(0), INFINITY_ALLOWED] = math.inf,
  ) -> Problem:
    """Makes the problem of images and labels; see the attributes.

    Raises:
      UserError: an unknown norm, a budget that is not positive, images that are not floats, or
        labels that are not one integer per image.
    """
    return cls(classifier, *as_arrays(images, labels), norm, epsilon)

  def take(self, rows: Any) -> Problem:
    """Selects some of the images."""
    return self.replace(images=self.images[rows], labels=self.labels[rows])

  def check_budget(self) -> None:
    """Raises a UserError unless there is a budget in 'l2' or 'linf'."""
    if math.isinf(self.epsilon) or self.norm not in ('l2', 'linf'):
      raise UserError(
        f'norm={self.norm} with epsilon={self.epsilon}: this attack needs l2 or linf and a budget'
      )


class AttackResult(NamedTuple):
  """Result of an attack.

  Attributes:
    images: [B, H, W, C] in [0, 1], misclassified images; the original image where the attack failed
      or was not needed.
    success: [B] bool, True if misclassified, with or without the attack.
    distance: [B], distance from the original image in the attack's norm: 0 if misclassified without
      attack, +inf if the attack failed.
  """

  images: Array
  success: Array
  distance: Array


@host_jit
def logits_of(classifier: Classifier, images: Array) -> Array:
  """Logits [B, K], float32 or wider."""
  return at_least_float32(classifier.apply(classifier.params, images))


def num_classes(classifier: Classifier, images: Array) -> int:
  """Number K of classes, without running the network."""
  return jax.eval_shape(logits_of, classifier, images).shape[1]


@host_jit
def correct(classifier: Classifier, images: Array, labels: Array) -> Array:
  """True [B] where the largest logit (the first of equal ones) is the label's."""
  return jnp.argmax(logits_of(classifier, images), axis=1) == labels


@host_jit
def evaluate_candidates(problem: Problem, candidates: Array) -> AttackResult:
  """Evaluates one candidate [B, ...] per image."""
  images, labels = problem.images, problem.labels
  clean_wrong = ~correct(problem.classifier, images, labels)
  hit = ~correct(problem.classifier, candidates, labels) & ~clean_wrong
  found = jnp.where(expand_like(hit, images), candidates, images)
  success = hit | clean_wrong
  away = jnp.where(success, distance(found - images, problem.norm), jnp.inf)
  return AttackResult(found, success, away)


@host_jit
def closest(first: AttackResult, second: AttackResult) -> AttackResult:
  """Selects per image the result with the smaller distance."""
  better = second.distance < first.distance
  return AttackResult(
    jnp.where(expand_like(better, first.images), second.images, first.images),
    first.success | second.success,
    jnp.minimum(first.distance, second.distance),
  )


def image_keys(key: Any, size: int) -> Array:
  """Makes one key for each of `size` images; passes [size] keys through.

  With a key per image, such as fold_in(key, index), random attacks do not depend on the division
  into batches.
  """
  if key is None:
    raise UserError('a random attack needs a key; give key=jax.random.key(seed)')
  return key if key.ndim else _keys(key, jnp.arange(size))


@host_jit
def _keys(key: Array, index: Array) -> Array:
  return jax.vmap(jax.random.fold_in, (None, 0))(key, index)


@host_jit
def fold(keys: Array, data: Any) -> Array:
  """Folds one integer into each of [B] keys."""
  return jax.vmap(jax.random.fold_in, (0, None))(keys, data)


def as_arrays(images: Any, labels: Any) -> tuple[Array, Array]:
  """Converts images to float32 or wider and labels to int32; UserError if they are invalid."""
  images, labels = jnp.asarray(images), jnp.asarray(labels)
  if not jnp.issubdtype(images.dtype, jnp.floating):
    raise UserError(f'images are {images.dtype}; an attack needs floats in [0, 1]: divide by 255')
  if labels.shape != images.shape[:1] or not jnp.issubdtype(labels.dtype, jnp.integer):
    raise UserError(
      f'labels are {labels.dtype} of shape {labels.shape}: give one integer for each of the '
      f'{len(images)} images'
    )
  return at_least_float32(images), labels.astype(jnp.int32)


def last(states: Iterator[T]) -> T:
  """Returns the last of at least one state, without keeping the others in memory."""
  return deque(states, maxlen=1).pop()
