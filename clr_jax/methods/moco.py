"""MoCo v1 and v2: He et al., https://arxiv.org/abs/1911.05722, https://arxiv.org/abs/2003.04297."""

import flax.linen as nn

from clr_jax.core.options import takes_options_of
from clr_jax.core.types import Method, RunInfo
from clr_jax.skeletons.momentum_contrast import momentum_contrast


@takes_options_of(momentum_contrast)
def moco(backbone: nn.Module, info: RunInfo, **options) -> Method:
  """InfoNCE of queries (view 0) against keys (view 1) and a queue of earlier keys.

  MoCo v2 is temperature=0.2, projector='mocov2'. There is no shuffled BatchNorm: statistics cover
  the global batch (as SyncBN), separately for queries and keys.

  options: see `clr_jax.skeletons.momentum_contrast.momentum_contrast`.
  """
  return momentum_contrast('moco', backbone, info, **options)
