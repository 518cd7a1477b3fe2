"""What `clr-jax bench` measures, by its flags."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import jax
from absl import flags

from clr_jax.bench import torch_reference as peer
from clr_jax.core.config_tree import Config
from clr_jax.core.errors import UserError


def define(values: flags.FlagValues) -> None:
  """Defines the flags of `clr-jax bench`."""
  flags.DEFINE_integer('repeats', 5, 'timed repeats', lower_bound=1, flag_values=values)
  flags.DEFINE_integer('steps', 20, 'steps in each repeat', lower_bound=1, flag_values=values)
  flags.DEFINE_bool('json', False, 'print one JSON object', flag_values=values)
  flags.DEFINE_bool('peer', False, 'compare with the same step in PyTorch', flag_values=values)
  flags.DEFINE_enum(
    'peer_compile', 'off', peer.COMPILE, "torch.compile and its mode, or 'off'", flag_values=values
  )
  flags.DEFINE_integer(
    'collectives', None, 'images a device: what 1 to 64 of them send', flag_values=values
  )


def prepare(values: flags.FlagValues, config: Config) -> None:
  """What must be set before JAX's first computation; refuses what cannot be measured."""
  if values.collectives is not None:
    if values.peer:
      raise UserError('--peer and --collectives are two measurements: give one of them')
    from clr_jax.bench import communication as collectives

    jax.config.update('jax_platforms', 'cpu')
    jax.config.update('jax_num_cpu_devices', max(collectives.DEVICES))
  if values.peer:
    peer.check(config)
    # Left to itself JAX reserves three quarters of the GPU, which PyTorch needs too.
    os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')
  elif values.peer_compile != 'off':
    raise UserError(f'--peer_compile={values.peer_compile} does nothing without --peer: add it')


def run(values: flags.FlagValues, config: Config) -> tuple[dict[str, Any], Callable[..., str]]:
  """(the measurements, what makes text of them)."""
  if values.collectives is not None:
    from clr_jax.bench import communication as collectives

    return collectives.measure(config, per_device=values.collectives), collectives.format_table
  timing = {'repeats': values.repeats, 'steps': values.steps}
  if values.peer:
    from clr_jax.bench.torch_reference import compare

    found = compare.compare(config, **timing, compile_mode=values.peer_compile)
    return found, compare.format_report
  from clr_jax.bench import step as bench

  return bench.measure(config, **timing), bench.format_report
