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

from clr_jax.core.errors import UserError
from clr_jax.core.types import Array
from clr_jax.losses import margin as margins
from clr_jax.losses.scores import Scores, batch_scores, pair_scores, queue_scores, view_major
from clr_jax.plugins.embeddings import FeatureTransformation, Mochi, feature_transformation, mochi
from clr_jax.plugins.scores import GradientScaling, Margin, gradient_scaling, margin

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
