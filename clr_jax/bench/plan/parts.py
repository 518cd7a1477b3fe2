"""Assigns instructions to parts of the training step, and computes the cost of each part."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from clr_jax.bench import communication, hlo, scopes
from clr_jax.bench.hlo import Instruction, Module
from clr_jax.bench.plan import work

CONVOLUTIONS = 'convolutions, products'
COMMUNICATION, COPIES, REST = 'communication', 'copies', 'rest'
# Words in the names of operations that identify their part; the first match counts.
_SCOPES: Mapping[str, re.Pattern[str]] = {
  'crops': scopes.CROPS,
  'augmentation': scopes.AUGMENTATION,
  'attention': scopes.ATTENTION,
  'MLP': scopes.MLP,
  CONVOLUTIONS: re.compile(r'\b(conv\d|conv_kernels|downsample_conv|linear\d)\b|conv_general'),
  'normalization': scopes.NORMALIZATION,
  'loss': re.compile(r'\bloss\b'),
  'state': re.compile(r'\boptimizer/(.*/)?state\b'),
  'optimizer': scopes.OPTIMIZER,
}
PARTS = (*_SCOPES, COMMUNICATION, COPIES, REST)
_COPIES = ('copy', 'copy-start', 'slice-start')
_COUNTED = ('kernels', 'product_flops', 'flops', 'bytes', 'cycles')

Costs = dict[str, dict[str, int]]


def costs(module: Module) -> Costs:
  """{part: {'kernels', 'product_flops', 'flops', 'bytes', 'cycles'}} per device and call.

  'kernels' are launches on a GPU and programs of the core on a TPU, excluding copies beside the
  core. 'flops' includes 'product_flops' of convolutions and matrix products. 'cycles' are estimates
  of the TPU compiler, 0 elsewhere.
  """
  total: Costs = {part: dict.fromkeys(_COUNTED, 0) for part in PARTS}
  for part, counts, times in kernel_costs(module):
    for key, value in counts.items():
      total[part][key] += times * value
  return total


def kernel_costs(module: Module) -> Iterator[tuple[str, dict[str, int], int]]:
  """Yields (part, costs as in `costs`, number of calls in a step) of each kernel."""
  found = list(hlo.kernels(module))
  on_tpu = any(kernel.instruction.estimated_cycles for kernel in found)
  for kernel in found:
    op, body = kernel.instruction, module.computations[kernel.computation]
    part = part_of(module, op, body)
    products = work.product_flops(module, op, body)
    counts = {
      'kernels': int(not on_tpu or bool(op.estimated_cycles) or part == COMMUNICATION),
      'product_flops': products,
      'flops': products + work.other_flops(module, op, body),
      'bytes': work.traffic(module, op, body),
      'cycles': op.estimated_cycles,
    }
    yield part, counts, kernel.times


def part_of(module: Module, op: Instruction, body: work.Body) -> str:
  """Part of the step to which `op` belongs, by its name, else by the names of its contents."""
  held = [inner for name in op.called for inner in module.computations.get(name, {}).values()]
  if any(inner.collective for inner in (op, *held)):
    return COMMUNICATION
  if op.opcode in _COPIES:
    return COPIES
  for inner in (op, *reversed(held)):
    for part, pattern in _SCOPES.items():
      if pattern.search(inner.op_name):
        return part
    if op.op_name:
      break
  if not op.op_name and _serves_a_collective(op, body):
    return COMMUNICATION
  return CONVOLUTIONS if work.product_flops(module, op, body) else REST


def _serves_a_collective(op: Instruction, body: work.Body) -> bool:
  """True if `op` concatenates arrays for a collective, or splits its result."""
  users = (inner for inner in body.values() if op.name in inner.operands)
  sources = (body[name] for name in op.operands if name in body)
  return any(x.collective for x in (*users, *sources))


def collectives(module: Module, devices: int) -> dict[str, dict[str, int]]:
  """{'all-reduce': {'count', 'bytes', 'ring_bytes'}} per device and call.

  'bytes' is the size of the results, 'ring_bytes' the bytes that a device sends
  (`communication.ring_bytes`).
  """
  found: dict[str, dict[str, int]] = {}
  for op, times in _collectives(module):
    kind = op.collective
    shapes = op.shapes[len(op.operands) :] if _lists_operands(op) else op.shapes
    results = communication.Found({(kind, s.text): 0 for s in shapes})
    for shape in shapes:
      results[kind, shape.text] += times
    row = found.setdefault(kind, {'count': 0, 'bytes': 0, 'ring_bytes': 0})
    row['count'] += times
    row['bytes'] += communication.total_bytes(results)
    row['ring_bytes'] += communication.ring_bytes(results, devices)
  return found


def _collectives(module: Module) -> list[tuple[Instruction, int]]:
  found = []
  for kernel in hlo.kernels(module):
    op = kernel.instruction
    held = [inner for name in op.called for inner in module.computations.get(name, {}).values()]
    found += [
      (inner, kernel.times)
      for inner in ((op, *held) if op.opcode == 'fusion' else (op,))
      if inner.collective and not inner.opcode.endswith('-done')
    ]
  return found


def _lists_operands(op: Instruction) -> bool:
  """True if the result of an asynchronous start lists the operands before the results."""
  return op.opcode in ('all-gather-start', 'collective-permute-start')
