"""SogCLR: Yuan et al., https://arxiv.org/abs/2202.12387 (the report's baseline)."""

import flax.linen as nn

from clr_jax.core.bounds import Dimension, Epsilon, Temperature
from clr_jax.core.options import takes_options_of
from clr_jax.core.types import Method, RunInfo
from clr_jax.losses import global_contrastive as gcl
from clr_jax.losses.scores import score_sets
from clr_jax.models import heads
from clr_jax.ops.similarity import l2_normalize
from clr_jax.plugins.pipeline import NONE, Pipeline, Plugins
from clr_jax.skeletons.joint_embedding import (
  BlockSize,
  check_block_size,
  check_two_views,
  joint_embedding,
  mean_loss,
)
from clr_jax.skeletons.table_state import moving_average, write_tables


@takes_options_of(moving_average)
def sogclr(
  backbone: nn.Module,
  info: RunInfo,
  *,
  temperature: Temperature = 0.3,
  eps: Epsilon = 1e-8,
  projector: heads.Recipe = 'sogclr',
  hidden_dim: Dimension = 2048,
  out_dim: Dimension = 128,
  per_view_bn: bool = True,
  block_size: BlockSize = None,
  plugins: Plugins = NONE,
  **averaging,
) -> Method:
  """Global contrastive learning with one moving average u for each training example.

  Args:
    temperature: divisor of the similarities; 0.3 on CIFAR (the report), 0.1 on ImageNet.
    eps: floor of u in the weights: 1e-8 (LibAUC), 0 in the other code bases.
    projector: recipe of `clr_jax.models.heads`.
    hidden_dim: width of the hidden layers of the projector; 2048 (official).
    out_dim: length of the embeddings; 128 (official).
    per_view_bn: separate BatchNorm statistics per view (official code embeds one at a time).
    block_size: columns of the similarity matrix computed at a time, a divisor of the rows of a
      batch, to save memory (`clr_jax.ops.blocked`). Telemetry then leaves out scores.
    plugins: see `clr_jax.plugins.pipeline`.
    **averaging: options of `moving_average`.
  """
  check_two_views('sogclr', info)
  check_block_size('sogclr', block_size, info, [f'plugins.{name}' for name in plugins])
  pipeline = Pipeline(plugins, 'sogclr', negatives=True, softmax=False, free_anchor=True)
  average = moving_average(info, **averaging)

  def compare(out, rng, step):
    z = l2_normalize(out.online)
    return pipeline.two_view_scores(z, temperature=temperature, rng=rng, step=step)

  def loss(out, state, batch, rng, step):
    log_u, weight = average.read(state, batch, step)
    hyper = {'temperature': temperature, 'gamma': weight, 'eps': eps}
    if block_size:
      result = gcl.sogclr(out.online, log_u, **hyper, block_size=block_size)
    else:
      result = gcl.estimate(compare(out, rng, step), log_u, **hyper)
    mean, _, metrics = mean_loss({'objective': result.objective.mean()}, result.per_example)
    return mean, average.carry(batch, result.log_u), metrics

  def scores(out, state, batch, rng, step):
    del state, batch
    return score_sets(compare(out, rng, step), temperature=temperature)

  method = joint_embedding(
    'sogclr',
    {
      'backbone': backbone,
      'projector': heads.make(projector, hidden_dim=hidden_dim, out_dim=out_dim),
    },
    loss,
    pairs='own',
    per_view=per_view_bn,
    init_state=average.init,
    post_update=write_tables,
  )
  return method if block_size else method._replace(scores=scores)
