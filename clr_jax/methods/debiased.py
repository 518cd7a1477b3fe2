"""Debiased contrastive learning: Chuang et al., https://arxiv.org/abs/2007.00224."""

import flax.linen as nn

from clr_jax.core.options import takes_options_of
from clr_jax.core.types import Method, RunInfo
from clr_jax.methods.hcl import hcl


@takes_options_of(hcl, without=('beta',))
def debiased(backbone: nn.Module, info: RunInfo, **options) -> Method:
  """Contrastive learning that corrects for negatives of the anchor's class: `hcl` with beta = 0.

  options: the others of `clr_jax.methods.hcl`; the official code of both has the same numbers.
  """
  return hcl(backbone, info, beta=0.0, **options)._replace(name='debiased')
