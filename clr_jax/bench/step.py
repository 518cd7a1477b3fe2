"""Cost of a training step: compile time, samples/s, shares of its time, memory, FLOPs."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from clr_jax.bench import alone, hardware, profile
from clr_jax.core.config_tree import Config, to_dict
from clr_jax.core.errors import UserError
from clr_jax.core.programs import compiler_options
from clr_jax.data.pipeline import Block, Pipeline
from clr_jax.experiment.build import Experiment, build_experiment
from clr_jax.experiment.schema import keys_without_effect
from clr_jax.rundir import provenance
from clr_jax.rundir.identity import hash_config
from clr_jax.training.dispatch import make_dispatch, steps_per_call


def measure(config: Config, *, repeats: int = 5, steps: int = 20) -> dict[str, Any]:
  """Benchmarks the training program of `config`, without logs, checkpoints and evaluation.

  Args:
    config: config of a run.
    repeats: number of timed repeats; the result has their median, minimum and maximum.
    steps: training steps per repeat, rounded up to whole calls of the program.

  Returns:
    JSON values; times in seconds, sizes in bytes, None for values that the device does not report.
    FLOPs, bytes and memory are per device.

  Raises:
    UserError: bad input, or repeats or steps below 1.
  """
  if repeats < 1 or steps < 1:
    raise UserError(f'repeats={repeats} and steps={steps} must be at least 1: raise them')
  experiment = build_experiment(config)
  batch_size = experiment.info.batch_size
  # An additional repeat is traced, because tracing is slower.
  with TimedLoop(experiment, experiment.make_pipeline(), repeats=repeats + 1, steps=steps) as loop:
    seconds = [loop.repeat() for _ in range(repeats)]
    data_wait_share = loop.wait_seconds / sum(seconds)
    shares = profile.measure(loop.compiled.as_text() or '', loop.repeat)
  memory = _memory(loop.compiled)
  samples = spread([loop.steps * batch_size / s for s in seconds])
  step_seconds = batch_size / samples['median']
  return {
    'config': describe(config),
    'device': jax.devices()[0].device_kind,
    'devices': jax.device_count(),
    'processes': jax.process_count(),
    'code_version': provenance.code_version(),
    'libraries': provenance.libraries(),
    'compiler_options': compiler_options() or {},
    'repeats': repeats,
    'steps': loop.steps,
    'steps_per_call': loop.steps_per_call,
    'compile_seconds': loop.compile_seconds,
    'samples_per_second': samples,
    'data_wait_share': data_wait_share,
    'step_seconds': step_seconds,
    'data_seconds': loop.data_seconds,
    'shares': shares,
    'alone': alone.measure(experiment, loop.state, repeats=repeats * loop.steps),
    'memory': memory,
    **_utilization(_cost(loop.single_step()), step_seconds, str(config.precision)),
  }


def describe(config: Config) -> dict[str, Any]:
  """Description of a config for reports."""
  return {
    'hash': hash_config(to_dict(config), keys_without_effect(config)),
    'data': config.data.name,
    'model': config.model.name,
    'method': config.method.name,
    'batch_size': config.batch_size,
    'precision': config.precision,
  }


# ---------------------------------------------------------------- time
def compile_step(
  experiment: Experiment, pipeline: Pipeline, block: Block, size: int
) -> tuple[jax.stages.Compiled, dict[str, float]]:
  """Returns (the program of `size` training steps per call, seconds to compile it)."""
  start = time.perf_counter()
  dispatch = make_dispatch(experiment, pipeline, size)
  lowered = dispatch.lower(experiment.abstract_state, pipeline.resident, block)
  middle = time.perf_counter()
  compiled = lowered.compile()
  return compiled, {'lower': middle - start, 'compile': time.perf_counter() - middle}


class TimedLoop:
  """Context manager that times repeats of a run's training program.

  The first call, which is slower, is not timed.

  Args:
    experiment, pipeline: experiment and pipeline of the run.
    repeats: largest number of calls of `repeat`.
    steps: training steps per repeat, rounded up to whole calls of the program.

  Attributes:
    steps_per_call: training steps per call of the program.
    steps: training steps per repeat.
    compiled: the program.
    compile_seconds: {'lower', 'compile'}: seconds for tracing and in XLA.
    data_seconds: seconds to prepare and transfer the data of a step while idle.
    state: train state after the last repeat.
  """

  def __init__(self, experiment: Experiment, pipeline: Pipeline, *, repeats: int, steps: int):
    self.steps_per_call = size = steps_per_call(experiment, pipeline)
    self._calls_a_repeat = -(-steps // size)
    self.steps = self._calls_a_repeat * size
    calls = [(i * size, size) for i in range(1 + repeats * self._calls_a_repeat)]
    self.data_seconds, self._block = _time_data(pipeline, calls[: 1 + self._calls_a_repeat])
    self.compiled, self.compile_seconds = compile_step(experiment, pipeline, self._block, size)
    self._experiment, self._pipeline = experiment, pipeline
    self._blocks = pipeline.blocks(calls)
    self.state = experiment.init()
    self._call(1)
    self._waited = pipeline.wait_seconds

  def __enter__(self) -> TimedLoop:
    return self

  def __exit__(self, *exc) -> None:
    self._blocks.close()

  @property
  def wait_seconds(self) -> float:
    """Seconds that the repeats waited for data."""
    return self._pipeline.wait_seconds - self._waited

  def repeat(self) -> float:
    """Runs the next repeat and returns its seconds, until all work is done."""
    start = time.perf_counter()
    self._call(self._calls_a_repeat)
    return time.perf_counter() - start

  def single_step(self) -> jax.stages.Compiled:
    """Program of one step per call, for its FLOPs.

    XLA counts the body of a loop only once.
    """
    if self.steps_per_call == 1:
      return self.compiled
    row = jax.tree.map(lambda x: x[:1], self._block)
    return compile_step(self._experiment, self._pipeline, row, 1)[0]

  def _call(self, times: int) -> None:
    for _ in range(times):
      self.state, _ = self.compiled(self.state, self._pipeline.resident, next(self._blocks))
    jax.block_until_ready(self.state)


def _time_data(pipeline: Pipeline, calls: Sequence[tuple[int, int]]) -> tuple[float, Block]:
  """Returns (seconds per step to prepare and transfer blocks while idle, one block)."""
  start, block = time.perf_counter(), {}
  with contextlib.closing(pipeline.blocks(calls)) as blocks:
    for made in blocks:
      block = jax.block_until_ready(made)
  return (time.perf_counter() - start) / sum(count for _, count in calls), block


def spread(values: list[float]) -> dict[str, float]:
  """Median, minimum and maximum."""
  return {'median': statistics.median(values), 'min': min(values), 'max': max(values)}


# ---------------------------------------------------------------- memory and FLOPs
def _memory(compiled: jax.stages.Compiled) -> dict[str, Any]:
  """Peak bytes of one device from its allocator, else the memory that the program reserves."""
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


def _cost(single: jax.stages.Compiled) -> dict[str, float | None]:
  """FLOPs and bytes of one step on one device, from the program of a single step."""
  analysis = single.cost_analysis() or {}
  names = {'flops_per_step': 'flops', 'bytes_per_step': 'bytes accessed'}
  found = {name: analysis.get(key) for name, key in names.items()}
  return {name: value if value is not None and value > 0 else None for name, value in found.items()}


def _utilization(
  cost: dict[str, float | None], step_seconds: float, precision: str
) -> dict[str, Any]:
  """Model FLOP/s utilization: the program's FLOP/s divided by the peak, per device."""
  kind, flops = jax.devices()[0].device_kind, cost['flops_per_step']
  peak, note = hardware.peak(kind, precision), None
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
  """Formats the report of `measure`."""
  config, speed, memory = report['config'], report['samples_per_second'], report['memory']
  by_itself = report['alone']
  mfu = report['mfu_note'] if report['mfu'] is None else f'{report["mfu"]:.1%}'
  flops = _amount(report['flops_per_step'], 1e9, 'GFLOP')
  moved = _amount(report['bytes_per_step'], 2**20, 'MiB')
  peak = _amount(memory['peak_bytes'], 2**20, 'MiB')
  libraries = ', '.join(f'{name} {version}' for name, version in report['libraries'].items())
  return f"""\
{config['method']} on {config['data']}, {config['model']}, {config['precision']}, \
batch {config['batch_size']} (config {config['hash']})
{report['devices']} x {report['device']}, {report['processes']} process(es)
clr-jax {report['code_version']}, {libraries}, {format_options(report['compiler_options'])}

compile        {report['compile_seconds']['lower']:.2f} s tracing and lowering, \
{report['compile_seconds']['compile']:.2f} s in XLA
speed          {speed['median']:.1f} samples/s (min {speed['min']:.1f}, max {speed['max']:.1f}; \
{report['repeats']} repeats of {report['steps']} steps, {report['steps_per_call']} a call)
waiting for data  {report['data_wait_share']:.1%} of that time
one step       {_ms(report['step_seconds'])}; meanwhile the host needs \
{_ms(report['data_seconds'])} for the data of the next one
shares of its operations' time in a profiler trace of {report['steps']} steps (a fusion counts \
once; with SAM its second pass counts as optimizer; on CPUs products have what the rest leaves):
{_format_shares(report['shares'])}
alone          {by_itself['views_per_second']:.0f} views/s of the augmentation; the loss of \
{' x '.join(map(str, by_itself['embeddings']))} embeddings with their gradient \
{_ms(by_itself['loss_seconds'])}
peak memory    {peak} a device, from {memory['source']}
work           {flops} and {moved} accessed, a step and device
MFU            {mfu}"""


def _format_shares(shares: dict[str, Any] | None) -> str:
  if shares is None:
    return '  unknown: the profiler saw no operation'
  rows = dict(shares['operations'])
  if shares['idle'] is not None:
    rows['no operation runs'] = shares['idle']
  return '\n'.join(f'  {kind:<23}{x:6.1%}' for kind, x in rows.items() if x)


def format_options(options: Mapping[str, Any]) -> str:
  """Formats compiler options of host programs."""
  return ' '.join(f'{k}={v}' for k, v in options.items()) or "XLA's default options"


def _ms(seconds: float) -> str:
  return f'{1e3 * seconds:.2f} ms'


def _amount(value: float | None, unit: float, name: str) -> str:
  return 'unknown' if value is None else f'{value / unit:.2f} {name}'
