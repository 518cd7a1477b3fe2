"""Cost of an evaluation on absent hardware: the programs of a protocol, compiled for it."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from clr_jax.bench import hardware, hlo
from clr_jax.bench.plan import parts, program
from clr_jax.bench.plan.targets import Target, compiler_versions, devices_of
from clr_jax.bench.step import describe
from clr_jax.core.config_tree import Config, to_dict
from clr_jax.core.names import check_name
from clr_jax.evaluation import registry
from clr_jax.evaluation.probing import features
from clr_jax.evaluation.probing.planned import Program, Sizes
from clr_jax.evaluation.probing.sets import evaluation_sets
from clr_jax.experiment.build import Experiment
from clr_jax.rundir import provenance

Counts = tuple[int, int, int]  # training images, test images, classes


def make(
  config: Config, target: Target, protocol: str, counts: Counts | None = None
) -> dict[str, Any]:
  """Compiles the programs of a protocol for `target` without executing them.

  These are the programs that `clr-jax evaluate` runs, with the options of `eval.protocols`. The
  network sees each batch on all devices; a classifier is fitted on the devices of each process.

  Args:
    config: config of a run.
    target: result of `targets.parse`, in a process prepared by `targets.prepare_process`.
    protocol: name of the protocol.
    counts: numbers of training images, test images and classes; None = those of the config's sets.

  Returns:
    JSON values; sizes in bytes per device, times in seconds.

  Raises:
    UserError: errors of `build_experiment`, a protocol without known programs, or fewer labels than
      the protocol needs.
  """
  check_name(registry.planned(), protocol, 'protocol of plan')
  experiment = program.build(config, target)
  sizes = Sizes(*(counts or _counts(experiment)), width=_width(experiment))
  options = to_dict(config.eval.protocols).get(protocol) or {}
  once: dict[str, Program] = {}
  for planned in _programs(experiment, target, protocol, options, sizes):
    calls = once[planned.name].calls if planned.name in once else 0
    once[planned.name] = planned._replace(calls=calls + planned.calls)
  rows = [_row(planned, target, str(config.precision)) for planned in once.values()]
  times = [row['least_seconds'] for row in rows]
  return {
    'config': describe(config),
    'protocol': protocol,
    'target': target.name,
    'devices': target.devices,
    'devices_of_process': target.of_one_process.devices,
    'sizes': sizes._asdict(),
    'host_bytes': 4 * sizes.width * (sizes.train + sizes.test),
    'code_version': provenance.code_version(),
    'libraries': provenance.libraries() | compiler_versions(),
    'usable': target.usable_memory,
    'fits': all(row['fits'] for row in rows),
    'programs': rows,
    'least_seconds': None if None in times else sum(times),
  }


def _counts(experiment: Experiment) -> Counts:
  sets = evaluation_sets(experiment)
  sets.refuse_unlabeled()
  assert sets.test is not None and sets.train.num_classes is not None  # refused before
  return sets.train.num_examples, sets.test.num_examples, sets.train.num_classes


def _width(experiment: Experiment) -> int:
  """Number of features of an image."""
  state, shape = experiment.abstract_state, experiment.source.image_shape
  image = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
  found = jax.eval_shape(experiment.method.represent, state.params, state.state, image)
  return math.prod(found['h'].shape)


def _programs(
  experiment: Experiment,
  target: Target,
  protocol: str,
  options: Mapping[str, Any],
  sizes: Sizes,
) -> Iterator[Program]:
  """Yields the programs; those of one name are equal."""
  state = experiment.abstract_state
  # First, because it refuses options that do not fit the sizes.
  own = [*registry.programs(protocol, options, sizes, devices_of(target.of_one_process))]
  for count in (sizes.train, sizes.test):
    traced, size = features.trace(
      *(experiment.method.represent, state.params, state.state, experiment.source, count),
      mesh=experiment.mesh,
    )
    # The compiled program is that of a device, with its share of the batch.
    name, calls = f'features of {size:,} images', -(-count // size)
    yield Program(name, traced, calls, flops=None, devices=1)
  yield from own


def _row(planned: Program, target: Target, precision: str) -> dict[str, Any]:
  """A program's memory on a device and the time that all its calls take at least."""
  print(f'compiling {planned.name}', file=sys.stderr, flush=True)
  row: dict[str, Any] = {'name': planned.name, 'calls': planned.calls}
  row['iterations'] = planned.iterations
  compiled = program.compile_for(planned.traced, target)
  if compiled is None:
    return row | {'memory': None, 'fits': False, 'seconds': None, 'least_seconds': None}
  memory, usable = program.memory_of(compiled), target.usable_memory
  row |= {'memory': memory, 'fits': usable is None or memory['peak'] <= usable}
  chip = target.chip
  if planned.flops is None:
    costs = parts.costs(hlo.read(compiled.as_text() or ''))
    flops = sum(part['product_flops'] for part in costs.values())
    peak = hardware.peak(chip.kind, precision)
  else:
    flops, peak = planned.flops / planned.devices, hardware.exact_peak(chip.kind)
  row['flops'] = flops
  if peak is None or chip.bandwidth is None:
    return row | {'seconds': None, 'least_seconds': None}
  moved = (memory['arguments'] + memory['results']) / chip.bandwidth
  seconds = max(flops / peak, moved)
  return row | {'seconds': seconds, 'least_seconds': planned.calls * seconds}


