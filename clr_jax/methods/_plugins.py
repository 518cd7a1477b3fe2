"""What any InfoNCE-shaped method can be trained with, in the order in which it acts on a loss.

1. Feature transformation moves the positive pair apart and interpolates negatives, 2. MoCHi adds
negatives mixed from the hardest untransformed ones, 3. margins change the positive score, 4.
gradient scaling weighs the gradients of the scores. All are off by default. A method calls
`Plugins.scores` (or `Plugins.pair_scores`, without negatives) where it compares embeddings, and
`Plugins.check` to refuse what has no meaning for it. Un-Mix and the layer-by-layer loss, which need
more than embeddings, wrap a method.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from clr_jax.lookup import check_name
from clr_jax.losses import feature_transformation as ft
from clr_jax.losses import margin as margins
from clr_jax.losses import mochi as mixing
from clr_jax.losses.scores import Scores, batch_scores, pair_scores, queue_scores, view_major
from clr_jax.types import Array, RunInfo, UserError

_SCOPES = ('none', *ft.SCOPES)


class FeatureTransformation(NamedTuple):
  """Settings made by `feature_transformation`."""

  positive: str
  negative: str
  positive_quantiles: np.ndarray
  negative_quantiles: np.ndarray
  union: bool
  postnorm: bool
  start: float

  def move_pair(self, rng: Array, query: Array, key: Array, step: Array) -> tuple[Array, Array]:
    """`ft.extrapolate` of [B, ..., D]; the views of an image share their draw."""
    if self.positive == 'none':
      return query, key
    query, key = jnp.broadcast_arrays(query, key)
    lam = ft.draw_positive(
      rng, (len(query), query.shape[-1]), scope=self.positive, quantiles=self.positive_quantiles
    )
    lam = lam.reshape(lam.shape[0], *[1] * (query.ndim - 2), lam.shape[1]).astype(query.dtype)
    started = step >= self.start
    lam = jnp.where(started, lam, 1.0)
    return ft.extrapolate(query, key, lam, postnorm=self.postnorm)

  def negatives(
    self, rng: Array, query: Array, rows: Array, *, own: int, step: Array
  ) -> tuple[Array, Array | None]:
    """Scores of [B, V, D] against interpolated rows, behind the plain ones with `union`; mask."""
    places = len(rows) - own
    lam, partner = ft.draw_negative(
      rng, (places, rows.shape[-1]), scope=self.negative, quantiles=self.negative_quantiles
    )
    started = step >= self.start
    lam = jnp.where(started, lam.astype(rows.dtype), 1.0)
    scores = ft.interpolated_scores(query, rows, lam, partner, own=own)
    if not self.union:
      return scores, None
    plain = ft.plain_scores(query, rows, own=own)
    where = started | (jnp.arange(2 * places) < places)
    return jnp.concatenate([plain, scores], -1), jnp.broadcast_to(
      where, (*plain.shape[:-1], 2 * places)
    )


def feature_transformation(
  info: RunInfo,
  *,
  positive: str = 'none',
  negative: str = 'none',
  positive_alpha: float = 2.0,
  negative_alpha: float = 1.6,
  distribution: str = 'beta',
  union: bool = False,
  postnorm: bool = False,
  start_epoch: float = 0.0,
) -> FeatureTransformation | None:
  """Zhu et al., https://arxiv.org/abs/2108.02982: positives extrapolated, negatives interpolated.

  Args:
    positive: 'none', or one draw of the weight for the 'batch' (the published commands), each 'row'
      or each row and 'dim'.
    negative: the same for the negatives.
    positive_alpha: of Beta(a, a); 2.0 (code, best of the paper's table).
    negative_alpha: 1.6 (code, best of the paper's table).
    distribution: 'beta' or 'uniform' (an option of the code).
    union: the interpolated negatives are added to the plain ones instead of replacing them.
    postnorm: re-normalises the extrapolated pair; False in the code.
    start_epoch: epochs without it at the start; 0 (code and paper: the earlier the better).
  """
  for key, value in (('positive', positive), ('negative', negative)):
    check_name(_SCOPES, value, f'plugins.feature_transformation.{key}')
  if union and negative == 'none':
    raise UserError(
      'plugins.feature_transformation.union adds interpolated negatives: set '
      "plugins.feature_transformation.negative to 'batch', 'row' or 'dim' too"
    )
  if postnorm and positive == 'none':
    raise UserError(
      'plugins.feature_transformation.postnorm is of the extrapolated pair: set '
      "plugins.feature_transformation.positive to 'batch', 'row' or 'dim' too"
    )
  if positive == negative == 'none':
    return None
  return FeatureTransformation(
    positive,
    negative,
    ft.beta_quantiles(positive_alpha, distribution),
    ft.beta_quantiles(negative_alpha, distribution),
    union,
    postnorm,
    _start_step('feature_transformation', start_epoch, info),
  )


class Mochi(NamedTuple):
  """Settings made by `mochi`."""

  num_hard: int
  num_mixed: int
  num_query_mixed: int
  start: float

  def negatives(
    self, rng: Array, query: Array, rows: Array, *, where: Array | None, own: int
  ) -> Array:
    """Synthetic negatives [B, V, s + s', D] of queries [B, V, D], constants."""
    if self.num_hard > len(rows) - own:
      raise UserError(
        f'there are {len(rows) - own} negatives to choose plugins.mochi.num_hard={self.num_hard} '
        f'from: lower it'
      )
    hard = rows[mixing.hardest(query, rows, self.num_hard, where=where)]
    sizes = {k: v for k, v in self._asdict().items() if k.startswith('num_')}
    draws = mixing.draw(rng, query.shape[:-1], **sizes)
    return jnp.concatenate(mixing.mix(query, hard, draws), -2)


def mochi(
  info: RunInfo,
  *,
  num_mixed: int = 0,
  num_query_mixed: int = 0,
  num_hard: int = 1024,
  start_epoch: float = 10.0,
) -> Mochi | None:
  """MoCHi, Kalantidis et al., https://arxiv.org/abs/2010.01028: mixtures of hard negatives.

  Args:
    num_mixed: s, mixtures of two hard negatives; 1024 in the paper, 0 = none.
    num_query_mixed: s', mixtures of the query and a hard negative; 128 in the paper, 0 = none.
    num_hard: N, the hardest negatives to mix from; 1024 (paper).
    start_epoch: epochs without it at the start; 10 on ImageNet-100, 15 on ImageNet (paper).
  """
  if min(num_mixed, num_query_mixed) < 0:
    raise UserError('plugins.mochi.num_mixed and num_query_mixed count negatives: set them >= 0')
  if not num_mixed and not num_query_mixed:
    return None
  needed = 2 if num_mixed else 1
  if num_hard < needed:
    raise UserError(f'plugins.mochi.num_hard={num_hard} leaves nothing to mix: set it >= {needed}')
  start = _start_step('mochi', start_epoch, info)
  return Mochi(num_hard, num_mixed, num_query_mixed, start)


class Margin(NamedTuple):
  """Settings made by `margin`."""

  angular: float
  subtractive: float
  beyond: str

  def apply(self, cosine: Array, query: Array, key: Array) -> Array:
    """`margins.add_margin` to the cosines of unit rows."""
    if not self.angular:
      return cosine - self.subtractive
    return margins.add_margin(
      cosine,
      margins.sine(query, key),
      angular=self.angular,
      subtractive=self.subtractive,
      beyond=self.beyond,
    )


def margin(
  info: RunInfo, *, angular: float = 0.0, subtractive: float = 0.0, beyond: str = 'raw'
) -> Margin | None:
  """Margins of the positive, cos(theta + m1) - m2: https://arxiv.org/abs/2306.11526, eq. 7.

  Args:
    angular: m1 in radians; MoCo v3 on CIFAR-10 0.1, SimCLR 0.5 (paper), 0 = none.
    subtractive: m2 in units of the cosine; 0.4 for both (paper), 0 = none.
    beyond: for theta + m1 > pi: 'raw', 'arcface' or 'clip' (see `losses.margin.add_margin`).
  """
  del info
  check_name(margins.BEYOND, beyond, 'plugins.margin.beyond')
  if not 0 <= angular < np.pi:
    raise UserError(f'plugins.margin.angular={angular} is an angle in radians, in [0, pi)')
  if not 0 <= subtractive < float('inf'):
    raise UserError(f'plugins.margin.subtractive={subtractive} must be finite and not negative')
  if beyond != 'raw' and not angular:
    raise UserError('plugins.margin.beyond is of an angular margin: set plugins.margin.angular too')
  return Margin(angular, subtractive, beyond) if angular or subtractive else None


class GradientScaling(NamedTuple):
  """Settings made by `gradient_scaling`."""

  emphasis: float
  curvature: float | None
  attenuation: str
  strength: float

  def weigh_pair(self, score: Array, cosine: Array) -> Array:
    """Positives without negatives: emphasis and curve only; `cosine` is without margin."""
    weight = self.emphasis * margins.curve(cosine, self.curvature)
    return margins.scale_gradient(score, weight)


def gradient_scaling(
  info: RunInfo,
  *,
  emphasis: float = 1.0,
  curvature: float | None = None,
  attenuation: str = 'none',
  strength: float = 1.0,
) -> GradientScaling | None:
  """Scales gradients and leaves the loss value: https://arxiv.org/abs/2306.11526, eq. 16 to 21.

  Args:
    emphasis: s, of the positive's gradient; MoCo v3 on CIFAR-10 20, SimCLR 1.125 (paper), 1 = none.
    curvature: c of 1 - (theta / pi)^c; with it the paper's s is 20 for MoCo v3 and 2.5 for SimCLR,
      c .7 for both on CIFAR-10; BYOL has c 1; None = none.
    attenuation: 'type1' undoes the vanishing factor 1 - p of positive and negatives, 'type2' that
      of the positive; 'none'.
    strength: a of the attenuation, 0 to 1; 1 - exp(-m2 / T) is a subtractive margin's.
  """
  del info
  check_name(margins.ATTENUATIONS, attenuation, 'plugins.gradient_scaling.attenuation')
  if not 0 <= emphasis < float('inf'):
    raise UserError(f'plugins.gradient_scaling.emphasis={emphasis} must be finite, not negative')
  if curvature is not None and not curvature > 0:
    raise UserError(f'plugins.gradient_scaling.curvature={curvature} must be positive')
  if not 0 <= strength <= 1:
    raise UserError(f'plugins.gradient_scaling.strength={strength} must lie in [0, 1]')
  if strength != 1 and attenuation == 'none':
    raise UserError(
      'plugins.gradient_scaling.strength is of an attenuation: set '
      "plugins.gradient_scaling.attenuation to 'type1' or 'type2' too"
    )
  if emphasis == 1 and curvature is None and attenuation == 'none':
    return None
  return GradientScaling(emphasis, curvature, attenuation, strength)


def _start_step(name: str, start_epoch: float, info: RunInfo) -> float:
  start = start_epoch * info.steps_per_epoch
  if not 0 <= start < info.total_steps:
    raise UserError(
      f'plugins.{name}.start_epoch={start_epoch} is not within the run '
      f'({info.total_steps / info.steps_per_epoch:g} epochs): lower it'
    )
  return start


FACTORIES = {f.__name__: f for f in (feature_transformation, mochi, margin, gradient_scaling)}


class Plugins(NamedTuple):
  """The plug-ins of a run, None = off; each was made by the function of its name above."""

  feature_transformation: FeatureTransformation | None = None
  mochi: Mochi | None = None
  margin: Margin | None = None
  gradient_scaling: GradientScaling | None = None

  @property
  def active(self) -> tuple[str, ...]:
    """Names of those that are on."""
    return tuple(k for k, v in self._asdict().items() if v is not None)

  def check(
    self, name: str, *, negatives: bool = True, softmax: bool = True, free_anchor: bool = True
  ) -> None:
    """UserError for what has no meaning for the method `name`, or in this combination.

    Args:
      name: of the method.
      negatives: it has negatives.
      softmax: its gradients have the factor 1 - p of a softmax over positive and negatives.
      free_anchor: the anchors carry gradient, so that constant negatives can push them away.
    """
    moved, scaling = self.feature_transformation, self.gradient_scaling
    if not negatives and (self.mochi or (moved and moved.negative != 'none')):
      raise UserError(
        f'{name} has no negatives to mix: set plugins.mochi.num_mixed, num_query_mixed to 0 and '
        f"plugins.feature_transformation.negative to 'none'"
      )
    if not free_anchor and self.mochi:
      raise UserError(
        f'the anchors of {name} are constants like the mixed negatives, which then push nothing: '
        f'set plugins.mochi.num_mixed, num_query_mixed to 0'
      )
    if not negatives and scaling and scaling.emphasis != 1:
      raise UserError(
        f'{name} has no negatives, so that an emphasis of positives only scales the learning rate: '
        f'set plugins.gradient_scaling.emphasis to 1'
      )
    if not softmax and scaling and scaling.attenuation != 'none':
      raise UserError(
        f'{name} has no softmax over positive and negatives whose 1 - p an attenuation could undo: '
        f"set plugins.gradient_scaling.attenuation to 'none'"
      )
    if not softmax and self.margin and self.margin.subtractive:
      raise UserError(
        f"in {name} a subtractive margin only shifts the loss's value: set "
        f'plugins.margin.subtractive to 0'
      )
    angles = (self.margin and self.margin.angular) or (scaling and scaling.curvature is not None)
    if moved and moved.positive != 'none' and not moved.postnorm and angles:
      raise UserError(
        'an extrapolated pair has no angle, for it is not of unit length: set '
        'plugins.feature_transformation.postnorm=True, or neither plugins.margin.angular nor '
        'plugins.gradient_scaling.curvature'
      )

  def scores(
    self,
    query: Array,
    key: Array,
    rows: Array,
    *,
    own: int,
    temperature: float | Array,
    rng: Array,
    step: Array,
  ) -> Scores:
    """Scores of queries with their keys and the rows that are no views of the same image.

    Args:
      query, key: [B, V, D] unit vectors; detach what carries no gradient.
      rows: [M, D] unit vectors.
      own: 0 for a queue; else the rows are view-major and `own` of them are of the query's image
        (see `batch_scores`).
      temperature: of the loss, > 0.
      rng: the key of the loss; `step` its number.
    """
    moved, raw = self.feature_transformation, query
    if moved or self.mochi:
      pair_key, moved_key, mixed_key = jax.random.split(rng, 3)
    if moved:
      query, key = moved.move_pair(pair_key, query, key, step)
    scores = batch_scores(query, key, rows, own=own) if own else queue_scores(query, key, rows)
    mask = scores.where
    if moved and moved.negative != 'none':
      negative, where = moved.negatives(moved_key, query, rows, own=own, step=step)
      scores = Scores(scores.positive, negative, where)
    if self.mochi:
      synthetic = self.mochi.negatives(mixed_key, raw, rows, where=mask, own=own)
      scores = scores.with_negatives(query, synthetic, where=step >= self.mochi.start)
    plain = scores
    if self.margin:
      scores = scores._replace(positive=self.margin.apply(plain.positive, query, key))
    if self.gradient_scaling:
      scaling: Any = self.gradient_scaling._asdict()
      scores = margins.scale_scores(scores, plain=plain, temperature=temperature, **scaling)
    return scores

  def two_view_scores(
    self, z: Array, *, temperature: float | Array, rng: Array, step: Array
  ) -> Scores:
    """`scores` of NT-Xent: unit vectors [B, 2, D], each view the key of the other."""
    options: Any = {'own': 2, 'temperature': temperature, 'rng': rng, 'step': step}
    return self.scores(z, z[:, ::-1], view_major(z), **options)

  def pair_scores(self, query: Array, key: Array, *, rng: Array, step: Array) -> Array:
    """Cosines of unit vectors [B, ..., D] for methods without negatives; shapes broadcast."""
    if self.feature_transformation:
      query, key = self.feature_transformation.move_pair(rng, query, key, step)
    query, key = jnp.broadcast_arrays(query, key)
    cosine = score = pair_scores(query, key)
    if self.margin:
      score = self.margin.apply(cosine, query, key)
    return self.gradient_scaling.weigh_pair(score, cosine) if self.gradient_scaling else score


NONE = Plugins()
