"""Contrastive losses inside one batch: NT-Xent, SupCon, TCL.

Embeddings are [B, V, D]: B samples, V views, normalised inside unless `normalize=False`. Anchors
are all B * V rows; per-anchor values are [B, V]. Every loss is the mean over anchors.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp

from clr_jax.lookup import check_name
from clr_jax.ops.similarity import flatten_views, logsumexp, similarity, unit, widen
from clr_jax.types import Array

ANCHORS = ('all', 'one')


class Pairs(NamedTuple):
  """Who is whose positive among M = B * V rows; both [A, M] bool with A anchors, never oneself."""

  positive: Array
  other: Array


def pair_masks(
  batch_size: int, num_views: int, *, labels: Array | None = None, mask: Array | None = None
) -> Pairs:
  """Positives from `labels` [B], from `mask` [B, B] (row = anchor) or, with neither, from views."""
  if labels is not None:
    same = labels[:, None] == labels[None, :]
  elif mask is not None:
    same = mask.astype(bool)
  else:
    same = jnp.eye(batch_size, dtype=bool)
  same = jnp.repeat(jnp.repeat(same, num_views, 0), num_views, 1)
  other = ~jnp.eye(batch_size * num_views, dtype=bool)
  return Pairs(same & other, other)


def _rows(z: Array, normalize: bool) -> Array:
  return flatten_views(unit(z) if normalize else widen(z))


def ntxent(z: Array, *, temperature: float | Array = 0.5, normalize: bool = True) -> Array:
  """NT-Xent per anchor (Chen et al., SimCLR, https://arxiv.org/abs/2002.05709, eq. 1).

  L_a = log sum_{j != a} exp(s_aj) - log sum_{p in P(a)} exp(s_ap), s = z z^T / temperature; with
  more than two views the positives are summed inside the logarithm (solo-learn's form).

  Args:
    z: [B, V, D], V >= 2.
    temperature: > 0; default 0.5 (SimCLR on CIFAR-10, table B.9 of the paper).
    normalize: False if the rows are unit vectors already.

  Returns:
    [B, V]. The SimCLR code base reports twice the mean of it.
  """
  rows = _rows(z, normalize)
  scores = similarity(rows, rows) / temperature
  pairs = pair_masks(*z.shape[:2])
  per_anchor = logsumexp(scores, pairs.other) - logsumexp(scores, pairs.positive)
  return per_anchor.reshape(z.shape[:2])


def supcon(
  z: Array,
  labels: Array | None = None,
  mask: Array | None = None,
  *,
  temperature: float | Array = 0.1,
  base_temperature: float | None = None,
  anchors: str = 'all',
  normalize: bool = True,
) -> Array:
  """Supervised contrastive loss L_out per anchor (Khosla et al., https://arxiv.org/abs/2004.11362).

  L_a = -(T / T_base) / |P(a)| * sum_{p in P(a)} [ s_ap - log sum_{j != a} exp(s_aj) ]; an anchor
  without positives contributes 0 and still counts in a mean (the official code since Dec 2023).

  Args:
    z: [B, V, D].
    labels: [B] classes; or
    mask: [B, B] positives between samples (row = anchor, may be asymmetric); or neither: views.
    temperature: default 0.1 (official CIFAR recipe).
    base_temperature: None = `temperature`, i.e. no rescaling (the official default is 0.07).
    anchors: 'all' rows, or 'one' for view 0 only; the contrast set keeps all views.
    normalize: False if the rows are unit vectors already.

  Returns:
    [B, V], or [B, 1] for anchors='one'.
  """
  check_name(ANCHORS, anchors, 'anchors')
  batch_size, num_views, _ = z.shape
  rows = _rows(z, normalize)
  pairs = pair_masks(batch_size, num_views, labels=labels, mask=mask)
  step = num_views if anchors == 'one' else 1
  pairs = Pairs(*(m[::step] for m in pairs))
  scores = similarity(rows[::step], rows) / temperature
  count = jnp.sum(pairs.positive, -1)
  positive_mean = jnp.sum(jnp.where(pairs.positive, scores, 0.0), -1) / jnp.maximum(count, 1)
  log_denominator = logsumexp(scores, pairs.other)
  # An empty denominator (one row) is -inf and has no positives either: select before subtracting.
  valid = count > 0
  per_anchor = jnp.where(valid, jnp.where(valid, log_denominator, 0.0) - positive_mean, 0.0)
  scale = 1.0 if base_temperature is None else temperature / base_temperature
  return (scale * per_anchor).reshape(batch_size, -1)


class TCL(NamedTuple):
  """Tuned contrastive learning, all [B, V].

  Attributes:
    per_anchor: the loss L_i, 0 for an anchor without positives.
    log_denominator: log D_i.
    has_positive: bool.
  """

  per_anchor: Array
  log_denominator: Array
  has_positive: Array


def tcl(
  z: Array,
  labels: Array | None = None,
  *,
  temperature: float | Array = 0.1,
  k1: float = 1.0,
  k2: float = 1.0,
  normalize: bool = True,
) -> TCL:
  """Tuned contrastive learning (the thesis, eq. 4.1 to 4.3).

  D_i = sum_P exp(s_ip / T) + k1 sum_P exp(-s_ip) + k2 sum_N exp(s_in / T), where the k1 term has no
  temperature, and L_i = log D_i - mean_P s_ip / T. k1 = 0, k2 = 1 is SupCon. The value contains an
  offset of log k1 and is not comparable with SupCon's.

  Args:
    z: [B, V, D].
    labels: [B] classes, or None: the views of a sample are its positives (pairs, triplets).
    temperature: default 0.1 (thesis A.1).
    k1: response of hard positives, >= 1 in the thesis (4000 to 7500 with labels, 1 without).
    k2: response of hard negatives, >= 1 in the thesis (1 to 1.5).
    normalize: False if the rows are unit vectors already.
  """
  rows = _rows(z, normalize)
  pairs = pair_masks(*z.shape[:2], labels=labels)
  result = tcl_rows(rows, rows, pairs, temperature=temperature, k1=k1, k2=k2)
  return TCL(*(x.reshape(z.shape[:2]) for x in result))


def tcl_rows(anchor: Array, contrast: Array, pairs: Pairs, *, temperature, k1, k2) -> TCL:
  """TCL for unit rows: anchors [A, D] against all rows [M, D]."""
  cosine = similarity(anchor, contrast)
  scores = cosine / temperature
  negative = pairs.other & ~pairs.positive
  # One log-sum-exp over { s/T on P, log k1 - s on P, log k2 + s/T on N }: stable for k1 = 5000.
  terms = jnp.concatenate([scores, jnp.log(k1) - cosine, jnp.log(k2) + scores], -1)
  where = jnp.concatenate([pairs.positive, pairs.positive & (k1 > 0), negative & (k2 > 0)], -1)
  count = jnp.sum(pairs.positive, -1)
  has_positive = count > 0
  log_denominator = logsumexp(terms, where)
  positive_mean = jnp.sum(jnp.where(pairs.positive, scores, 0.0), -1) / jnp.maximum(count, 1)
  finite = jnp.where(has_positive, log_denominator, 0.0)
  return TCL(jnp.where(has_positive, finite - positive_mean, 0.0), log_denominator, has_positive)


def responses(
  z: Array,
  labels: Array | None = None,
  *,
  temperature: float | Array = 0.1,
  k1: float = 0.0,
  k2: float = 1.0,
  normalize: bool = True,
) -> tuple[Array, Array]:
  """How strongly positives and negatives pull and push (the thesis, section 5.4).

  Returns:
    (mean over anchors of mean_P |P_ip - 1/|P| - Y_ip|, mean over anchors of mean_N P_in), with
    P_ip = exp(s_ip/T)/D_i, Y_ip = T k1 exp(-s_ip)/D_i, P_in = k2 exp(s_in/T)/D_i; NaN where no
    anchor has positives or negatives. k1 = 0, k2 = 1 are SupCon's.
  """
  rows = _rows(z, normalize)
  pairs = pair_masks(*z.shape[:2], labels=labels)
  cosine = similarity(rows, rows)
  result = tcl_rows(rows, rows, pairs, temperature=temperature, k1=k1, k2=k2)
  log_d = jnp.where(result.has_positive, result.log_denominator, 0.0)[:, None]
  count = jnp.sum(pairs.positive, -1, keepdims=True)
  p_pos = jnp.exp(cosine / temperature - log_d)
  y_pos = temperature * k1 * jnp.exp(-cosine - log_d)
  negative = pairs.other & ~pairs.positive

  def mean_of_means(values, where):
    per_row = jnp.sum(jnp.where(where, values, 0.0), -1) / jnp.sum(where, -1)
    return jnp.nanmean(per_row)

  positive = jnp.abs(p_pos - 1 / jnp.maximum(count, 1) - y_pos)
  valid = result.has_positive[:, None]
  return (
    mean_of_means(positive, pairs.positive),
    mean_of_means(k2 * p_pos, negative & valid),
  )
