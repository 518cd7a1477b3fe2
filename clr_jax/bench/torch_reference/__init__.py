"""The training step of a config in plain PyTorch, to measure `clr_jax` against.

Same network, batch, views, loss, precision and optimizer; see `clr-jax bench --peer`. PyTorch is no
dependency: this file does not import it, the others do.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

from clr_jax.augment import policies
from clr_jax.core.config_tree import Config
from clr_jax.core.errors import UserError
from clr_jax.core.options import options_of
from clr_jax.experiment.method import plugin_factories


def _of_family(policy: Callable[..., Any]) -> bool:
  return getattr(policy, 'func', policy) is policies.simclr_family


METHODS = ('simclr', 'sogclr')
VIEWS = (
  *(name for name in policies.names() if _of_family(policies.factory(name))),
  'affine',
  'none',
)
OPTIMIZERS = ('sgd', 'lars', 'adam', 'adamw')
COMPILE = ('off', 'default', 'reduce-overhead', 'max-autotune')  # the last three: torch.compile's
# Options that the peer has one value of.
_FIXED: dict[str, dict[str, Any]] = {
  'augment': {'rand_ops': 0, 'noise_variance': None, 'salt_pepper': 0.0},
  'method': {'block_size': None, 'gamma_schedule': 'constant', 'combine': 'mean'},
  'model': {'remat': False},
  'sam': {'name': 'none'},
}


def check(config: Config) -> None:
  """Raises UserError, in one sentence, for a config whose step the peer does not have."""
  if importlib.util.find_spec('torch') is None:
    raise UserError('--peer needs PyTorch, which is not installed: pip install torch')
  for what, value, choices in (
    ('methods', config.method.name, METHODS),
    ('views', config.augment.name, VIEWS),
    ('optimizers', config.optimizer.name, OPTIMIZERS),
  ):
    if value not in choices:
      raise UserError(f'--peer has the {what} {", ".join(choices)}, not {value}')
  fixed = {part: dict(values) for part, values in _FIXED.items()}
  if config.augment.name != 'affine':
    fixed['augment']['noise_sigma'] = None
  if config.optimizer.name == 'lars':
    fixed['optimizer'] = {'form': 'mocov3'}
  for part, values in fixed.items():
    for key, value in values.items():
      if config[part].get(key, value) != value:
        raise UserError(f'--peer has {part}.{key}={value} only, not {config[part][key]}')
  if config.accumulate > 1:
    raise UserError('--peer takes the batch in one pass: leave accumulate out')
  first_visit = config.method.get('first_visit', 'none')
  if first_visit not in ('per_index', 'none'):
    raise UserError(f'--peer has method.first_visit=per_index or none, not {first_visit}')
  for name, factory in plugin_factories().items():
    for key, option in options_of(factory).items():
      if config.plugins[name][key] != option.default:
        raise UserError(f'--peer has no plug-ins: leave plugins.{name}.{key} out')
