"""Dynamic MoCo: MoCo's queue with SogCLR's moving averages (the report, algorithm 1)."""

import flax.linen as nn

from clr_jax.core.options import takes_options_of
from clr_jax.core.types import Method, RunInfo
from clr_jax.skeletons.dynamic_contrast import dynamic


@takes_options_of(dynamic)
def dynamic_moco(backbone: nn.Module, info: RunInfo, **options) -> Method:
  """Global contrastive learning against all keys of a queue; symmetric=False is algorithm 1.

  options: see `clr_jax.skeletons.dynamic_contrast.dynamic`.
  """
  return dynamic('dynamic_moco', backbone, info, **options)
