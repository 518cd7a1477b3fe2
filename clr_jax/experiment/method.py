"""The method that a config names, with the plug-ins of `config.plugins`."""

from __future__ import annotations

import functools
from collections.abc import Callable

import flax.linen as nn

from clr_jax import methods
from clr_jax.core.config_tree import Config, to_dict
from clr_jax.core.errors import UserError
from clr_jax.core.options import build, keyword_only
from clr_jax.core.types import Method, RunInfo
from clr_jax.plugins import pipeline as _plugins
from clr_jax.wrappers.accumulate import accumulate
from clr_jax.wrappers.layerwise import layerwise, stage_losses
from clr_jax.wrappers.telemetry import telemetry
from clr_jax.wrappers.tikhonov import tikhonov
from clr_jax.wrappers.un_mix import un_mix

# What switches a plug-in on.
_SWITCHES = {
  'feature_transformation': 'positive or negative',
  'mochi': 'num_mixed or num_query_mixed',
  'margin': 'angular or subtractive',
  'gradient_scaling': 'emphasis, curvature or attenuation',
  'un_mix': 'enabled',
  'layerwise': 'weights',
  'tikhonov': 'weight or layer_weights',
}


def make_method(config: Config, backbone: nn.Module, info: RunInfo) -> tuple[Method, Method]:
  """(the method with the plug-ins inside its loss, the same with telemetry and those around it).

  Raises:
    UserError: what has no meaning, and options of a plug-in that is off.
  """
  name = config.method.name
  options = config.get('plugins', {})  # none: a workdir of an earlier version
  inside = {key: f for key, f in _plugins.FACTORIES.items() if key in options}
  plugins = _plugins.Plugins(**{key: build(f, options[key], info) for key, f in inside.items()})
  for key, plugin in inside.items():
    _refuse_idle(key, getattr(plugins, key) is not None, plugin, options[key])
  factory, fixed = methods.get(name), {}
  if 'plugins' in keyword_only(factory):
    fixed = {'plugins': plugins}
  elif plugins.active:
    taking = [n for n in methods.names() if 'plugins' in keyword_only(methods.get(n))]
    raise UserError(
      f'{name} takes no plug-ins inside its loss: switch plugins.{plugins.active[0]} off or use '
      f'one of {", ".join(taking)}'
    )
  plain = method = build(factory, config.method, backbone, info, prefix='method.', **fixed)
  method = accumulate(method, info, parts=config.get('accumulate', 1))
  measuring = to_dict(config.telemetry) if 'telemetry' in config else {}
  if measuring.pop('enabled', False):
    method = telemetry(method, **measuring)
  if 'un_mix' in options:
    _refuse_idle('un_mix', options.un_mix.enabled, un_mix, options.un_mix)
    if options.un_mix.enabled:
      method = un_mix(method, name, probability=options.un_mix.probability)
  of_stages = None
  if 'layerwise' in options:
    weights, temperature = options.layerwise.weights, options.layerwise.temperature
    _refuse_idle('layerwise', bool(weights), layerwise, options.layerwise)
    if weights:
      method = build(layerwise, options.layerwise, method)
      of_stages = functools.partial(stage_losses, count=len(weights), temperature=temperature)
  if 'tikhonov' in options:
    active = bool(options.tikhonov.weight or options.tikhonov.layer_weights)
    _refuse_idle('tikhonov', active, tikhonov, options.tikhonov)
    if active:
      method = build(tikhonov, options.tikhonov, method, name, of_stages)
  return plain, method


def _refuse_idle(name: str, active: bool, factory: Callable, options: Config) -> None:
  """UserError for a changed option of a plug-in that is off: it would silently do nothing."""
  for key, parameter in keyword_only(factory).items() if not active else ():
    if parameter.default is not parameter.empty and options.get(key) != parameter.default:
      raise UserError(
        f'plugins.{name}.{key}={options.get(key)} does nothing while {name} is off: set what '
        f'switches it on ({_SWITCHES[name]}), or leave it'
      )