# ---------------------------------------------------------------- text
def format_report(report: Mapping[str, Any]) -> str:
  """Formats the report of `make`."""
  config, sizes = report['config'], report['sizes']
  libraries = ', '.join(f'{name} {version}' for name, version in report['libraries'].items())
  lines = [
    f'{report["protocol"]} of {config["method"]}, {config["model"]}, {config["precision"]} (config '
    f'{config["hash"]}): {sizes["train"]:,} training and {sizes["test"]:,} test images, '
    f'{sizes["classes"]:,} classes, {sizes["width"]:,} features',
    f'compiled for {report["target"]}; features are computed on {report["devices"]} device(s), the '
    f'rest on up to {report["devices_of_process"]} of a process; memory is of one device, and '
    f'nothing was run',
    f'clr-jax {report["code_version"]}, {libraries}',
    '',
    f'{"MiB: arguments":>16}{"temporary":>11}{"results":>9}{"peak":>9}{"calls":>7}'
    f'{"at least, s":>13}  program',
    *map(_format_row, report['programs']),
    '',
    f'host           {report["host_bytes"] / 2**20:,.0f} MiB of features, and as much again where '
    f'they are normalized',
  ]
  if report['usable'] is not None:
    verdict = 'fits' if report['fits'] else 'DOES NOT FIT'
    usable = report['usable'] / 2**20
    lines.append(f'memory         {verdict} into the {usable:,.0f} MiB of a device')
  if report['least_seconds'] is None:
    lines.append('time           no bound: the peak rates of this target are not known')
    return '\n'.join(lines)
  once = any(row['iterations'] for row in report['programs'])
  lines.append(
    f'at least       {report["least_seconds"]:.2f} s{" with one iteration" if once else ""}: a '
    f'bound (products at peak rates, arguments and results of a call moved once), not an estimate'
  )
  return '\n'.join(lines)


def _format_row(row: Mapping[str, Any]) -> str:
  sizes = ('arguments', 'temporary', 'results', 'peak')
  if row['memory'] is None:
    return f'{"does not fit":>45}{row["calls"]:7,}{"":13}  {row["name"]}'
  widths = dict(zip(sizes, (16, 11, 9, 9), strict=True))
  text = ''.join(f'{row["memory"][k] / 2**20:{w},.1f}' for k, w in widths.items())
  least = '' if row['least_seconds'] is None else f'{row["least_seconds"]:.3f}'
  text += f'{row["calls"]:7,}{least:>13}  {row["name"]}'
  if row['iterations'] is None:
    return text
  most = f', {row["iterations"] * row["least_seconds"]:.1f} s for all' if least else ''
  return f'{text}; one of at most {row["iterations"]:,} iterations{most}'
