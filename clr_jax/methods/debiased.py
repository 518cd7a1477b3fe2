"""Debiased contrastive learning: Chuang et al., https://arxiv.org/abs/2007.00224."""

import flax.linen as nn

from clr_jax.core.types import Method, RunInfo
from clr_jax.methods.hcl import hcl


def debiased(
  backbone: nn.Module,
  info: RunInfo,
  *,
  temperature: float = 0.5,
  tau_plus: float = 0.1,
  projector: str = 'debiased',
  hidden_dim: int = 512,
  out_dim: int = 128,
  per_view_bn: bool = True,
) -> Method:
  """Contrastive learning corrected for negatives of the anchor's class: `hcl` with beta = 0.

  Args:
    temperature: 0.5 (official).
    tau_plus: probability that a negative has the anchor's class; 0.1 (official, STL-10).
    projector: recipe of `clr_jax.models.heads`.
    hidden_dim: 512 (official).
    out_dim: 128 (official).
    per_view_bn: official code embeds one view at a time (True).
  """
  method = hcl(
    backbone,
    info,
    temperature=temperature,
    tau_plus=tau_plus,
    beta=0.0,
    projector=projector,
    hidden_dim=hidden_dim,
    out_dim=out_dim,
    per_view_bn=per_view_bn,
  )
  return method._replace(name='debiased')
