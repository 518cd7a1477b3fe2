"""Parser of the text of compiled XLA modules: instructions, shapes, kernels."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

COLLECTIVES = ('all-reduce', 'all-gather', 'reduce-scatter', 'all-to-all', 'collective-permute')
# Instructions that name, view or wait for values: nothing runs for them.
_FREE = (
  'parameter',
  'constant',
  'tuple',
  'get-tuple-element',
  'bitcast',
  'after-all',
  'partition-id',
  'replica-id',
  'opt-barrier',
  'add-dependency',
)
_FREE_TARGETS = ('Sharding', 'SPMD', 'ConcatBitcast', 'AllocateBuffer', 'MoveToHost', 'annotate')
_ENTERED = ('call', 'while', 'conditional', 'async-start')
_COMPUTATION = re.compile(r'(ENTRY )?%?([\w.\-]+) .*\{$')
_INSTRUCTION = re.compile(r'\s+(ROOT )?%?([\w.\-]+) = ')
_OPCODE = re.compile(r'\s*([\w\-]+)\(')
_ARRAY = re.compile(r'([a-z]+\d*\w*\[[\d,<=]*\])(?:\{([^}]*)\})?')
_NAME = re.compile(r'%([\w.\-]+)')
_CALLED = re.compile(
  r'\b(?:calls|body|to_apply|called_computations|branch_computations)=\{?([^,}]*)'
)
_BRANCHES = re.compile(
  r'(?:branch_computations=\{([^}]*)\}|(?:true|false)_computation=(%[\w.\-]+))'
)
_OP_NAME = re.compile(r'op_name="([^"]*)"')
_TARGET = re.compile(r'custom_call_target="([^"]*)"')
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')


class Shape(NamedTuple):
  """An array such as 'f32[16,8]'; `fast` if it is in on-chip memory (space S(1) of TPUs)."""

  text: str
  fast: bool = False

  @property
  def dimensions(self) -> list[int]:
    """[16, 8] of 'f32[16,8]', [] of a scalar."""
    return [int(n) for n in re.findall(r'\d+', self.text.partition('[')[2])]

  @property
  def num_bytes(self) -> int:
    """512 of 'f32[16,8]'; a boolean takes one."""
    bits = re.search(r'\d+', self.text.partition('[')[0])
    return math.prod(self.dimensions) * (max(int(bits[0]) // 8, 1) if bits else 1)


class Instruction(NamedTuple):
  """One line of a computation.

  Attributes:
    name: name without '%'.
    opcode: operation, such as 'fusion'.
    shapes: shapes of the results.
    operands: names of the operands.
    attributes: text from the operands on.
    root: True for the result of its computation.
  """

  name: str
  opcode: str
  shapes: tuple[Shape, ...]
  operands: tuple[str, ...]
  attributes: str
  root: bool

  @property
  def number(self) -> int:
    """Number of a parameter among the operands of the fusion that calls its computation."""
    return int(self.attributes[1 : self.attributes.index(')')])

  @property
  def op_name(self) -> str:
    """Scopes of the operation, 'jit(step)/optimizer/mul'; '' if XLA has dropped them."""
    found = _OP_NAME.search(self.attributes)
    return found[1] if found else ''

  @property
  def collective(self) -> str:
    """Kind of collective, such as 'all-gather', also for its start and end; '' for none."""
    return next((kind for kind in COLLECTIVES if self.opcode.startswith(kind)), '')

  @property
  def called(self) -> tuple[str, ...]:
    """Names of the called computations."""
    names = []
    for text in _CALLED.findall(self.attributes):
      names += _NAME.findall(text)
    for several, one in _BRANCHES.findall(self.attributes):
      names += _NAME.findall(several or one)
    return tuple(dict.fromkeys(names))

  @property
  def target(self) -> str:
    """Target of a custom call, such as '__cudnn$convForward'."""
    found = _TARGET.search(self.attributes)
    return found[1] if found else ''

  @property
  def estimated_cycles(self) -> int:
    """Cycles estimated by the TPU compiler; 0 without an estimate."""
    found = _CYCLES.search(self.attributes)
    return int(found[1]) if found else 0


class Module(NamedTuple):
  """Computations by name, as ordered instructions by name, and the name of the entry."""

  computations: Mapping[str, Mapping[str, Instruction]]
  entry: str


class Kernel(NamedTuple):
  """An instruction that a device launches, `times` per call of the program."""

  instruction: Instruction
  computation: str
  times: int


def read(text: str) -> Module:
  """Parses the module of `jax.stages.Compiled.as_text()`."""
  computations: dict[str, dict[str, Instruction]] = {}
  current: dict[str, Instruction] = {}
  entry = ''
  for line in text.splitlines():
    if found := _INSTRUCTION.match(line):
      current[found[2]] = _instruction(found[2], line[found.end() :], bool(found[1]))
    elif line.endswith('{') and (found := _COMPUTATION.match(line)):
      current = computations[found[2]] = {}
      entry = found[2] if found[1] else entry
  return Module(computations, entry)


def _instruction(name: str, text: str, root: bool) -> Instruction:
  end = _closing(text, 0) if text.startswith('(') else text.index(' ')
  shapes = tuple(
    Shape(array, 'S(1)' in (layout or '')) for array, layout in _ARRAY.findall(text[:end])
  )
  found = _OPCODE.match(text, end)
  assert found is not None, f'{name}: {text[:200]}'
  close = _closing(text, found.end() - 1)
  operands = tuple(_NAME.findall(text[found.end() : close]))
  return Instruction(name, found[1], shapes, operands, text[found.end() - 1 :], root)


def _closing(text: str, start: int) -> int:
  """Index after the parenthesis that closes the one at `start`."""
  depth = 0
  for i in range(start, len(text)):
    depth += {'(': 1, ')': -1}.get(text[i], 0)
    if not depth:
      return i + 1
  return len(text)


def kernels(module: Module) -> Iterator[Kernel]:
  """Yields all kernels in order, and bodies of loops with their trip counts, if known to XLA.

  A library call (cuDNN, cuBLAS), a copy and a collective count as one; operations on scalars that
  TPUs execute beside their programs do not count.
  """
  return _kernels(module, module.entry, 1)


def _kernels(module: Module, name: str, times: int) -> Iterator[Kernel]:
  body = module.computations.get(name, {})
  for op in body.values():
    if op.opcode in _ENTERED:
      trips = _TRIPS.search(op.attributes)
      for called in op.called:
        yield from _kernels(module, called, times * (int(trips[1]) if trips else 1))
    elif _runs(op, body):
      yield Kernel(op, name, times)


def _runs(op: Instruction, body: Mapping[str, Instruction]) -> bool:
  if op.opcode in _FREE or op.opcode.endswith(('-done', '-update')):
    return False
  if op.opcode == 'custom-call':
    return not op.target.startswith(_FREE_TARGETS)
  if op.opcode == 'fusion' or op.collective:
    return True
  shapes = [*op.shapes, *(s for name in op.operands if name in body for s in body[name].shapes)]
  return any(shape.dimensions for shape in shapes) or op.opcode == 'copy'
