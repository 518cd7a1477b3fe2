"""Dynamic MoCo: MoCo's queue with SogCLR's moving averages (the report, algorithm 1)."""

import flax.linen as nn

from clr_jax.methods._dynamic import dynamic
from clr_jax.methods._plugins import NONE, Plugins
from clr_jax.types import Method, RunInfo


def dynamic_moco(
  backbone: nn.Module,
  info: RunInfo,
  *,
  temperature: float = 0.3,
  gamma: float = 0.9,
  first_visit: str = 'per_index',
  combine: str = 'mean',
  temperature_twice: bool = False,
  queue_length: int = 65536,
  momentum: float = 0.999,
  final_momentum: float | None = None,
  ema_index: str = 'next',
  projector: str = 'sogclr',
  hidden_dim: int = 2048,
  out_dim: int = 128,
  per_view_bn: bool = True,
  represent: str = 'online',
  plugins: Plugins = NONE,
) -> Method:
  """Global contrastive learning whose negatives are all keys of a queue; both views are queries.

  The report's code is temperature_twice=True, combine='sum', first_visit='none'.

  Args:
    temperature: .3 (the report).
    gamma: weight of the new value of u, .9 (the report).
    first_visit: 'per_index' (u starts at g), 'none' (the report's code), others: see `sogclr`.
    combine: u of the two views: 'mean', or 'sum' (the report's code).
    temperature_twice: weights from exp(s / temperature^2), loss divided by the temperature.
    queue_length: 65536 (the report's code); two keys an image enter it.
    momentum: .999 (the report's code).
    final_momentum: end of a cosine from `momentum`; None keeps it constant.
    ema_index: 'next' (the average precedes the keys); matters with a cosine only.
    projector: recipe of `clr_jax.models.heads`.
    hidden_dim: 2048 (the report's code).
    out_dim: 128 (the report).
    per_view_bn: the report's code embeds one view at a time (True).
    represent: 'online', or 'target' for the averaged network.
    plugins: see `clr_jax.methods._plugins`.
  """
  return dynamic(
    'dynamic_moco',
    backbone,
    info,
    temperature=temperature,
    gamma=gamma,
    first_visit=first_visit,
    combine=combine,
    temperature_twice=temperature_twice,
    queue_length=queue_length,
    momentum=momentum,
    final_momentum=final_momentum,
    ema_index=ema_index,
    projector=projector,
    hidden_dim=hidden_dim,
    out_dim=out_dim,
    per_view_bn=per_view_bn,
    represent=represent,
    plugins=plugins,
  )
