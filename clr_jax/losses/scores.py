"""InfoNCE on scores, on which margins, feature transformation and hard-negative mixing act.

`Scores` are the cosines of anchors to their positive and to their negatives, before division by a
temperature. Plug-ins map `Scores` to `Scores`; an estimator turns them into a loss per anchor.
`ScoreSets` are the same with any number of positives; statistics of scores are computed from them.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from clr_jax.core.types import Array
from clr_jax.ops.similarity import at_least_float32, logsumexp, similarity


class Scores(NamedTuple):
  """Similarities of anchors with their positives and negatives.

  Attributes:
    positive: [...], one per anchor.
    negative: [..., K].
    where: [..., K] bool, False for columns that are not negatives of the anchor; None = all are.
  """

  positive: Array
  negative: Array
  where: Array | None = None

  @property
  def mask(self) -> Array:
    """`where` as an array of the shape of `negative`."""
    return jnp.ones(self.negative.shape, bool) if self.where is None else self.where

  def with_negatives(self, query: Array, rows: Array, *, where: Array) -> Scores:
    """Adds columns: each query [..., D] against its own rows [..., s, D], used if `where` ([])."""
    more = jnp.einsum('...d,...sd->...s', query, rows, precision=jax.lax.Precision.HIGHEST)
    return Scores(
      self.positive,
      jnp.concatenate([self.negative, more], -1),
      jnp.concatenate([self.mask, jnp.broadcast_to(where, more.shape)], -1),
    )


class ScoreSets(NamedTuple):
  """The scores that a loss compares: anchors with their positives and their negatives.

  Attributes:
    positive: [..., P].
    negative: [..., K].
    positive_where, negative_where: bool of these shapes, False for columns outside the set.
    temperature: temperature of the loss, scalar or one per anchor [...].
    k1, k2: weights of TCL's denominator (`log_denominator`); 0 and 1 for SupCon and InfoNCE.
  """

  positive: Array
  negative: Array
  positive_where: Array
  negative_where: Array
  temperature: float | Array
  k1: float = 0.0
  k2: float = 1.0


def score_sets(*scores: Scores, temperature: float | Array) -> ScoreSets:
  """`ScoreSets` with one positive per anchor; several `Scores` [B, V, ...] are joined along V.

  Args:
    scores: one `Scores` for each direction of a loss.
    temperature: > 0; scalar, or [B] for one temperature per example.
  """

  def joined(parts):
    return jnp.concatenate(list(parts), 1) if len(scores) > 1 else next(iter(parts))

  positive = joined(s.positive for s in scores)[..., None]
  negative, where = joined(s.negative for s in scores), joined(s.mask for s in scores)
  if jnp.ndim(temperature):
    temperature = jnp.broadcast_to(jnp.asarray(temperature)[:, None], positive.shape[:-1])
  return ScoreSets(positive, negative, jnp.ones(positive.shape, bool), where, temperature)


def denominator_terms(sets: ScoreSets) -> tuple[Array, Array]:
  """Logarithms of the terms of TCL's denominator: (x [..., 2 P + K], where) with D = sum exp(x).

  D = sum_P exp(s/T) + k1 sum_P exp(-s) + k2 sum_N exp(s/T), the thesis, eq. 4.3; k1 = 0 and k2 = 1
  give SupCon's denominator and InfoNCE's.
  """
  tau = jnp.asarray(sets.temperature)
  tau = tau[..., None] if tau.ndim else tau
  terms = [sets.positive / tau, jnp.log(sets.k1) - sets.positive]
  where = [sets.positive_where, sets.positive_where & (sets.k1 > 0)]
  terms.append(jnp.log(sets.k2) + sets.negative / tau)
  where.append(sets.negative_where & (sets.k2 > 0))
  return jnp.concatenate(terms, -1), jnp.concatenate(where, -1)


def log_denominator(sets: ScoreSets) -> Array:
  """log D [...] of `denominator_terms`, -inf if empty. One log-sum-exp, stable for k1 = 5000."""
  return logsumexp(*denominator_terms(sets))


def pair_scores(query: Array, key: Array) -> Array:
  """<query, key> of rows [..., D] -> [...], in highest precision."""
  return jnp.einsum(
    '...d,...d->...',
    at_least_float32(query),
    at_least_float32(key),
    precision=jax.lax.Precision.HIGHEST,
  )


def queue_scores(query: Array, key: Array, queue: Array) -> Scores:
  """Queries [..., D] against their keys [..., D] and a queue's rows [K, D], all unit vectors."""
  return Scores(
    pair_scores(query, key), similarity(at_least_float32(query), at_least_float32(queue))
  )


def batch_scores(anchor: Array, key: Array, rows: Array, *, own: int) -> Scores:
  """Anchors [B, V, D] against their positives `key` [B, V, D] and the batch's `rows` [M, D].

  Args:
    anchor, key, rows: unit vectors.
    own: number of rows from the anchor's own sample, which are not negatives: for sample b
      rows b, b + M / own, ... 1 = keys of one view, 2 = view-major rows of both views.
  """
  sample = jnp.arange(len(rows)) % (len(rows) // own)
  where = sample[None, :] != jnp.arange(len(anchor))[:, None]
  negative = similarity(at_least_float32(anchor), at_least_float32(rows))
  where = jnp.broadcast_to(where[:, None], negative.shape)
  return Scores(pair_scores(anchor, key), negative, where)


def view_major(z: Array) -> Array:
  """Reshapes [B, V, D] to [V * B, D], row v * B + b: the order in the original code bases."""
  return jnp.swapaxes(z, 0, 1).reshape(-1, z.shape[-1])


def two_view_scores(z: Array) -> Scores:
  """NT-Xent's scores: each view [B, 2, D] against the other and both views of all other samples."""
  return batch_scores(z, z[:, ::-1], view_major(z), own=2)


def log_p_positive(scores: Scores, *, temperature: float | Array) -> Array:
  """Log of the softmax probability [...] of the positive among the positive and the negatives."""
  positive = scores.positive / temperature
  negative = logsumexp(scores.negative / temperature, scores.mask)
  # log_sigmoid is accurate near p = 1, where positive - logaddexp(...) would cancel to 0.
  finite = jnp.where(jnp.isfinite(negative), negative, 0.0)
  return jnp.where(jnp.isfinite(negative), jax.nn.log_sigmoid(positive - finite), 0.0)


def infonce(scores: Scores, *, temperature: float | Array, beta: float = 1.0) -> Array:
  """InfoNCE per anchor [...]: -(s_p / T - beta log(exp(s_p / T) + sum_n exp(s_n / T))).

  Args:
    scores: cosines.
    temperature: > 0.
    beta: weight of the log denominator: 1 = InfoNCE, 0 = positives only (BYOL's limit); the margins
      paper (https://arxiv.org/abs/2306.11526, eq. 6).
  """
  log_p = log_p_positive(scores, temperature=temperature)
  return -beta * log_p - (1 - beta) * scores.positive / temperature
