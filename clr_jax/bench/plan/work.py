"""Arithmetic and memory traffic of the instructions of a compiled module."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence

from clr_jax.bench.hlo import Instruction, Module, Shape

# Operations that count once per element of the result; moves and comparisons do not count.
_ARITHMETIC = re.compile(
  'add|subtract|multiply|divide|remainder|maximum|minimum|negate|abs|r?sqrt|cbrt|power|'
  'exponential(-minus-one)?|log(-plus-one)?|logistic|tanh?|sine|cosine|atan2|erf|floor|ceil|'
  'round-nearest-(even|afz)'
)
_REDUCTIONS = ('reduce', 'reduce-window', 'select-and-scatter')
_SLICES = ('slice', 'dynamic-slice', 'gather')
_WINDOW = re.compile(r'window=\{([^}]*)\}')
_LABELS = re.compile(r'dim_labels=(\w+)_(\w+)->(\w+)')
_CONTRACTED = re.compile(r'"?lhs_contracting_dim(?:ension)?s"?[=:][{\[]([\d,"]*)[}\]]')
_CONV_ROLES = {  # which of (result, first, second operand) is (input, filter, output)
  'Forward': (1, 2, 0),
  'BackwardInput': (0, 2, 1),
  'BackwardFilter': (1, 0, 2),
}

Body = Mapping[str, Instruction]


def product_flops(module: Module, op: Instruction, body: Body) -> int:
  """FLOPs of convolutions and matrix products in `op`, two per multiplication.

  Multiplications with the zeros of a padding or of a stride's gaps do not count.
  """
  if op.opcode == 'fusion':
    return sum(_total(module, name, product_flops) for name in op.called)
  arrays = [_first(op), *(_first(body[name]) for name in op.operands if name in body)]
  if op.opcode == 'convolution' and len(arrays) == 3:
    return _convolution(op, arrays, (1, 2, 0))
  if op.opcode == 'dot' and len(arrays) == 3:
    return _dot(op, arrays)
  if op.opcode == 'custom-call' and len(arrays) >= 3:
    for kind, roles in _CONV_ROLES.items():
      if f'conv{kind}' in op.target:
        return _convolution(op, arrays, roles)
    if 'gemm' in op.target or 'matmul' in op.target:
      return _dot(op, arrays)
  return 0


def other_flops(module: Module, op: Instruction, body: Body) -> int:
  """FLOPs of `op` besides convolutions and products, one per element."""
  if op.opcode == 'fusion':
    return sum(_total(module, name, other_flops) for name in op.called)
  if _ARITHMETIC.fullmatch(op.opcode):
    return math.prod(_first(op).dimensions)
  if op.opcode in _REDUCTIONS:
    inputs = [_first(body[name]) for name in op.operands[: len(op.shapes)] if name in body]
    return sum(math.prod(shape.dimensions) for shape in inputs)
  return 0


def _total(module: Module, name: str, count: Callable[[Module, Instruction, Body], int]) -> int:
  body = module.computations.get(name, {})
  return sum(count(module, op, body) for op in body.values())


def _first(op: Instruction) -> Shape:
  return op.shapes[0] if op.shapes else Shape('u8[0]')


def _dot(op: Instruction, arrays: Sequence[Shape]) -> int:
  result, left = arrays[0].dimensions, arrays[1].dimensions
  found = _CONTRACTED.search(op.attributes)
  axes = [int(n) for n in re.findall(r'\d+', found[1])] if found else [len(left) - 1]
  return 2 * math.prod(result) * math.prod(left[axis] for axis in axes)


def _convolution(op: Instruction, arrays: Sequence[Shape], roles: tuple[int, int, int]) -> int:
  found = _LABELS.search(op.attributes)
  if found is None:
    return 0
  shapes = [arrays[role].dimensions for role in roles]
  # {'b': 128, 'f': 64, '0': 32, '1': 32}; i and o are channels of the filter
  image, kernel, result = (
    dict(zip(labels, sizes, strict=False))
    for labels, sizes in zip(found.groups(), shapes, strict=True)
  )
  window = _window(op.attributes)
  pairs = [
    _pairs(image[axis], kernel[axis], result[axis], {k: v[int(axis)] for k, v in window.items()})
    for axis in sorted(set(kernel) - {'i', 'o'})
  ]
  return 2 * result['b'] * result['f'] * kernel['i'] * math.prod(pairs)


def _window(attributes: str) -> dict[str, list[str]]:
  """Parses a window: {'size': ['3', '3'], 'pad': ['1_1', '1_1']}, with defaults."""
  found = _WINDOW.search(attributes)
  return {
    key: values.split('x')
    for key, _, values in (part.partition('=') for part in (found[1].split() if found else []))
  }


def _pairs(size: int, taps: int, outputs: int, window: Mapping[str, str]) -> int:
  """Number of (output, filter tap) pairs along an axis that hit an input pixel."""
  low = int(window.get('pad', '0_0').partition('_')[0])
  stride, dilation = int(window.get('stride', 1)), int(window.get('rhs_dilate', 1))
  gap = int(window.get('lhs_dilate', 1))
  count = 0
  for tap in range(taps):
    for output in range(outputs):
      place = output * stride + tap * dilation - low
      count += 0 <= place <= (size - 1) * gap and place % gap == 0
  return count


def traffic(module: Module, op: Instruction, body: Body) -> int:
  """Bytes of main memory that `op` reads and writes.

  If a fusion reads only slices or gathered rows of an operand, only these count; for in-place
  results, only the updated part counts.
  """
  if op.opcode == 'copy-start':  # (to, from, context)
    return sum(map(_main, op.shapes[:2]))
  if op.opcode == 'slice-start':  # (from, to, context), between on-chip and main memory
    return min((shape.num_bytes for shape in op.shapes if shape.dimensions), default=0)
  fused = module.computations.get(op.called[0], {}) if op.opcode == 'fusion' and op.called else {}
  if not fused:
    reads = [body[name] for name in op.operands if name in body]
    if op.opcode in _SLICES:
      return 2 * sum(map(_main, op.shapes))
    return sum(_main(s) for o in [op, *reads] for s in o.shapes)
  return _reads(op, body, fused) + _writes(op, fused)


def _main(shape: Shape) -> int:
  return 0 if shape.fast else shape.num_bytes


def _reads(op: Instruction, body: Body, fused: Body) -> int:
  parameters = [inner for inner in fused.values() if inner.opcode == 'parameter']
  parameters.sort(key=lambda inner: inner.number)
  total = 0
  for name, parameter in zip(op.operands, parameters, strict=False):
    whole = sum(map(_main, body[name].shapes)) if name in body else 0
    total += min(whole, _read_of(parameter.name, fused, whole))
  return total


def _read_of(name: str, fused: Body, whole: int) -> int:
  """Bytes of `name` that its users in a fusion read."""
  total = 0
  for user in fused.values():
    if name not in user.operands:
      continue
    if user.opcode in _SLICES and user.operands[0] == name:
      total += _first(user).num_bytes
    elif user.opcode == 'dynamic-update-slice' and user.operands[0] == name:
      continue
    elif user.opcode == 'bitcast':
      total += _read_of(user.name, fused, whole)
    else:
      return whole
  return total


def _writes(op: Instruction, fused: Body) -> int:
  root = next((inner for inner in fused.values() if inner.root), None)
  results = [root] if root is not None else []
  if root is not None and root.opcode == 'tuple':
    results = [fused[name] for name in root.operands if name in fused]
  if len(results) != len(op.shapes):
    return sum(map(_main, op.shapes))
  total = 0
  for result, shape in zip(results, op.shapes, strict=True):
    update = result.operands[1] if result.opcode == 'dynamic-update-slice' else ''
    total += _main(_first(fused[update]) if update in fused else shape)
  return total
