"""iSogCLR, per-example temperatures: Qiu et al., https://arxiv.org/abs/2305.11965."""

import flax.linen as nn

from clr_jax.core.bounds import Dimension, Epsilon, NonNegative, Share, Temperature
from clr_jax.core.errors import UserError
from clr_jax.core.option_texts import described_by
from clr_jax.core.options import takes_options_of
from clr_jax.core.types import Method, RunInfo
from clr_jax.losses import global_contrastive as gcl
from clr_jax.losses.scores import score_sets
from clr_jax.losses.temperatures import temperature_gradient, temperature_step
from clr_jax.methods.sogclr import sogclr
from clr_jax.models import heads
from clr_jax.ops.similarity import l2_normalize
from clr_jax.plugins.pipeline import NONE, Pipeline, Plugins
from clr_jax.skeletons.joint_embedding import check_two_views, joint_embedding, mean_loss
from clr_jax.skeletons.table_state import moving_average, write_tables


@takes_options_of(moving_average, without=('combine',))
@described_by(sogclr)
def isogclr(
  backbone: nn.Module,
  info: RunInfo,
  *,
  temperature: Temperature = 0.1,
  rho: NonNegative = 0.3,
  eta: NonNegative = 0.01,
  beta: Share = 0.9,
  temperature_min: Temperature = 0.05,
  temperature_max: Temperature = 0.7,
  eps: Epsilon = 1e-8,
  projector: heads.Recipe = 'sogclr',
  hidden_dim: Dimension = 2048,
  out_dim: Dimension = 128,
  per_view_bn: bool = True,
  plugins: Plugins = NONE,
  **averaging,
) -> Method:
  """SogCLR with per-example temperatures, learned by a distributionally robust objective.

  An updated temperature takes effect at the example's next visit.

  Args:
    temperature: initial temperature of all examples, .1 (LibAUC; .5 in its CIFAR example).
    rho: robustness, larger = lower temperatures: .3 (LibAUC; .4 in its CIFAR example), tune in
      [.1, .5].
    eta: step size of the temperatures, .01 (LibAUC; .03 in its CIFAR example).
    beta: weight of the new gradient in their momentum, .9 (LibAUC; .5 in its CIFAR example).
    temperature_min, temperature_max: bounds of the temperatures, [.05, .7] (LibAUC).
    **averaging: options of `moving_average`.
  """
  check_two_views('isogclr', info)
  pipeline = Pipeline(plugins, 'isogclr', negatives=True, softmax=False, free_anchor=True)
  if not temperature_min <= temperature <= temperature_max:
    raise UserError(
      'isogclr needs method.temperature_min <= method.temperature <= method.temperature_max, '
      f'not {temperature_min}, {temperature}, {temperature_max}'
    )
  average = moving_average(info, **averaging)

  def compare(out, own, rng, step):
    return pipeline.two_view_scores(l2_normalize(out.online), temperature=own, rng=rng, step=step)

  def loss(out, state, batch, rng, step):
    log_u, weight = average.read(state, batch, step)
    own, momentum = (state['per_example'][k][batch.index] for k in ('temperature', 'momentum'))
    result = gcl.estimate(
      compare(out, own, rng, step), log_u, temperature=own, gamma=weight, eps=eps
    )
    gradient = temperature_gradient(result, own, rho=rho)
    new, momentum = temperature_step(
      own, momentum, gradient, eta=eta, beta=beta, bounds=(temperature_min, temperature_max)
    )
    metrics = {'objective': result.objective.mean(), 'temperature': own.mean()}
    mean, _, metrics = mean_loss(metrics, result.per_example)
    return mean, average.carry(batch, result.log_u, temperature=new, momentum=momentum), metrics

  def scores(out, state, batch, rng, step):
    own = state['per_example']['temperature'][batch.index]
    return score_sets(compare(out, own, rng, step), temperature=own)

  method = joint_embedding(
    'isogclr',
    {
      'backbone': backbone,
      'projector': heads.make(projector, hidden_dim=hidden_dim, out_dim=out_dim),
    },
    loss,
    pairs='own',
    per_view=per_view_bn,
    init_state=lambda: average.init(temperature=temperature, momentum=0.0),
    post_update=write_tables,
  )
  return method._replace(scores=scores)
