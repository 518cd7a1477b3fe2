"""Losses that compare the views of an image by their assignments to prototypes: SwAV."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from clr_jax.core.types import Array
from clr_jax.losses.distillation import cross_entropy_of_views
from clr_jax.ops.similarity import at_least_float32
from clr_jax.ops.sinkhorn import sinkhorn


def assignments(
  scores: Array,
  queue_scores: Array | None = None,
  *,
  use_queue: bool | Array = True,
  epsilon: float | Array = 0.05,
  iterations: int = 3,
) -> Array:
  """Codes q of SwAV (https://arxiv.org/abs/2006.09882, section 3.1): `sinkhorn` of each view.

  Args:
    scores: [B, L, K], <embedding, prototype> of the assigning views, detached.
    queue_scores: [L, Q, K], scores of earlier embeddings of each view against the current
      prototypes, assigned together with the batch; None without a queue.
    use_queue: False leaves the queue out; may be traced.
    epsilon, iterations: see `sinkhorn`.

  Returns:
    [B, L, K], sums to 1 over the prototypes.

  Example:
    >>> scores = jnp.array([[[1.0, 0.0]], [[0.9, 0.0]]])  # both prefer one prototype
    >>> assignments(scores)[:, 0].argmax(-1).tolist()  # but each prototype gets one
    [0, 1]
  """
  rows, where = jnp.swapaxes(scores, 0, 1), None
  if queue_scores is not None:
    where = (jnp.arange(len(scores) + queue_scores.shape[1]) < len(scores)) | use_queue
    rows = jnp.concatenate([rows, queue_scores.astype(rows.dtype)], 1)
  codes = sinkhorn(rows, epsilon=epsilon, iterations=iterations, where=where)
  return jnp.swapaxes(codes[:, : len(scores)], 0, 1)


def swav(scores: Array, codes: Array, *, temperature: float | Array = 0.1) -> Array:
  """Cross-entropy of the prediction of view v to the code of view i, for every pair.

  SwAV (https://arxiv.org/abs/2006.09882, eq. 2) is the mean over the pairs i != v.

  Args:
    scores: [B, V, K], <embedding, prototype> with gradient to both.
    codes: [B, L, K] assignments of the first L views, detached here.
    temperature: > 0, default .1 (official).

  Returns:
    [L, V] means over the batch, 0 where i = v.

  Example:
    >>> scores, codes = jnp.zeros([1, 2, 2]), jnp.array([[[1.0, 0.0], [1.0, 0.0]]])
    >>> print(swav(scores, codes).round(2))  # log 2 for the pairs of two views
    [[0.   0.69]
     [0.69 0.  ]]
  """
  return cross_entropy_of_views(
    jax.lax.stop_gradient(codes), at_least_float32(scores) / temperature
  )
