"""What a step costs: compile time, samples/s, its parts, memory, FLOPs; of the real program."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
from ml_collections import ConfigDict

from clr_jax.bench import hardware as peaks
from clr_jax.bench import profile as op_shares
from clr_jax.core.config_tree import to_dict
from clr_jax.core.errors import UserError
from clr_jax.experiment.build import build_experiment
from clr_jax.rundir import provenance
from clr_jax.rundir.identity import hash_config
from clr_jax.training.dispatch import make_dispatch, steps_per_call


def measure(config: ConfigDict, *, repeats: int = 5, steps: int = 20) -> dict[str, Any]:
  """Runs the training program of `config`, without logs, checkpoints and evaluation.

  Args:
    config: of a run.
    repeats: timed repeats, of which the median, minimum and maximum are given.
    steps: training steps in each, rounded up to whole calls of the program.

  Returns:
    JSON values; times in seconds, sizes in bytes, None for what this device does not tell. FLOPs,
    bytes and memory are those of one device.

  Raises:
    UserError: bad input; repeats or steps below 1.
  """
  if repeats < 1 or steps < 1:
    raise UserError(f'repeats={repeats} and steps={steps} must be at least 1: raise them')
  experiment = build_experiment(config)
  size = steps_per_call(config)
  calls_a_repeat = -(-steps // size)
  # A call to warm up, the timed repeats, and one that is traced: tracing is slower.
  calls = [(i * size, size) for i in range(1 + (repeats + 1) * calls_a_repeat)]
  pipeline = experiment.make_pipeline()
  data_seconds, block = time_data(pipeline, calls[: 1 + calls_a_repeat])
  compiled, compile_seconds = compile_step(experiment, pipeline, block, size)
  samples, wait_share, state, shares = _time_training(
    experiment, pipeline, compiled, calls, calls_a_repeat
  )
  memory = _memory(compiled)  # before the parts add to the device's peak
  row = jax.tree.map(lambda x: x[:1], block)
  single = compiled if size == 1 else compile_step(experiment, pipeline, row, 1)[0]
  step_seconds = experiment.info.batch_size / samples['median']
  split = _time_parts(experiment, pipeline, state, row, repeats, steps)
  return {
    'config': describe(config),
    'device': jax.devices()[0].device_kind,
    'devices': jax.device_count(),
    'processes': jax.process_count(),
    'code_version': provenance.code_version(),
    'libraries': provenance.libraries(),
    'repeats': repeats,
    'steps': calls_a_repeat * size,
    'steps_per_call': size,
    'compile_seconds': compile_seconds,
    'samples_per_second': samples,
    'data_wait_share': wait_share,
    'step_seconds': step_seconds,
    'parts_seconds': {'data': data_seconds, **split},
    'parts_sum_seconds': sum(split.values()),
    'shares': shares,
    'memory': memory,
    **_utilization(_cost(single), step_seconds, str(config.precision)),
  }


def describe(config: Any) -> dict[str, Any]:
  """What a measurement was of."""
  return {
    'hash': hash_config(to_dict(config)),
    'data': config.data.name,
    'model': config.model.name,
    'method': config.method.name,
    'batch_size': config.batch_size,
    'precision': config.precision,
  }


# ---------------------------------------------------------------- time
def time_data(pipeline, calls) -> tuple[float, Any]:
  """(seconds a step to make and place blocks when nothing else runs, one block)."""
  start, block = time.perf_counter(), None
  with contextlib.closing(pipeline.blocks(calls)) as blocks:
    for made in blocks:
      block = jax.block_until_ready(made)
  return (time.perf_counter() - start) / sum(count for _, count in calls), block


def compile_step(experiment, pipeline, block, size: int) -> tuple[Any, dict[str, float]]:
  """(the program of `size` training steps a call, seconds of its making)."""
  start = time.perf_counter()
  dispatch = make_dispatch(experiment, pipeline, size)
  lowered = dispatch.lower(experiment.abstract_state(), pipeline.resident, block)
  middle = time.perf_counter()
  compiled = lowered.compile()
  return compiled, {'lower': middle - start, 'compile': time.perf_counter() - middle}


class Loop:
  """The training program, run and timed a repeat at a time; a context manager.

  The first call is slower and not timed.

  Args:
    experiment, pipeline: of a run.
    compiled: its program, from `compile_step`.
    calls: (first step, number of steps) of each call.
    calls_a_repeat: how many of them make a repeat.

  Attributes:
    state: after the last call.
    wait_seconds: that the repeats waited for data.
  """

  def __init__(self, experiment, pipeline, compiled, calls, calls_a_repeat: int):
    self._pipeline, self._compiled = pipeline, compiled
    self._calls_a_repeat = calls_a_repeat
    self._blocks = pipeline.blocks(calls)
    self.state = experiment.init()
    self._call(1)
    self._waited = pipeline.wait_seconds

  def __enter__(self) -> Loop:
    return self

  def __exit__(self, *exc) -> None:
    self._blocks.close()

  @property
  def wait_seconds(self) -> float:
    return self._pipeline.wait_seconds - self._waited

  def repeat(self) -> float:
    """Seconds of the next repeat, until all of its work is done."""
    start = time.perf_counter()
    self._call(self._calls_a_repeat)
    return time.perf_counter() - start

  def _call(self, times: int) -> None:
    for _ in range(times):
      self.state, _ = self._compiled(self.state, self._pipeline.resident, next(self._blocks))
    jax.block_until_ready(self.state)


def spread(values: list[float]) -> dict[str, float]:
  """Their median, minimum and maximum."""
  return {'median': statistics.median(values), 'min': min(values), 'max': max(values)}


def _time_training(experiment, pipeline, compiled, calls, calls_a_repeat: int):
  """Samples/s of the repeats, the share of the time that they waited, the last state, shares."""
  repeats = (len(calls) - 1) // calls_a_repeat - 1
  with Loop(experiment, pipeline, compiled, calls, calls_a_repeat) as loop:
    seconds = [loop.repeat() for _ in range(repeats)]
    waited = loop.wait_seconds / sum(seconds)
    shares = op_shares.measure(compiled.as_text(), loop.repeat)
  images = calls_a_repeat * calls[0][1] * experiment.info.batch_size
  return spread([images / s for s in seconds]), waited, loop.state, shares


def _time_parts(experiment, pipeline, state, row, repeats: int, steps: int) -> dict[str, float]:
  """Seconds a step of each part of the step, compiled and run alone on the same batch."""
  step = experiment.step_parts
  shardings = jax.tree.map(lambda x: x.sharding, experiment.abstract_state())

  def make_views(state, resident, row):
    batch = pipeline.batch(resident, jax.tree.map(lambda x: x[0], row))
    return step.make_views(state, batch)

  timed: dict[str, float] = {}

  def run(name: str, function: Callable, *arguments: Any) -> Any:
    result = jax.block_until_ready(function(*arguments))  # compiles
    seconds = []
    for _ in range(repeats):
      start = time.perf_counter()
      for _ in range(steps):
        result = function(*arguments)
      jax.block_until_ready(result)
      seconds.append((time.perf_counter() - start) / steps)
    timed[name] = statistics.median(seconds)
    return result

  batch = run('augmentation', jax.jit(make_views), state, pipeline.resident, row)
  grads, (carry, metrics) = run('forward_backward', jax.jit(step.gradients), state, batch)
  update = jax.jit(step.update, out_shardings=(shardings, None))
  run('update', update, state, batch, grads, carry, metrics)
  return timed


# ---------------------------------------------------------------- memory and FLOPs
def _memory(compiled) -> dict[str, Any]:
  """Peak bytes of one device: as its allocator counted, else what the compiled program reserves."""
  counted = (jax.local_devices()[0].memory_stats() or {}).get('peak_bytes_in_use')
  if counted is not None:
    return {'peak_bytes': counted, 'source': 'device.memory_stats()'}
  analysis = compiled.memory_analysis()
  if analysis is None:
    return {'peak_bytes': None, 'source': None}
  sizes = {
    'argument': analysis.argument_size_in_bytes,
    'output': analysis.output_size_in_bytes,
    'temp': analysis.temp_size_in_bytes,
    'alias': analysis.alias_size_in_bytes,  # outputs that lie where donated arguments lay
  }
  total = sizes['argument'] + sizes['output'] + sizes['temp'] - sizes['alias']
  return {'peak_bytes': total, 'source': 'compiled.memory_analysis()', **sizes}


def _cost(single) -> dict[str, float | None]:
  """FLOPs and bytes of one step on one device, from the program of a single step.

  XLA counts the body of a loop once, however often it runs: the program that scans over many steps
  is not asked.
  """
  analysis = single.cost_analysis() or {}
  names = {'flops_per_step': 'flops', 'bytes_per_step': 'bytes accessed'}
  found = {name: analysis.get(key) for name, key in names.items()}
  return {name: value if value is not None and value > 0 else None for name, value in found.items()}


def _utilization(cost: dict[str, float | None], step_seconds: float, precision: str):
  """Model FLOP/s utilization: the program's FLOP/s over the device's peak, both of one device."""
  kind, flops = jax.devices()[0].device_kind, cost['flops_per_step']
  peak, note = peaks.peak(kind, precision), None
  if flops is None:
    note = 'XLA does not tell the FLOPs of this program'
  elif jax.default_backend() == 'cpu':
    note = 'not defined for CPUs'
  elif jax.config.jax_default_matmul_precision is not None:  # pyright: ignore
    note, peak = 'the peak at this jax_default_matmul_precision is not known', None
  elif peak is None:
    note = f'the {precision} peak of {kind} is not known'
  mfu = flops / step_seconds / peak if flops and peak and note is None else None
  return {**cost, 'peak_flops': peak, 'mfu': mfu, 'mfu_note': note}


# ---------------------------------------------------------------- text
def format_report(report: dict[str, Any]) -> str:
  """The report of `measure` for people."""
  config, speed, memory = report['config'], report['samples_per_second'], report['memory']
  parts = report['parts_seconds']
  mfu = report['mfu_note'] if report['mfu'] is None else f'{report["mfu"]:.1%}'
  flops = _amount(report['flops_per_step'], 1e9, 'GFLOP')
  moved = _amount(report['bytes_per_step'], 2**20, 'MiB')
  peak = _amount(memory['peak_bytes'], 2**20, 'MiB')
  libraries = ', '.join(f'{name} {version}' for name, version in report['libraries'].items())
  return f"""\
{config['method']} on {config['data']}, {config['model']}, {config['precision']}, \
batch {config['batch_size']} (config {config['hash']})
{report['devices']} x {report['device']}, {report['processes']} process(es)
clr-jax {report['code_version']}, {libraries}

