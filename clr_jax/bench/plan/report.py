"""Report of `clr-jax plan` about a compiled step, as JSON values and as text."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import Any

import jax

from clr_jax.bench import hlo
from clr_jax.bench.plan import bound, parts, program
from clr_jax.bench.plan.targets import LAUNCH_SECONDS, Target, compiler_versions
from clr_jax.bench.step import describe
from clr_jax.core.config_tree import Config
from clr_jax.core.errors import UserError
from clr_jax.data.stream import shared_bytes
from clr_jax.experiment.build import Experiment, nbytes_of
from clr_jax.rundir import provenance


def make(config: Config, target: Target, *, max_batch: bool = False) -> dict[str, Any]:
  """Compiles the training step of `config` for `target` without executing it.

  Args:
    config: config of a run.
    target: result of `targets.parse`, in a process prepared by `targets.prepare_process`.
    max_batch: True to find the largest batch that fits, too.

  Returns:
    JSON values; sizes in bytes, times in seconds, per device and step.

  Raises:
    UserError: errors of `build_experiment`, or a step that does not fit into memory.
  """
  largest = _largest(config, target) if max_batch else None
  experiment = program.build(config, target)
  compiled = program.compile_step(experiment, target)
  report = {
    'config': describe(config),
    'target': target.name,
    'devices': target.devices,
    'code_version': provenance.code_version(),
    'libraries': provenance.libraries() | compiler_versions(),
  }
  if compiled is None:
    advice = f'batch_size={largest[0]} does' if largest else '--max_batch finds one that does'
    raise UserError(
      f'batch_size={config.batch_size} does not fit into the memory of {target.name}: lower it '
      f'({advice})'
    )
  return (
    report
    | {'max_batch': largest and {'fits': largest[0], 'too_large': largest[1]}}
    | {
      'memory': compiled.memory | {'usable': target.usable_memory},
      'fits': program.fits(compiled, target),
      **_work(experiment, target, compiled.text),
    }
  )


def _largest(config: Config, target: Target) -> tuple[int, int | None]:
  def tell(size: int, fits: bool) -> None:
    print(f'batch_size={size} {"fits" if fits else "does not fit"}', file=sys.stderr, flush=True)

  return program.largest_batch(config, target, tell)


def _work(experiment: Experiment, target: Target, text: str) -> dict[str, Any]:
  module = hlo.read(text)
  costs = parts.costs(module)
  sent = parts.collectives(module, target.devices)
  state = experiment.abstract_state
  kept = sum(map(nbytes_of, jax.tree.leaves((state.params, state.opt_state))))
  precision = str(experiment.config.precision)
  ring = sum(row['ring_bytes'] for row in sent.values())
  least = bound.seconds(target, precision, costs, kept=kept, sent=ring)
  cycles = sum(row['cycles'] for row in costs.values())
  clock = target.chip.clock_hz
  estimate = bound.one_after_another(target, precision, module, sent=ring)
  return {
    'parts': costs,
    'shares': bound.shares(target, precision, costs),
    'total': {key: sum(row[key] for row in costs.values()) for key in costs[parts.REST]},
    'collectives': sent,
    'least_seconds': least,
    'input': _input(experiment, target),
    'steps_per_epoch': experiment.info.steps_per_epoch,
    'estimated_seconds': cycles / clock if cycles and clock else estimate,
  }


def _input(experiment: Experiment, target: Target) -> dict[str, Any]:
  """Bytes that a host sends its devices in a step, and the shared memory of its readers."""
  _, block = experiment.abstract_data()
  options, rows = experiment.config.data, experiment.info.batch_size // target.hosts
  streamed = 'image' in block
  return {
    'mode': 'streamed' if streamed else 'resident',
    'host_bytes': sum(math.prod(x.shape) * x.dtype.itemsize for x in block.values())
    // target.hosts,
    'shared_memory': shared_bytes(experiment.source, rows=rows, workers=options.workers)
    if streamed
    else 0,
  }


def format_report(report: Mapping[str, Any]) -> str:
  """Formats the report of `make`."""
  config = report['config']
  libraries = ', '.join(f'{name} {version}' for name, version in report['libraries'].items())
  lines = [
    f'{config["method"]} on {config["data"]}, {config["model"]}, {config["precision"]}, '
    f'batch {config["batch_size"]} (config {config["hash"]})',
    f'compiled for {report["target"]}, {report["devices"]} device(s); all figures are of one '
    f'device and one step, and nothing was run',
    f'clr-jax {report["code_version"]}, {libraries}',
    '',
    _format_memory(report),
    '',
    *_format_parts(report),
    '',
    *_format_collectives(report['collectives']),
    _format_input(report['input']),
    *_format_times(report),
  ]
  if largest := report['max_batch']:
    seen = largest['too_large']
    rest = f'{seen} does not' if seen else 'the data set has no more'
    lines.append(f'largest batch  {largest["fits"]} fits, {rest}')
  return '\n'.join(lines)


def _format_memory(report: Mapping[str, Any]) -> str:
  memory = report['memory']
  kinds = ', '.join(f'{kind} {_mib(memory[kind])}' for kind in memory if kind not in _SUMS)
  text = f'memory         {_mib(memory["peak"])}: {kinds}'
  if memory['usable'] is None:
    return text
  verdict = 'fits' if report['fits'] else 'DOES NOT FIT'
  return f'{text}\n               {verdict} into the {_mib(memory["usable"])} that JAX may use'


_SUMS = ('peak', 'usable')


_SHARE_OF_CYCLES = "of the compiler's cycles"
_SHARE_OF_TIME = 'of the time at peak rates: products or memory, whichever takes a part longer'


def _format_parts(report: Mapping[str, Any]) -> list[str]:
  total, shares = report['total'], report['shares']
  on_tpu = total['cycles'] > 0
  head = f'{"part":24}{"kernels":>8}{"GFLOP":>10}{"MiB":>10}'
  head += f'{"kilocycles":>12}' if on_tpu else ''
  lines = [head + (f'{"share":>9}' if shares else '')]
  for part, row in {**report['parts'], 'all': total}.items():
    if any(row.values()):
      line = f'{part:24}{row["kernels"]:8}{row["flops"] / 1e9:10.2f}{row["bytes"] / 2**20:10.1f}'
      line += f'{row["cycles"] / 1e3:12.0f}' if on_tpu else ''
      lines.append(line + (f'{shares[part]:9.1%}' if part in shares else ''))
  if shares:
    lines.append(f'share: {_SHARE_OF_CYCLES if on_tpu else _SHARE_OF_TIME}')
  return lines


def _format_collectives(found: Mapping[str, Mapping[str, int]]) -> list[str]:
  return [
    f'{kind:14} {row["count"]} a step, {_mib(row["bytes"])} of results, {_mib(row["ring_bytes"])} '
    f'sent in a ring'
    for kind, row in found.items()
  ]


def _format_input(found: Mapping[str, Any]) -> str:
  text = f'input          {found["mode"]}: {_mib(found["host_bytes"])} from a host to its devices'
  shared = f', up to {_mib(found["shared_memory"])} of shared memory'
  return text + (shared if found['shared_memory'] else '')


def _format_times(report: Mapping[str, Any]) -> list[str]:
  least = dict(report['least_seconds'])
  if not least:
    return ['time           no bound: the peak rates of this target are not known']
  limit = least.pop('bound')
  kinds = ', '.join(f'{kind} {_ms(value)}' for kind, value in least.items())
  launch = f', a launch {1e6 * LAUNCH_SECONDS:.0f} us' if 'launches' in least else ''
  lines = [
    f'at least       {_ms(limit)} a step, {limit * report["steps_per_epoch"]:.1f} s an epoch of '
    f'{report["steps_per_epoch"]} steps: a bound (the largest of {kinds}; at peak rates{launch}), '
    f'not an estimate'
  ]
  if (estimate := report['estimated_seconds']) is not None:
    made_of = bound.ESTIMATES['tpu' if report['total']['cycles'] else 'cuda']
    lines.append(f'estimate       {_ms(estimate)} a step: {made_of}')
  return lines


def _mib(size: int) -> str:
  return f'{size / 2**20:.1f} MiB'


def _ms(seconds: float) -> str:
  return f'{1e3 * seconds:.3f} ms'
