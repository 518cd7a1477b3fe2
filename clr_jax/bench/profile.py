"""Time of a compiled program by kind of operation, from a profiler trace."""

from __future__ import annotations

import pathlib
import re
import tempfile
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from clr_jax.bench import hlo, scopes
from clr_jax.bench.hlo import Instruction

PRODUCTS, NORMALIZATION = 'convolutions, products', 'normalization'
COMMUNICATION, OTHER = 'communication', 'other'
# Kinds of work, and what tells them in the name of an operation. The first that fits.
_SCOPES: Mapping[str, re.Pattern[str]] = {
  'augmentation': scopes.AUGMENTATION,
  'optimizer, state': scopes.OPTIMIZER,
  NORMALIZATION: scopes.NORMALIZATION,
}
# The same of operations that are no products: softmax, GELU, moves of heads.
_AROUND_PRODUCTS: Mapping[str, re.Pattern[str]] = {
  'rest of attention': scopes.ATTENTION,
  'rest of MLPs': scopes.MLP,
}
KINDS = (PRODUCTS, *_SCOPES, *_AROUND_PRODUCTS, COMMUNICATION, OTHER)

_PRODUCT_NAME = re.compile('conv_general_dilated|dot_general')
_PRODUCT_TARGET = re.compile('gemm|conv|matmul')


class Run(NamedTuple):
  """An execution of an operation, in nanoseconds."""

  name: str
  start: float
  end: float


def measure(text: str, run: Callable[[], Any]) -> dict[str, Any] | None:
  """Measures shares of a device's time while `run` executes a program, from a trace.

  Args:
    text: text of the compiled program.
    run: executes the program and waits for its end.

  Returns:
    'operations', {kind: share of the time of all operations}, which add up to 1; a fusion counts
    once, by the scope in its name, else by its contents. 'idle', the share of the time between the
    first and the last operation in which none runs. On CPUs convolutions and products run
    asynchronously and the profiler does not record their end: they get the time that other
    operations leave, and 'idle' is None. None if the profiler records no operation of the program.
  """
  options = jax.profiler.ProfileOptions()
  options.python_tracer_level = 0
  with tempfile.TemporaryDirectory() as folder:
    with jax.profiler.trace(folder, profiler_options=options):
      run()
    files = sorted(pathlib.Path(folder).rglob('*.xplane.pb'))
    with warnings.catch_warnings():  # JAX warns about one of its own types
      warnings.simplefilter('ignore', DeprecationWarning)
      lines = [line for file in files for line in _lines(file)]
  kinds = _kinds(text)
  lines = [own for line in lines if (own := [op for op in line if op.name in kinds])]
  if not lines:
    return None
  seconds: dict[str, float] = dict.fromkeys(KINDS, 0.0)
  for line in lines:
    for name, time in _own_times(line):
      seconds[kinds[name]] += time
  ops = [op for line in lines for op in line]
  idle = None
  if jax.default_backend() == 'cpu':
    others = sum(seconds.values()) - seconds[PRODUCTS]
    whole = max(op.end for op in ops) - min(op.start for op in ops)
    seconds[PRODUCTS] = max(whole - others, 0.0)
  else:
    idle = _idle(ops)
  total = sum(seconds.values())
  return {'operations': {kind: time / total for kind, time in seconds.items()}, 'idle': idle}


def _kinds(text: str) -> dict[str, str]:
  """The kind of each operation."""
  kinds: dict[str, str] = {}
  held: dict[str, set[str]] = {}  # XLA prints what a fusion holds before it
  for name, body in hlo.read(text).computations.items():
    own = {op.name: _kind(op, held) for op in body.values()}
    held[name] = set(own.values())
    kinds |= own
  return kinds


def _kind(op: Instruction, held: Mapping[str, set[str]]) -> str:
  if op.collective or op.opcode.startswith(('send', 'recv')):
    return COMMUNICATION
  by_scope = [kind for kind, pattern in _SCOPES.items() if pattern.search(op.op_name)]
  if by_scope:
    return by_scope[0]
  inside = set().union(*(held.get(name, set()) for name in op.called))
  if PRODUCTS in inside or _is_product(op):
    return PRODUCTS
  around = (kind for kind, pattern in _AROUND_PRODUCTS.items() if pattern.search(op.op_name))
  held_kinds = (kind for kind in KINDS[1:-2] if not op.op_name and kind in inside)
  return next(around, next(held_kinds, OTHER))


def _is_product(op: Instruction) -> bool:
  if op.opcode in ('fusion', 'custom-call') and _PRODUCT_NAME.search(op.op_name):
    return True
  return op.opcode in ('convolution', 'dot') or bool(_PRODUCT_TARGET.search(op.target))


def _lines(file: pathlib.Path) -> list[list[Run]]:
  """Operations of the first device, separately for each of its threads or streams."""
  data = jax.profiler.ProfileData.from_serialized_xspace(file.read_bytes())
  planes = list(data.planes)  # they point into `data`
  devices = sorted((p for p in planes if p.name.startswith('/device:')), key=lambda p: p.name)
  for plane in [*devices, *(p for p in planes if p.name == '/host:CPU')]:
    lines = list(plane.lines)
    # TPUs have additional lines of modules and steps.
    lines = [line for line in lines if line.name == 'XLA Ops'] or lines
    found = [runs for line in lines if (runs := _runs(line.events))]
    if found:
      return found
  return []


def _runs(events: Iterable[Any]) -> list[Run]:
  runs = []
  for event in events:
    stats = dict(event.stats)
    if 'hlo_op' in stats and stats.get('device_ordinal', 0) == 0:
      start = event.start_ns
      runs.append(Run(str(stats['hlo_op']), start, start + event.duration_ns))
  return runs


def _own_times(line: Sequence[Run]) -> list[tuple[str, float]]:
  """(name, time without nested operations), such as those in the body of a loop."""
  own: list[tuple[str, float]] = []
  open_: list[tuple[Run, int]] = []
  for op in sorted(line, key=lambda op: (op.start, -op.end)):
    while open_ and open_[-1][0].end <= op.start:
      open_.pop()
    if open_:
      _, i = open_[-1]
      own[i] = (own[i][0], own[i][1] - (op.end - op.start))
    open_.append((op, len(own)))
    own.append((op.name, op.end - op.start))
  return own


def _idle(ops: Sequence[Run]) -> float:
  """Share of the time between the first start and the last end in which no operation runs."""
  ordered = sorted(ops, key=lambda op: op.start)
  first = last = ordered[0].start
  busy = 0.0
  for op in ordered:
    busy += max(0.0, op.end - max(op.start, last))
    last = max(last, op.end)
  return 1 - busy / (last - first)
