"""BYOL: Grill et al., https://arxiv.org/abs/2006.07733."""

import flax.linen as nn
import jax

from clr_jax.core.bounds import Dimension, Positive
from clr_jax.core.options import takes_options_of
from clr_jax.core.types import Method, RunInfo
from clr_jax.losses import distillation as losses
from clr_jax.models import heads
from clr_jax.ops.similarity import l2_normalize
from clr_jax.plugins.pipeline import NONE, Pipeline, Plugins
from clr_jax.skeletons.self_distillation import distillation


@takes_options_of(distillation, momentum=0.99, final_momentum=1.0, ema_index='current')
def byol(
  backbone: nn.Module,
  info: RunInfo,
  *,
  projector: heads.Recipe = 'byol',
  hidden_dim: Dimension = 4096,
  out_dim: Dimension = 256,
  predictor: heads.Recipe = 'byol',
  predictor_dim: Dimension = 4096,
  loss_scale: Positive = 1.0,
  symmetric: bool = True,
  plugins: Plugins = NONE,
  **target,
) -> Method:
  """Predicts the target network's projection of the other view; local views are only queries.

  Args:
    projector: recipe of `clr_jax.models.heads`; 'byol_deepmind' has no last bias.
    hidden_dim: width of the hidden layers of the projector; 4096 (paper).
    out_dim: length of the embeddings; 256 (paper).
    predictor: recipe of `clr_jax.models.heads`.
    predictor_dim: hidden width of the predictor; 4096 (paper), 8192 on ImageNet-100 (solo-learn).
    loss_scale: factor of the loss; 1 = the sum over the pairs of views (paper); 0.5 = the mean
      over the two pairs.
    symmetric: each view is predicted from the other (official); False: only view 0 from view 1,
      as with a strong view for the student and a weak one for the teacher (margins paper).
    plugins: see `clr_jax.plugins.pipeline`.
    **target: options of `distillation`: momentum .99 (solo-learn; DeepMind for 100 and 300 epochs;
      .996 for 1000), final_momentum 1 (paper); ema_index 'current' (DeepMind and solo-learn average
      after the optimizer); per_view_bn True (both embed one view at a time).
  """
  pipeline = Pipeline(plugins, 'byol', negatives=False, softmax=False, free_anchor=True)
  num_queries = 2 if symmetric else 1

  def loss(out, state, batch, rng, step):
    del state, batch
    target = l2_normalize(jax.lax.stop_gradient(out.target))
    cosine = pipeline.pair_scores(
      l2_normalize(out.online)[:, None], target[:, :, None], rng=rng, step=step
    )
    pairs = 2 - 2 * cosine.mean(0)
    return loss_scale * (losses.other_views(pairs) if symmetric else pairs).sum(), {}, {}

  return distillation(
    'byol',
    {
      'backbone': backbone,
      'projector': heads.make(projector, hidden_dim=hidden_dim, out_dim=out_dim),
    },
    loss,
    info,
    pairs='own',
    predictor=heads.make(predictor, hidden_dim=predictor_dim, out_dim=out_dim),
    online_views=slice(0, num_queries),
    target_views=slice(2 - num_queries, 2),
    local_views=True,
    **target,
  )
