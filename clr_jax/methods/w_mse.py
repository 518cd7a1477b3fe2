"""W-MSE, whitening for self-supervised learning: Ermolov et al., https://arxiv.org/abs/2007.06346."""

import flax.linen as nn

from clr_jax.core.bounds import Dimension, Epsilon, Repeats, Rows
from clr_jax.core.errors import UserError
from clr_jax.core.types import Method, RunInfo
from clr_jax.losses import alignment
from clr_jax.models import heads
from clr_jax.ops import whitening
from clr_jax.skeletons.joint_embedding import joint_embedding, mean_loss


def w_mse(
  backbone: nn.Module,
  info: RunInfo,
  *,
  whitening_size: Rows = 128,
  whitening_iters: Repeats = 1,
  eps: Epsilon = 0.0,
  normalize: bool = True,
  symmetric: bool = True,
  projector: heads.Recipe = 'byol',
  hidden_dim: Dimension = 1024,
  out_dim: Dimension = 64,
  per_view_bn: bool = True,
) -> Method:
  """Pulls views together after whitening their embeddings in random chunks of the batch.

  Args:
    whitening_size: images per chunk: 128 (official, CIFAR), 256 with out_dim=128 elsewhere. Must
      exceed out_dim, preferably by a factor of two.
    whitening_iters: random divisions into chunks per step; 1 (official, CIFAR), 4 elsewhere.
    eps: shrinkage of the covariance towards I; 0 (official).
    normalize: compare unit rows after whitening (official).
    symmetric: send gradient to both views (official); False: to the first of each pair only
      (solo-learn).
    projector: recipe of `clr_jax.models.heads`.
    hidden_dim: width of the hidden layers of the projector; 1024 (official).
    out_dim: length of the embeddings; 64 (official, CIFAR).
    per_view_bn: separate statistics for each view (solo-learn); in the official code only the
      projector sees all views at once.
  """
  if info.num_views < 2:
    raise UserError(
      f'w_mse compares views of an image: set augment.num_views >= 2, not {info.num_views}'
    )
  if whitening_size <= (1 if eps > 0 else out_dim):
    raise UserError(
      f'w_mse cannot whiten {out_dim} dimensions with {whitening_size} images: set '
      f'method.whitening_size to twice method.out_dim, or at least above it, or method.eps above 0'
    )
  if info.batch_size % whitening_size:
    raise UserError(
      f'w_mse cuts batch_size={info.batch_size} into equal chunks: set method.whitening_size to a '
      f'divisor of it, not {whitening_size}'
    )
  head = heads.make(projector, hidden_dim=hidden_dim, out_dim=out_dim)

  def loss(out, state, batch, rng, step):
    del state, batch, step
    result = alignment.w_mse(
      out.online,
      whitening.permutations(rng, whitening_iters, len(out.online)),
      size=whitening_size,
      eps=eps,
      normalize=normalize,
      symmetric=symmetric,
    )
    return mean_loss({'failed_chunks': result.failed}, result.loss)

  return joint_embedding(
    'w_mse',
    {'backbone': backbone, 'projector': head},
    loss,
    pairs='own',
    per_view=per_view_bn,
  )
