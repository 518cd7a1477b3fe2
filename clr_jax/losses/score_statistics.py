"""Statistics of a contrastive loss's scores: rows of the score log, series, histograms.

Definitions are those of feature transformation's score log (Zhu et al.,
https://arxiv.org/abs/2108.02982) and of the thesis (responses of positives and negatives, section
5.4). No function stops gradients: callers detach.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from clr_jax.core.types import Array
from clr_jax.losses.scores import ScoreSets, log_denominator
from clr_jax.ops.similarity import at_least_float32, logsumexp, similarity


class ScoreRows(NamedTuple):
  """Per-anchor values [...]; NaN for an anchor without positives or without negatives.

  The order is that of the score log's columns. With several positives `pos` and `exp_pos` are means
  over them.

  Attributes:
    neg_mean: mean of the negative scores.
    neg_var: their unbiased variance (K - 1).
    pos: the positive score.
    exp_neg: mean of exp(s / T) over the negatives.
    exp_pos: exp(s / T) of the positive.
  """

  neg_mean: Array
  neg_var: Array
  pos: Array
  exp_neg: Array
  exp_pos: Array


def _mean(values: Array, where: Array) -> Array:
  """Mean over the last axis; NaN for an empty row."""
  return jnp.sum(jnp.where(where, values, 0.0), -1) / jnp.sum(where, -1)


def score_rows(sets: ScoreSets) -> ScoreRows:
  """Computes `ScoreRows` from scores before division by the temperature."""
  tau = jnp.asarray(sets.temperature)
  tau = tau[..., None] if tau.ndim else tau
  where, count = sets.negative_where, jnp.sum(sets.negative_where, -1)
  neg_mean = _mean(sets.negative, where)
  square = jnp.where(where, (sets.negative - neg_mean[..., None]) ** 2, 0.0)
  return ScoreRows(
    neg_mean=neg_mean,
    neg_var=jnp.sum(square, -1) / jnp.where(count > 1, count - 1, jnp.nan),
    pos=_mean(sets.positive, sets.positive_where),
    exp_neg=_mean(jnp.exp(sets.negative / tau), where),
    exp_pos=_mean(jnp.exp(sets.positive / tau), sets.positive_where),
  )


def logged_rows(rows: ScoreRows) -> Array:
  """[..., 5] as the original code stores them: the raw scores pass through float16."""
  columns = [x.astype(jnp.float16).astype(x.dtype) for x in rows[:3]]
  return jnp.stack([*columns, *rows[3:]], -1)


def series(rows: ScoreRows) -> dict[str, Array]:
  """One point of each curve: means over the anchors with a value, and the variance of `pos`.

  Returns:
    {'neg_mean', 'neg_var', 'pos_mean', 'pos_var', 'exp_neg', 'exp_pos'}: scalars. neg_var is the
    mean of the variances within the anchors, not the pooled one; pos_var is the population variance
    (ddof 0) of the positive scores over the anchors.
  """
  means = {name: jnp.nanmean(value) for name, value in rows._asdict().items()}
  pos_mean = means.pop('pos')
  return {**means, 'pos_mean': pos_mean, 'pos_var': jnp.nanvar(rows.pos)}


def histogram(values: Array, edges: Array | np.ndarray, where: Array | None = None) -> Array:
  """Counts [bins + 2] int32: below the edges, in each bin, above; histograms can be added up.

  Bins are closed on the left, the last one on both sides (as in numpy.histogram); NaN is ignored.

  Args:
    values: any shape, fewer than 2^31.
    edges: [bins + 1], increasing; compared in the dtype of `values`.
    where: bool with the shape of `values`, False for values that do not count.
  """
  edges = jnp.asarray(edges, values.dtype)
  x = values if where is None else jnp.where(where, values, jnp.nan)
  hits = [x < edges[0], *(x >= edge for edge in edges[:-1]), x > edges[-1]]
  # A single reduction with many results reads the values once. With a vector of edges XLA for CPUs
  # would store all comparisons; one sum per edge would read the values once per edge.
  below, *reached, beyond = jax.lax.reduce(
    tuple(hit.astype(jnp.int32) for hit in hits),
    (jnp.int32(0),) * len(hits),
    lambda a, b: tuple(i + j for i, j in zip(a, b, strict=True)),
    tuple(range(x.ndim)),
  )
  upper = jnp.stack([*reached[1:], beyond])
  return jnp.concatenate([below[None], jnp.stack(reached) - upper, beyond[None]])


def responses(sets: ScoreSets) -> tuple[Array, Array]:
  """Responses of positives and negatives (the thesis, section 5.4).

  Returns:
    (mean over anchors of mean_P |P_ip - 1/|P| - Y_ip|, mean over anchors of mean_N P_in), scalars,
    with P_ip = exp(s_ip/T)/D_i, Y_ip = T k1 exp(-s_ip)/D_i, P_in = k2 exp(s_in/T)/D_i and the D_i
    of `log_denominator`; NaN where no anchor has positives or negatives.
  """
  tau = jnp.asarray(sets.temperature)
  tau = tau[..., None] if tau.ndim else tau
  count = jnp.sum(sets.positive_where, -1, keepdims=True)
  valid = count > 0
  log_d = jnp.where(valid, log_denominator(sets)[..., None], 0.0)
  p_pos = jnp.exp(sets.positive / tau - log_d)
  y_pos = tau * sets.k1 * jnp.exp(-sets.positive - log_d)
  pull = jnp.abs(p_pos - 1 / jnp.maximum(count, 1) - y_pos)
  push = sets.k2 * jnp.exp(sets.negative / tau - log_d)
  return (
    jnp.nanmean(_mean(pull, sets.positive_where)),
    jnp.nanmean(_mean(push, sets.negative_where & valid)),
  )


def alignment(a: Array, b: Array, *, alpha: float = 2.0) -> Array:
  """Mean of ||a - b||^alpha over positive pairs of unit rows [..., D]; 0 is perfect.

  Wang and Isola, https://arxiv.org/abs/2005.10242, section 4.1; alpha = 2 there.
  """
  return jnp.mean(jnp.sum((at_least_float32(a) - at_least_float32(b)) ** 2, -1) ** (alpha / 2))


def uniformity(z: Array, *, t: float = 2.0) -> Array:
  """log mean exp(-t ||x - y||^2) over the pairs of different unit rows [N, D]; -4 = uniform limit.

  Wang and Isola, section 4.1; t = 2 there. 0 if all rows are equal.

  Example:
    >>> print(f'{uniformity(jnp.array([[1.0, 0.0], [-1.0, 0.0]])):.3f}')  # -t * 4
    -8.000
  """
  exponent = -2 * t * (1 - similarity(at_least_float32(z), at_least_float32(z)))
  other = ~jnp.eye(len(z), dtype=bool)
  total = logsumexp(exponent.reshape(-1), other.reshape(-1))
  return total - jnp.log(len(z) * (len(z) - 1))
