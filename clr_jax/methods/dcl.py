"""DCL and DCLW, decoupled contrastive learning: Yeh et al., https://arxiv.org/abs/2110.06848."""

from typing import Annotated

import flax.linen as nn

from clr_jax.core.bounds import Dimension, Positive, Temperature
from clr_jax.core.options import OnlyWith
from clr_jax.core.types import Method, RunInfo
from clr_jax.losses import decoupled
from clr_jax.models import heads
from clr_jax.skeletons.joint_embedding import (
  check_two_views,
  joint_embedding,
  mean_loss,
  scores_in_batch,
)


def dcl(
  backbone: nn.Module,
  info: RunInfo,
  *,
  temperature: Temperature = 0.1,
  negative_views: decoupled.NegativeViews = 'both',
  weighted: bool = False,
  sigma: Annotated[Temperature, OnlyWith('weighted')] = 0.5,
  weight_stop_gradient: Annotated[bool, OnlyWith('weighted')] = True,
  projector: heads.Recipe = 'debiased',
  hidden_dim: Dimension = 512,
  out_dim: Dimension = 128,
  per_view_bn: bool = True,
  loss_scale: Positive = 1.0,
) -> Method:
  """Contrastive learning whose denominator contains only the negatives.

  Args:
    temperature: divisor of the similarities; 0.1 (paper).
    negative_views: negatives of an anchor: 'both' views of the other images (paper), or only the
      'other' view than the anchor's (eq. 1 of the TAMU report on SogCLR).
    weighted: DCLW, which gives distant positives larger weights.
    sigma: width of these weights; 0.5 (paper).
    weight_stop_gradient: treat the weights as constants (lightly); False as in the PyTorch code of
      raminnakhli.
    projector: recipe of `clr_jax.models.heads`.
    hidden_dim: width of the hidden layers of the projector; 512 (raminnakhli).
    out_dim: length of the embeddings; 128 (raminnakhli).
    per_view_bn: separate BatchNorm statistics per view (raminnakhli embeds one view at a time).
    loss_scale: factor of the loss; 1 = mean of the two directions (lightly); 2 = their sum (paper).
  """
  check_two_views('dcl', info)
  head = heads.make(projector, hidden_dim=hidden_dim, out_dim=out_dim)

  def loss(out, state, batch, rng, step):
    del state, batch, rng, step
    per_anchor = decoupled.dcl(
      out.online,
      temperature=temperature,
      negative_views=negative_views,
      sigma=sigma if weighted else None,
      weight_stop_gradient=weight_stop_gradient,
    )
    return mean_loss({}, loss_scale * per_anchor)

  method = joint_embedding(
    'dcl',
    {'backbone': backbone, 'projector': head},
    loss,
    pairs='own',
    per_view=per_view_bn,
  )
  all_scores = scores_in_batch(temperature=temperature)

  def scores_of_other_view(*args):
    sets = all_scores(*args)
    where = sets.negative_where & decoupled.of_other_view(len(sets.negative_where))
    return sets._replace(negative_where=where)

  return method._replace(scores=all_scores if negative_views == 'both' else scores_of_other_view)
