"""Bytes that a compiled step sends between devices, from XLA's text; weak scaling of a config."""

from __future__ import annotations

import collections
import contextlib
import functools
import operator
import sys
from collections.abc import Sequence
from typing import Any

import jax

from clr_jax.bench import hlo
from clr_jax.bench.hlo import Shape
from clr_jax.bench.step import compile_step, describe
from clr_jax.core.config_tree import Config, changed
from clr_jax.core.errors import UserError
from clr_jax.experiment.build import build_experiment

DEVICES = (1, 2, 4, 8, 16, 32, 64)

Found = collections.Counter[tuple[str, str]]


def found(text: str) -> Found:
  """Counts (operation, shape of a result such as 'f32[16,8]') in an XLA module.

  The body of a loop counts once. The asynchronous forms of some backends also list operands.
  """
  return collections.Counter(
    (op.collective, shape.text)
    for body in hlo.read(text).computations.values()
    for op in body.values()
    if op.collective and not op.opcode.endswith('-done')
    for shape in op.shapes
  )


def total_bytes(collected: Found) -> int:
  """Bytes of all results together, on one device."""
  return sum(count * Shape(text).num_bytes for (_, text), count in collected.items())


def ring_bytes(collected: Found, devices: int) -> int:
  """Bytes that each device in a ring sends (Patarasuk & Yuan 2009, bandwidth-optimal).

  An all-reduce of S bytes takes 2 (n - 1) / n S, gathering S bytes (n - 1) / n S, scattering the
  sum into parts of S bytes (n - 1) S; permuted data is sent once.
  """
  n = devices
  share = {'all-reduce': 2 * (n - 1) / n, 'reduce-scatter': n - 1, 'collective-permute': 1}
  return round(
    sum(
      count * Shape(text).num_bytes * share.get(operation, (n - 1) / n)
      for (operation, text), count in collected.items()
    )
  )


def measure(config: Config, *, per_device: int, devices: Sequence[int] = DEVICES) -> dict[str, Any]:
  """Counts collectives of a training step, compiled for several numbers of devices.

  Nothing is executed. The batch is `per_device` images on each device. Operations with a shape that
  occurs equally often in all programs form the constant part; all others grow with the global
  batch.

  Args:
    config: config of a run; its batch_size is replaced.
    per_device: images per device.
    devices: numbers of devices, at least two of them above 1.

  Returns:
    JSON values. 'rows': a dict per number of devices with bytes per step and device: 'constant' and
    'growing' are sizes of the results of collectives, 'ring' the bytes that a device sends;
    'growing_shapes' lists the growing part, {'all-gather f32[64,64]': 2}.

  Raises:
    UserError: errors of `build_experiment`; too few devices in this process or in the list.
  """
  if per_device < 1:
    raise UserError(f'{per_device} images per device is not allowed: give 1 or more')
  if sum(n > 1 for n in devices) < 2:
    raise UserError(f'two numbers of devices above 1 are needed to compare, not {devices}')
  if max(devices) > jax.device_count():
    raise UserError(f'{max(devices)} devices are needed, and there are {jax.device_count()}')
  largest = max(devices)
  build_experiment(  # raises errors before anything is compiled
    changed(config, {'batch_size': largest * per_device}), devices=jax.devices()[:largest]
  )
  programs: dict[int, Found] = {}
  for n in devices:
    print(f'compiling for {n} device(s)', file=sys.stderr, flush=True)
    programs[n] = found(_compiled(changed(config, {'batch_size': n * per_device}), n))
  constant: Found = functools.reduce(operator.and_, (c for n, c in programs.items() if n > 1))
  rows = []
  for n, collected in programs.items():
    growing = collected - constant
    shapes = {' '.join(key): count for key, count in sorted(growing.items())}
    row = {
      'devices': n,
      'batch_size': n * per_device,
      'constant': total_bytes(collected & constant),
      'growing': total_bytes(growing),
      'ring': ring_bytes(collected, n),
      'growing_shapes': shapes,
    }
    rows.append(row)
  return {
    'config': describe(changed(config, {'batch_size': per_device})),
    'per_device': per_device,
    'parameter_bytes': _parameter_bytes(config),
    'rows': rows,
  }


def _compiled(config: Config, devices: int) -> str:
  experiment = build_experiment(config, devices=jax.devices()[:devices])
  pipeline = experiment.make_pipeline()
  with contextlib.closing(pipeline.blocks([(0, 1)])) as blocks:
    block = next(blocks)
  return compile_step(experiment, pipeline, block, 1)[0].as_text() or ''


def _parameter_bytes(config: Config) -> int:
  params = build_experiment(config, devices=jax.devices()[:1]).abstract_state.params
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(params))


def format_table(report: dict[str, Any]) -> str:
  """Formats the report of `measure` as a Markdown table."""
  config = report['config']
  lines = [
    f'{config["method"]} on {config["data"]}, {config["model"]}, {report["per_device"]} images per '
    f'device, {_kib(report["parameter_bytes"])} of parameters; bytes per step and device',
    '',
    '| devices | batch | gradients, BatchNorm | embeddings | sent in a ring | what grows |',
    '|---|---|---|---|---|---|',
  ]
  for row in report['rows']:
    shapes = ', '.join(f'{count} x {shape}' for shape, count in row['growing_shapes'].items())
    numbers = (_kib(row[key]) for key in ('constant', 'growing', 'ring'))
    lines.append(
      f'| {row["devices"]} | {row["batch_size"]} | {" | ".join(numbers)} | {shapes or "-"} |'
    )
  return '\n'.join(lines)


def _kib(size: int) -> str:
  return f'{size / 2**10:.1f} KiB'
