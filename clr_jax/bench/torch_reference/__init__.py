"""The training step of a config in plain PyTorch, as a reference for the speed of `clr_jax`.

It has the same network, batch, views, loss, precision and optimizer; see `clr-jax bench --peer`.
PyTorch is optional: this file does not import it, the others do.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any

from clr_jax.augment import policies, presets
from clr_jax.core.config_tree import Config
from clr_jax.core.errors import UserError
from clr_jax.core.options import options_of
from clr_jax.experiment.method import plugin_factories


def _of_family(name: str) -> bool:
  policy = policies.factory(name)
  return getattr(policy, 'func', policy) is policies.simclr_family


COMPILE = ('off', 'default', 'reduce-overhead', 'max-autotune')  # 'off' or a torch.compile mode
TAKEN: Mapping[str, tuple[Any, ...]] = {
  'method.name': (
    *('simclr', 'sogclr', 'supcon', 'tcl', 'barlow_twins', 'vicreg'),
    *('moco', 'byol', 'swav'),
  ),
  'method.block_size': (None,),
  'method.beta': (1.0,),
  'method.include_anchor': (False,),
  'method.gamma_schedule': ('constant',),
  'method.first_visit': ('per_index', 'none'),
  'method.combine': ('mean',),
  'augment.name': (
    *filter(_of_family, policies.names()),
    *('crop_flip', 'autoaugment', 'affine', 'none'),
    *presets.SOLO,
  ),
  'augment.weak': ('resized',),
  'augment.rand_ops': (0,),
  'augment.noise_variance': (None,),
  'augment.salt_pepper': (0.0,),
  'optimizer.name': ('sgd', 'lars', 'adam', 'adamw'),
  'optimizer.exclude_from_decay': ('auto', 'bias_and_norm', 'none'),
  'optimizer.final_weight_decay': (None,),
  'optimizer.clip_norm': (0.0,),
  'model.remat': (False,),
  'sam.name': ('none',),
  'accumulate': (1,),
}
"""Supported values by config key; other keys may have any value, except plug-ins."""


def check(config: Config) -> None:
  """Raises a UserError for a config that the reference does not support."""
  if importlib.util.find_spec('torch') is None:
    raise UserError('--peer needs PyTorch, which is not installed: pip install torch')
  taken = dict(TAKEN)
  if config.augment.name != 'affine':
    taken['augment.noise_sigma'] = (None,)
  for key, values in taken.items():
    part, _, option = key.rpartition('.')
    value = (config[part] if part else config).get(option, values[0])
    if value not in values:
      has = ' or '.join(map(str, values))
      raise UserError(f'--peer has {key}={has} only, not {value}')
  for name, factory in plugin_factories().items():
    for key, option in options_of(factory).items():
      if config.plugins[name][key] != option.default:
        raise UserError(f'--peer does not support plug-ins: leave plugins.{name}.{key} out')
