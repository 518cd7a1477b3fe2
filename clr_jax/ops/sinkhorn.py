"""Sinkhorn-Knopp: soft assignments of samples to clusters of equal total weight."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from clr_jax.core.types import Array
from clr_jax.ops.similarity import at_least_float32


def sinkhorn(
  scores: Array,
  *,
  epsilon: float | Array = 0.05,
  iterations: int = 3,
  where: Array | None = None,
) -> Array:
  """Scales exp(scores / epsilon) alternately to equal column sums and to row sums of 1.

  SwAV (https://arxiv.org/abs/2006.09882, eq. 3 to 5; `distributed_sinkhorn` of the official code,
  whose divisions by the number of rows and of columns cancel). Computed in logarithms, because
  exp(1 / 0.05) overflows half precision and a cluster far from all samples would divide 0 by 0.

  Args:
    scores: [..., R, K], samples of the global batch against K prototypes; detached here.
    epsilon: > 0, default .05 (official); smaller is sharper.
    iterations: >= 1, default 3 (official).
    where: bool, broadcasts to [..., R]: only these rows count in the column sums (at least one).

  Returns:
    [..., R, K] in float32 or wider; every row sums to 1, including those that do not count.
  """
  log_q = at_least_float32(jax.lax.stop_gradient(scores)) / epsilon
  counted = None if where is None else jnp.broadcast_to(where, log_q.shape[:-1])[..., None]
  for _ in range(iterations):
    columns = jax.nn.logsumexp(log_q, axis=-2, keepdims=True, where=counted)
    log_q = jax.nn.log_softmax(log_q - columns, axis=-1)
  return jnp.exp(log_q)
