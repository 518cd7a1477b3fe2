"""SimCLR: Chen et al., https://arxiv.org/abs/2002.05709."""

import flax.linen as nn

from clr_jax.core.bounds import Dimension, Positive, Probability, Temperature
from clr_jax.core.errors import UserError
from clr_jax.core.types import Method, RunInfo
from clr_jax.losses.contrastive import ntxent
from clr_jax.losses.scores import infonce, score_sets
from clr_jax.models import heads
from clr_jax.ops.similarity import l2_normalize
from clr_jax.plugins.pipeline import NONE, Pipeline, Plugins
from clr_jax.skeletons.joint_embedding import (
  BlockSize,
  check_block_size,
  joint_embedding,
  mean_loss,
  scores_in_batch,
)


def simclr(
  backbone: nn.Module,
  info: RunInfo,
  *,
  temperature: Temperature = 0.5,
  beta: Probability = 1.0,
  include_anchor: bool = False,
  projector: heads.Recipe = 'simclr',
  hidden_dim: Dimension = 2048,
  out_dim: Dimension = 128,
  per_view_bn: bool = False,
  loss_scale: Positive = 1.0,
  block_size: BlockSize = None,
  plugins: Plugins = NONE,
) -> Method:
  """NT-Xent between two or more views of each image.

  Args:
    temperature: divisor of the similarities; 0.5 on CIFAR-10, 0.1 on ImageNet (official README).
    beta: weight of the logarithm of the denominator; 1 = NT-Xent, 0 = positives only (margins
      paper, eq. 6). Others than 1 need two views.
    include_anchor: add the anchor's similarity to itself to the denominator (eq. 1 of the
      robustness report); not with plug-ins or another beta.
    projector: recipe of `clr_jax.models.heads`; 'simclr' has BatchNorm, 'solo_simclr' has none.
    hidden_dim: width of the projector's hidden layers.
    out_dim: length of the embeddings; 128 in the paper.
    per_view_bn: separate BatchNorm statistics per view; False = joint (official code).
    loss_scale: factor of the loss; 1 = mean over anchors (paper); 2 = the official code's sum over
      the two views.
    block_size: columns of the similarity matrix computed at a time, a divisor of the rows of a
      batch, to save memory (`clr_jax.ops.blocked`). Telemetry then leaves out scores.
    plugins: see `clr_jax.plugins.pipeline`.
  """
  if info.num_views < 2:
    raise UserError(
      f'simclr compares views of an image: set augment.num_views >= 2, not {info.num_views}'
    )
  # Reasons to compute the scores of pairs, not NT-Xent of all rows.
  reasons = [*(f'plugins.{name}' for name in plugins), *(['method.beta'] if beta != 1 else [])]
  check_block_size('simclr', block_size, info, reasons)
  pipeline = Pipeline(plugins, 'simclr', negatives=beta > 0, softmax=beta > 0, free_anchor=True)
  if reasons and info.num_views != 2:
    raise UserError(f'{" and ".join(reasons)} act on pairs of views: set augment.num_views=2')
  if reasons and include_anchor:
    raise UserError(
      f'simclr: method.include_anchor=True has no effect with {" or ".join(reasons)}: leave it out'
    )
  head = heads.make(projector, hidden_dim=hidden_dim, out_dim=out_dim)

  def compare(out, rng, step):
    z = l2_normalize(out.online)
    return pipeline.two_view_scores(z, temperature=temperature, rng=rng, step=step)

  def loss(out, state, batch, rng, step):
    del state, batch
    if not reasons:
      per_anchor = ntxent(
        out.online, temperature=temperature, include_anchor=include_anchor, block_size=block_size
      )
      return mean_loss({}, loss_scale * per_anchor)
    scores = compare(out, rng, step)
    return mean_loss({}, loss_scale * infonce(scores, temperature=temperature, beta=beta))

  def scores_of_pairs(out, state, batch, rng, step):
    del state, batch
    return score_sets(compare(out, rng, step), temperature=temperature)

  scores = scores_of_pairs if reasons else scores_in_batch(temperature=temperature)
  method = joint_embedding(
    'simclr',
    {'backbone': backbone, 'projector': head},
    loss,
    pairs='own',
    per_view=per_view_bn,
  )
  return method if block_size else method._replace(scores=scores)
