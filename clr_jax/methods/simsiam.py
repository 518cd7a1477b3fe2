"""SimSiam: Chen & He, https://arxiv.org/abs/2011.10566."""

import flax.linen as nn
import jax

from clr_jax.core.bounds import Dimension
from clr_jax.core.types import Group, Method, RunInfo
from clr_jax.losses import alignment
from clr_jax.models import heads
from clr_jax.ops.similarity import l2_normalize
from clr_jax.plugins.pipeline import NONE, Pipeline, Plugins
from clr_jax.skeletons.joint_embedding import check_two_views, joint_embedding, mean_loss


def simsiam(
  backbone: nn.Module,
  info: RunInfo,
  *,
  constant_predictor_lr: bool = True,
  projector: heads.Recipe = 'simsiam_projector',
  hidden_dim: Dimension = 2048,
  out_dim: Dimension = 2048,
  predictor: heads.Recipe = 'simsiam_predictor',
  predictor_dim: Dimension = 512,
  per_view_bn: bool = True,
  plugins: Plugins = NONE,
) -> Method:
  """Predicts the other view's projection, with a stopped gradient and without a target network.

  Args:
    constant_predictor_lr: keep the predictor's learning rate at the run's peak (official).
    projector: recipe of `clr_jax.models.heads`.
    hidden_dim: width of the hidden layers of the projector; 2048 (solo-learn; the official code
      uses the backbone's width).
    out_dim: length of the embeddings; 2048 (official).
    predictor: recipe of `clr_jax.models.heads`.
    predictor_dim: hidden width of the predictor; 512 (official).
    per_view_bn: separate BatchNorm statistics per view (official code embeds one at a time).
    plugins: see `clr_jax.plugins.pipeline`.
  """
  check_two_views('simsiam', info)
  pipeline = Pipeline(plugins, 'simsiam', negatives=False, softmax=False, free_anchor=True)
  chain = {
    'backbone': backbone,
    'projector': heads.make(projector, hidden_dim=hidden_dim, out_dim=out_dim),
    'predictor': heads.make(predictor, hidden_dim=predictor_dim, out_dim=out_dim),
  }

  def loss(out, state, batch, rng, step):
    del state, batch
    metrics = {'z_std': alignment.embedding_std(out.target)}
    other = l2_normalize(jax.lax.stop_gradient(out.target))[:, ::-1]
    return mean_loss(
      metrics, -pipeline.pair_scores(l2_normalize(out.online), other, rng=rng, step=step)
    )

  return joint_embedding(
    'simsiam',
    chain,
    loss,
    pairs='own',
    per_view=per_view_bn,
    target='projector',
    groups={'predictor': Group(peak_of=info.total_steps)} if constant_predictor_lr else None,
  )
