"""The method that a config names, with the plug-ins of `config.plugins`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
from ml_collections import ConfigDict

from clr_jax import methods, wrappers
from clr_jax.core.config_tree import Config
from clr_jax.core.errors import UserError
from clr_jax.core.names import listed
from clr_jax.core.options import build, keyword_only
from clr_jax.core.registry import check_made
from clr_jax.core.types import Method, RunInfo
from clr_jax.plugins import PLUGINS
from clr_jax.wrappers.accumulate import accumulate
from clr_jax.wrappers.online_probe import online_probe
from clr_jax.wrappers.telemetry import telemetry


def plugin_factories() -> dict[str, Callable]:
  """Factories with options in `config.plugins`: plug-ins, then wrappers in order."""
  inside = {name: PLUGINS.factory(name) for name in PLUGINS.names()}
  return inside | {name: wrappers.WRAPPERS.factory(name) for name in wrappers.in_order()}


def make_method(
  config: Config, backbone: nn.Module, info: RunInfo, *, unroll: bool | None = None
) -> tuple[Method, Method]:
  """Returns (the method with plug-ins in its loss, the same with its wrappers).

  Args:
    config, backbone, info: config, backbone and facts of the run.
    unroll: see `wrappers.accumulate`.

  Raises:
    UserError: an invalid combination, or options of a plug-in that is off.
  """
  factories = plugin_factories()

  def make(name: str, *args: Any) -> Any:
    # A plug-in that is newer than the config is off.
    options = config.plugins.get(name, ConfigDict())
    return build(factories[name], options, *args, prefix=f'plugins.{name}.')

  made = {name: make(name, info) for name in PLUGINS.names()}
  plain = _base_method(
    config, backbone, info, {name: plugin for name, plugin in made.items() if plugin is not None}
  )
  method = accumulate(plain, info, parts=config.accumulate, unroll=unroll)
  method = build(telemetry, config.telemetry, method, info, prefix='telemetry.')
  for name in wrappers.in_order():
    method = make(name, method, info)
  return plain, build(online_probe, config.probe, method, info, prefix='probe.')


def _base_method(config: Config, backbone: nn.Module, info: RunInfo, plugins: Any) -> Method:
  factory, fixed = methods.factory(config.method.name), {}
  if 'plugins' in keyword_only(factory):
    fixed = {'plugins': plugins}
  elif plugins:
    taking = [n for n in methods.names() if 'plugins' in keyword_only(methods.factory(n))]
    raise UserError(
      f'{config.method.name} supports no plug-ins inside its loss: switch '
      f'plugins.{next(iter(plugins))} off or use one of {listed(taking)}'
    )
  method = build(factory, config.method, backbone, info, prefix='method.', **fixed)
  check_made(method, Method, f'method {config.method.name!r}')
  return method
