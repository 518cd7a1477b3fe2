"""Losses between an online and a target network: DINO, ReSSL; pairs of views.

Views are axis 1: online embeddings [B, V, D], target embeddings [B, L, D] of the first L views
(the large ones). A view is never compared with itself. Targets carry no gradient.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from clr_jax.core.types import Array
from clr_jax.ops.similarity import at_least_float32, l2_normalize, similarity


def other_views(pairs: Array) -> Array:
  """`pairs` [L, V] with 0 where target view i = online view v; L * V - min(L, V) entries remain."""
  return jnp.where(jnp.eye(*pairs.shape, dtype=bool), 0.0, pairs)


def cross_entropy_of_views(probabilities: Array, logits: Array) -> Array:
  """Cross-entropy of view v's softmax to view i's distribution, [L, V]: batch means, 0 at i = v.

  Args:
    probabilities: [B, L, K], sum to 1 over K.
    logits: [B, V, K].
  """
  # A single matrix product avoids the [B, L, V, K] terms: K is up to 65,536.
  cross = jnp.einsum(
    'bik,bvk->iv', probabilities, jax.nn.log_softmax(logits), precision=jax.lax.Precision.HIGHEST
  )
  return other_views(-cross / len(logits))


def dino(
  student: Array,
  teacher: Array,
  center: Array,
  *,
  student_temperature: float | Array = 0.1,
  teacher_temperature: float | Array = 0.04,
) -> Array:
  """Cross-entropy of student view v to the centered, sharpened teacher view i, for every pair.

  DINO (https://arxiv.org/abs/2104.14294, eq. 1 to 4) is the mean over the pairs i != v.

  Args:
    student: [B, V, K] logits.
    teacher: [B, L, K] logits of the large views.
    center: [K], subtracted from the teacher's logits.
    student_temperature: default 0.1 (official).
    teacher_temperature: default 0.04 (official, before its warm-up to 0.07).

  Returns:
    [L, V] means over the batch, 0 where i = v.

  Example:
    >>> print(dino(jnp.zeros([1, 2, 4]), jnp.zeros([1, 2, 4]), jnp.zeros([4])).round(2))
    [[0.   1.39]
     [1.39 0.  ]]
  """
  sharp = (
    at_least_float32(jax.lax.stop_gradient(teacher)) - center[None, None]
  ) / teacher_temperature
  return cross_entropy_of_views(
    jax.nn.softmax(sharp), at_least_float32(student) / student_temperature
  )


def ressl(
  query: Array,
  key: Array,
  queue: Array,
  *,
  temperature_q: float | Array = 0.1,
  temperature_k: float | Array = 0.04,
  normalize: bool = True,
) -> Array:
  """Cross-entropy between the similarities of student and teacher to the queue, per row [B].

  ReSSL (https://arxiv.org/abs/2107.09282, eq. 3 to 6).

  Args:
    query: [B, D] student, strong view.
    key: [B, D] teacher, weak view; detached here.
    queue: [K, D] unit rows, without the keys of this step.
    temperature_q: default 0.1 (official).
    temperature_k: default 0.04 (official); a value below temperature_q sharpens the targets.
    normalize: False if query and key are unit vectors already.

  Example:
    >>> z = jnp.eye(2)
    >>> print(ressl(z, z, z).round(2))
    [0. 0.]
  """
  query, key = (
    (l2_normalize(query), l2_normalize(key))
    if normalize
    else (at_least_float32(query), at_least_float32(key))
  )
  student = jax.nn.log_softmax(similarity(query, queue) / temperature_q)
  teacher = jax.nn.softmax(similarity(jax.lax.stop_gradient(key), queue) / temperature_k)
  return -jnp.sum(teacher * student, -1)
