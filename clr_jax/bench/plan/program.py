"""The training step of a config, compiled for a target, and its memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from clr_jax.bench.plan.targets import Target, devices_of
from clr_jax.core.activity import activity
from clr_jax.core.config_tree import Config, changed
from clr_jax.core.errors import UserError
from clr_jax.core.programs import compiler_options
from clr_jax.data.pipeline import Pipeline
from clr_jax.experiment.build import Experiment, build_experiment
from clr_jax.training.dispatch import make_dispatch

_TOO_LARGE = ('RESOURCE_EXHAUSTED', 'Ran out of memory', 'out of memory')

# XLA chooses between Triton's kernels and cuBLAS by trying them. Without a device it takes a kernel
# of Triton's untried, and some of those do not compile.
_UNTRIED, _CUBLAS = "Couldn't find output tile sizes", {'xla_gpu_enable_triton_gemm': False}


class Program(NamedTuple):
  """A compiled step.

  Attributes:
    experiment: experiment on devices of the target.
    text: text of the compiled module.
    memory: bytes per device: 'arguments' (state, resident data, batch), 'results' (not aliased to
      arguments), 'temporary', 'code', and 'peak', their sum.
  """

  experiment: Experiment
  text: str
  memory: dict[str, int]


def build(config: Config, target: Target) -> Experiment:
  """Builds the experiment of `config` on the devices of `target`; see `build_experiment`."""
  return build_experiment(config, devices=devices_of(target))


def compile_step(experiment: Experiment, target: Target) -> Program | None:
  """Compiles the program of one step per call; None if it does not fit into memory."""
  resident, block = experiment.abstract_data()
  traced = make_dispatch(experiment, Pipeline, 1).trace(experiment.abstract_state, resident, block)
  compiled = compile_for(traced, target)
  if compiled is None:
    return None
  return Program(experiment, compiled.as_text() or '', memory_of(compiled))


def compile_for(traced: jax.stages.Traced, target: Target) -> jax.stages.Compiled | None:
  """Compiles a program for its devices, those of `target`; None if it does not fit into memory."""
  platform = target.chip.platform
  try:
    with activity(f'compiling for {target.name}'):
      lowered = traced.lower(lowering_platforms=(platform,))
      return _compile(lowered, compiler_options() if platform == 'cpu' else None)
  except jax.errors.JaxRuntimeError as error:
    if any(words in str(error) for words in _TOO_LARGE):
      return None
    raise


def _compile(lowered: jax.stages.Lowered, options: dict[str, Any] | None) -> Any:
  try:
    return lowered.compile(options)
  except jax.errors.JaxRuntimeError as error:
    if _UNTRIED not in str(error):
      raise
    return lowered.compile({**(options or {}), **_CUBLAS})


def memory_of(compiled: jax.stages.Compiled) -> dict[str, int]:
  """Bytes on a device, see `Program`."""
  sizes = compiled.memory_analysis()
  assert sizes is not None
  found = {
    'arguments': sizes.argument_size_in_bytes,
    'results': sizes.output_size_in_bytes - sizes.alias_size_in_bytes,
    'temporary': sizes.temp_size_in_bytes,
    'code': sizes.generated_code_size_in_bytes,
  }
  return found | {'peak': sum(found.values())}


def fits(program: Program | None, target: Target) -> bool:
  """True if the program fits into the memory of each device; CPUs share the machine's."""
  usable = target.usable_memory
  return program is not None and (usable is None or program.memory['peak'] <= usable)


def largest_batch(
  config: Config, target: Target, report: Callable[[int, bool], None]
) -> tuple[int, int | None]:
  """Finds the largest global batch that fits, to within a sixteenth, by compiling several.

  Args:
    config: config of a run; its batch_size is replaced.
    target: target with a known memory.
    report: called with each batch size and whether it fits.

  Returns:
    The batch size, and the smallest one that does not fit; None if the data set is smaller.

  Raises:
    UserError: a CPU target, or not even one image per device fits.
  """
  if target.usable_memory is None:
    raise UserError(
      f'--max_batch needs the memory of a device, which {target.name} lacks: leave it out, or '
      f'give another --target'
    )
  unit = target.devices * config.accumulate
  examples = build(config, target).source.num_examples

  def good(multiple: int) -> bool:
    size = multiple * unit
    experiment = build(changed(config, {'batch_size': size}), target)
    found = fits(compile_step(experiment, target), target)
    report(size, found)
    return found

  last = examples // unit
  low, high = 0, max(1, config.batch_size // unit)
  while good(high):
    low = high
    if low == last:
      return low * unit, None
    high = min(4 * high, last)
  while high - low > max(1, low // 16):
    middle = (low + high) // 2
    low, high = (middle, high) if good(middle) else (low, middle)
  if not low:
    raise UserError(
      f'not even batch_size={unit} fits on {target.name}: lower model.width or augment.size, or '
      f'set model.remat=True or precision=bfloat16'
    )
  return low * unit, high * unit
