"""MoCo v3: Chen, Xie & He, https://arxiv.org/abs/2104.02057."""

import flax.linen as nn
import jax

from clr_jax.core.bounds import Dimension, Positive, Probability, Temperature
from clr_jax.core.options import takes_options_of
from clr_jax.core.types import Method, RunInfo
from clr_jax.losses.scores import infonce, score_sets
from clr_jax.models import heads
from clr_jax.ops.similarity import l2_normalize
from clr_jax.plugins.pipeline import NONE, Pipeline, Plugins
from clr_jax.skeletons.joint_embedding import check_two_views
from clr_jax.skeletons.self_distillation import distillation


@takes_options_of(distillation, momentum=0.99, final_momentum=1.0)
def moco_v3(
  backbone: nn.Module,
  info: RunInfo,
  *,
  temperature: Temperature = 1.0,
  beta: Probability = 1.0,
  projector: heads.Recipe = 'mocov3_projector',
  hidden_dim: Dimension = 4096,
  out_dim: Dimension = 256,
  predictor: heads.Recipe = 'mocov3_predictor',
  predictor_dim: Dimension = 4096,
  loss_scale: Positive | None = None,
  symmetric: bool = True,
  plugins: Plugins = NONE,
  **target,
) -> Method:
  """Contrasts predictions with the target network's keys of the other view, within the batch.

  Args:
    temperature: divisor of the similarities; 1 (official, ResNet-50), .2 (solo-learn on CIFAR;
      official ViT).
    beta: weight of the logarithm of the denominator; 1 = InfoNCE (official), 0 = positives only
      (margins paper, eq. 6).
    projector: recipe of `clr_jax.models.heads`.
    hidden_dim: width of the hidden layers of the projector; 4096 (official).
    out_dim: length of the embeddings; 256 (official).
    predictor: recipe of `clr_jax.models.heads`.
    predictor_dim: hidden width of the predictor; 4096 (official).
    loss_scale: factor of each direction; None = 2 temperature (official), 1 = InfoNCE itself.
    symmetric: each view is predicted from the other (official); False: only view 0 from view 1,
      as with a strong view for the student and a weak one for the teacher (margins paper).
    plugins: see `clr_jax.plugins.pipeline`.
    **target: options of `distillation`: momentum .99 (official; .996 for 1000 epochs),
      final_momentum 1 (official); ema_index 'next' (official: the average precedes the keys;
      'current' in solo-learn); per_view_bn True (official code embeds one view at a time).
  """
  check_two_views('moco_v3', info)
  num_queries = 2 if symmetric else 1
  scale = 2 * temperature if loss_scale is None else loss_scale
  pipeline = Pipeline(plugins, 'moco_v3', negatives=beta > 0, softmax=beta > 0, free_anchor=True)

  def compare(out, rng, step):
    query, keys = l2_normalize(out.online), l2_normalize(jax.lax.stop_gradient(out.target))

    def one_way(view):
      return pipeline.scores(
        query[:, view, None],
        keys[:, -1 - view, None],
        keys[:, -1 - view],
        own=1,
        temperature=temperature,
        rng=jax.random.fold_in(rng, view),
        step=step,
      )

    return [one_way(view) for view in range(num_queries)]

  def loss(out, state, batch, rng, step):
    del state, batch
    each = [infonce(s, temperature=temperature, beta=beta).mean() for s in compare(out, rng, step)]
    return sum(scale * mean for mean in each), {}, {}

  def scores(out, state, batch, rng, step):
    del state, batch
    return score_sets(*compare(out, rng, step), temperature=temperature)

  method = distillation(
    'moco_v3',
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
    **target,
  )
  return method._replace(scores=scores)