compile        {report['compile_seconds']['lower']:.2f} s tracing and lowering, \
{report['compile_seconds']['compile']:.2f} s in XLA
speed          {speed['median']:.1f} samples/s (min {speed['min']:.1f}, max {speed['max']:.1f}; \
{report['repeats']} repeats of {report['steps']} steps, {report['steps_per_call']} a call)
waiting for data  {report['data_wait_share']:.1%} of that time
one step       {_ms(report['step_seconds'])}, as one program
its parts, each compiled and run alone (they do not add up exactly: one program fuses and overlaps):
  augmentation       {_ms(parts['augmentation'])}
  forward, backward  {_ms(parts['forward_backward'])}
  optimizer, state   {_ms(parts['update'])}  (with SAM, also its second pass)
  sum                {_ms(report['parts_sum_seconds'])}
  data               {_ms(parts['data'])}  on the host, meanwhile
its operations' time, by the profiler's trace of {report['steps']} steps (a fusion counts once):
{_format_shares(report['shares'])}
peak memory    {peak} a device, from {memory['source']}
work           {flops} and {moved} accessed, a step and device
MFU            {mfu}"""


def _format_shares(shares: dict[str, Any] | None) -> str:
  if shares is None:
    return '  unknown: the profiler saw no operation'
  idle = {'no operation runs': shares['idle']}
  return '\n'.join(f'  {kind:<23}{x:6.1%}' for kind, x in (shares['operations'] | idle).items())


def _ms(seconds: float) -> str:
  return f'{1e3 * seconds:.2f} ms'


def _amount(value: float | None, unit: float, name: str) -> str:
  return 'unknown' if value is None else f'{value / unit:.2f} {name}'
