"""Contrastive losses inside one batch: NT-Xent, SupCon, TCL.

Embeddings are [B, V, D]: B samples, V views, normalized inside unless `normalize=False`. Anchors
are all B * V rows; per-anchor values are [B, V]. Every loss is the mean over anchors. With a
`block_size` the [B * V, B * V] similarities are computed that many columns at a time, once for the
value and once for the gradient, and never stored; the results are the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import jax.numpy as jnp

from clr_jax.core.names import check_name
from clr_jax.core.types import Array
from clr_jax.losses import score_statistics
from clr_jax.losses.scores import ScoreSets, denominator_terms
from clr_jax.ops.blocked import scan_columns
from clr_jax.ops.similarity import (
  at_least_float32,
  flatten_views,
  l2_normalize,
  logsumexp,
  similarity,
)

Anchors = Literal['all', 'one']


class Pairs(NamedTuple):
  """Boolean masks [A, M] of positives and of non-self pairs; A anchors, M = B * V rows."""

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
  return flatten_views(l2_normalize(z) if normalize else at_least_float32(z))


# (cosines [A, M], pairs) -> (x, where): the denominator of the loss is the sum of exp(x).
_Denominator = Callable[[Array, Pairs], tuple[Array, Array]]


def _over_others(temperature: float | Array) -> _Denominator:
  return lambda cosine, pairs: (cosine / temperature, pairs.other)


class _Found(NamedTuple):
  """Per anchor [A]: log of the denominator, mean cosine of the positives, their number."""

  log_denominator: Array
  positive_mean: Array
  count: Array


def _at_once(cosine: Array, pairs: Pairs, denominator: _Denominator) -> _Found:
  count = jnp.sum(pairs.positive, -1)
  total = jnp.sum(jnp.where(pairs.positive, cosine, 0.0), -1)
  return _Found(logsumexp(*denominator(cosine, pairs)), total / jnp.maximum(count, 1), count)


def _in_blocks(
  rows: Array,
  labels: Array | None,
  denominator: _Denominator,
  *,
  num_views: int,
  block_size: int,
  step: int = 1,
) -> _Found:
  """The result of `_at_once` with every `step`-th row as anchor, one block of columns at a time."""
  sample = jnp.arange(len(rows)) // num_views
  group = sample if labels is None else labels[sample]
  anchors = jnp.arange(0, len(rows), step)

  def terms(cosine, column):
    other = column[None, :] != anchors[:, None]
    positive = (group[column][None, :] == group[anchors][:, None]) & other
    total = jnp.sum(jnp.where(positive, cosine, 0.0), -1)
    sums = {'total': total, 'count': jnp.sum(positive, -1)}
    return *denominator(cosine, Pairs(positive, other)), sums

  log_d, sums = scan_columns(rows[::step], rows, terms, block_size=block_size)
  return _Found(log_d, sums['total'] / jnp.maximum(sums['count'], 1), sums['count'])


def ntxent(
  z: Array,
  *,
  temperature: float | Array = 0.5,
  include_anchor: bool = False,
  normalize: bool = True,
  block_size: int | None = None,
) -> Array:
  """NT-Xent per anchor (Chen et al., SimCLR, https://arxiv.org/abs/2002.05709, eq. 1).

  L_a = log sum_{j != a} exp(s_aj) - log sum_{p in P(a)} exp(s_ap), s = z z^T / temperature; with
  more than two views the positives are summed inside the logarithm (solo-learn's form).

  Args:
    z: [B, V, D], V >= 2.
    temperature: > 0; default 0.5 (SimCLR on CIFAR-10, table B.9 of the paper).
    include_anchor: True adds exp(s_aa), j = a, to the denominator (eq. 1 of the robustness report).
    normalize: False if the rows are unit vectors already.
    block_size: None, or a divisor of B * V.

  Returns:
    [B, V]. The SimCLR code base reports twice its mean.

  Example:
    >>> z = jnp.eye(4).reshape(2, 2, 4)  # all rows are orthogonal: log 3
    >>> print(ntxent(z, temperature=0.2).round(2))
    [[1.1 1.1]
     [1.1 1.1]]
  """
  rows = _rows(z, normalize)
  if block_size is not None:
    views = rows.reshape(z.shape)
    own = similarity(views, views) / temperature
    positive = logsumexp(own, jnp.broadcast_to(~jnp.eye(z.shape[1], dtype=bool), own.shape))
    found = _in_blocks(
      rows, None, _over_others(temperature), num_views=z.shape[1], block_size=block_size
    )
    log_d = found.log_denominator
  else:
    scores = similarity(rows, rows) / temperature
    pairs = pair_masks(*z.shape[:2])
    log_d = logsumexp(scores, pairs.other)
    positive = logsumexp(scores, pairs.positive).reshape(z.shape[:2])
  if include_anchor:
    log_d = jnp.logaddexp(log_d, jnp.sum(rows * rows, -1) / temperature)
  return log_d.reshape(z.shape[:2]) - positive


def supcon(
  z: Array,
  labels: Array | None = None,
  mask: Array | None = None,
  *,
  temperature: float | Array = 0.1,
  base_temperature: float | None = None,
  anchors: Anchors = 'all',
  normalize: bool = True,
  block_size: int | None = None,
) -> Array:
  """Supervised contrastive loss L_out per anchor (Khosla et al., https://arxiv.org/abs/2004.11362).

  L_a = -(T / T_base) / |P(a)| * sum_{p in P(a)} [ s_ap - log sum_{j != a} exp(s_aj) ]; an anchor
  without positives contributes 0 and still counts in a mean (the official code since Dec 2023).

  Args:
    z: [B, V, D].
    labels: [B] classes; None with a mask, or if the views of a sample are its positives.
    mask: [B, B] positives between samples instead of labels (row = anchor, may be asymmetric).
    temperature: default 0.1 (official CIFAR recipe).
    base_temperature: None = `temperature`, i.e. no rescaling (the official default is 0.07).
    anchors: 'all' rows, or 'one' for view 0 only; the contrast set keeps all views.
    normalize: False if the rows are unit vectors already.
    block_size: None, or a divisor of B * V; not with a mask.

  Returns:
    [B, V], or [B, 1] for anchors='one'.

  Example:
    >>> z = jnp.eye(4)[:, None]  # 4 images with one view each
    >>> print(supcon(z, jnp.array([0, 0, 1, 2])).round(2)[:, 0])  # the last two have no positive
    [1.1 1.1 0.  0. ]
  """
  check_name(get_args(Anchors), anchors, 'anchors')
  batch_size, num_views, _ = z.shape
  rows = _rows(z, normalize)
  step = num_views if anchors == 'one' else 1
  over_others = _over_others(temperature)
  if block_size is None:
    pairs = pair_masks(batch_size, num_views, labels=labels, mask=mask)
    pairs = Pairs(*(m[::step] for m in pairs))
    found = _at_once(similarity(rows[::step], rows), pairs, over_others)
  else:
    if mask is not None:
      raise ValueError('block_size does not support a mask: use labels')
    found = _in_blocks(
      rows, labels, over_others, num_views=num_views, block_size=block_size, step=step
    )
  # An empty denominator (a single row) is -inf and has no positives: select before subtracting.
  valid = found.count > 0
  log_d = jnp.where(valid, found.log_denominator, 0.0)
  per_anchor = jnp.where(valid, log_d - found.positive_mean / temperature, 0.0)
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
  block_size: int | None = None,
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
    block_size: None, or a divisor of B * V.

  Example:
    >>> z = jnp.eye(4).reshape(2, 2, 4)
    >>> print(tcl(z, k1=4000.0).per_anchor.round(2))  # log(1 + 4000 + 2)
    [[8.29 8.29]
     [8.29 8.29]]
  """
  rows, hyper = _rows(z, normalize), {'temperature': temperature, 'k1': k1, 'k2': k2}
  if block_size is None:
    result = tcl_rows(rows, rows, pair_masks(*z.shape[:2], labels=labels), **hyper)
  else:
    terms = _of_tcl(**hyper)
    found = _in_blocks(rows, labels, terms, num_views=z.shape[1], block_size=block_size)
    result = _tcl(found, temperature)
  return TCL(*(x.reshape(z.shape[:2]) for x in result))


def tcl_rows(anchor: Array, contrast: Array, pairs: Pairs, *, temperature, k1, k2) -> TCL:
  """TCL for unit rows: anchors [A, D] against all rows [M, D]."""
  terms = _of_tcl(temperature=temperature, k1=k1, k2=k2)
  return _tcl(_at_once(similarity(anchor, contrast), pairs, terms), temperature)


def _of_tcl(**hyper) -> _Denominator:
  return lambda cosine, pairs: denominator_terms(_sets(cosine, pairs, **hyper))


def _tcl(found: _Found, temperature) -> TCL:
  valid = found.count > 0
  finite = jnp.where(valid, found.log_denominator, 0.0)
  per_anchor = jnp.where(valid, finite - found.positive_mean / temperature, 0.0)
  return TCL(per_anchor, found.log_denominator, valid)


def _sets(cosine: Array, pairs: Pairs, **hyper) -> ScoreSets:
  return ScoreSets(cosine, cosine, pairs.positive, pairs.other & ~pairs.positive, **hyper)


def pair_sets(
  z: Array,
  labels: Array | None = None,
  *,
  temperature: float | Array,
  anchors: Anchors = 'all',
  k1: float = 0.0,
  k2: float = 1.0,
  normalize: bool = True,
) -> ScoreSets:
  """Scores [A, M] of A anchors against M rows, as the losses compare them; for statistics.

  Args:
    z: [B, V, D]; A = M = B * V, or A = B for anchors='one'.
    labels: [B] classes; None: the views of a sample are its positives.
    temperature, anchors, k1, k2, normalize: as for the losses; k1 = 0 and k2 = 1 for all but TCL.
  """
  check_name(get_args(Anchors), anchors, 'anchors')
  rows = _rows(z, normalize)
  step = z.shape[1] if anchors == 'one' else 1
  pairs = Pairs(*(m[::step] for m in pair_masks(*z.shape[:2], labels=labels)))
  cosine = similarity(rows[::step], rows)
  return _sets(cosine, pairs, temperature=temperature, k1=k1, k2=k2)


def responses(
  z: Array,
  labels: Array | None = None,
  *,
  temperature: float | Array = 0.1,
  k1: float = 0.0,
  k2: float = 1.0,
  normalize: bool = True,
) -> tuple[Array, Array]:
  """`score_statistics.responses` of embeddings [B, V, D]; arguments as for `tcl`.

  k1 = 0, k2 = 1 give SupCon's.
  """
  hyper = {'temperature': temperature, 'k1': k1, 'k2': k2}
  return score_statistics.responses(pair_sets(z, labels, normalize=normalize, **hyper))
