"""Every option of the library has a type and bounds, and a bad value of any kind is refused."""

import ast
import importlib
import math
import pathlib
import re
import types
import typing
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Literal

import annotated_types as at
import numpy as np
import pytest

import clr_jax
from clr_jax import figures, plugins, wrappers
from clr_jax.augment import policies
from clr_jax.core.annotations import INFINITY_ALLOWED, SEVERAL, OneOf, check_value, facts_of
from clr_jax.core.errors import UserError
from clr_jax.core.options import REQUIRED, Option, check, options_of
from clr_jax.data import sources
from clr_jax.evaluation.protocols import PROTOCOLS
from clr_jax.experiment.schema import sections
from clr_jax.models import heads

# Registries of sections come from the schema.
REGISTRIES = {'protocol': PROTOCOLS, 'head': heads.REGISTRY, 'figure': figures.FIGURES}
# The options of policies are those of augmentations; plug-ins and wrappers are sections; data sets
# are loaded by `load_source`, which checks their options.
ELSEWHERE = policies.REGISTRY, plugins.PLUGINS, wrappers.WRAPPERS, sources.SCHEMES


def statements(with_word: str):
  """(module name, statement) of each function, class and assignment in files with a word."""
  root = pathlib.Path(clr_jax.__file__).parent
  for path in sorted(root.rglob('*.py')):
    if with_word in (text := path.read_text()):
      module = '.'.join(['clr_jax', *path.relative_to(root).with_suffix('').parts])
      for statement in ast.parse(text).body:
        yield importlib.import_module(module.removesuffix('.__init__')), statement


def checked_functions() -> dict[str, typing.Any]:
  """Functions of the library that check the options of their callers."""
  found = {}
  for module, statement in statements('@checked'):
    owner, inside = module, (statement,)
    if isinstance(statement, ast.ClassDef):
      owner, inside = getattr(module, statement.name), statement.body
    for each in inside:
      if any(ast.unparse(d) == 'checked' for d in getattr(each, 'decorator_list', ())):
        found[f'{module.__name__}.{each.name}'] = getattr(owner, each.name)
  return found


def registries():
  """(name, registry) of all registries of the library."""
  for module, statement in statements('Registry('):
    value = getattr(statement, 'value', None)
    if isinstance(value, ast.Call) and ast.unparse(value.func).endswith('Registry'):
      target = getattr(statement, 'target', None) or statement.targets[0]
      yield f'{module.__name__}.{target.id}', getattr(module, target.id)


def all_options() -> dict[str, Option]:
  """Options of sections whatever `name` chooses, of all registries, of functions that check theirs,
  by 'what[name].option'.
  """
  found = {
    (path, name): part.options(name)
    for path, part in sections().items()
    for name in (part.choices.names() if part.choices else [''])
  }
  for what, registry in REGISTRIES.items():
    found |= {(what, name): options_of(registry.factory(name)) for name in registry.names()}
  found['load_source', ''] = options_of(sources.load_source)
  found |= {('function', name): options_of(f) for name, f in checked_functions().items()}
  return {
    f'{what}[{name}].{key}' if name else f'{what}.{key}': option
    for (what, name), options in found.items()
    for key, option in options.items()
    # The library gives the first; the others are arrays.
    if key != 'dtype' and not (what == 'function' and option.hint is typing.Any)
  }


OPTIONS = all_options()
SEQUENCES = (tuple, Sequence, Collection)
NUMBERS = (
  *(math.nan, math.inf, -math.inf, np.float32('inf'), 1e300, -1e300, 10**400, -(10**5000)),
  *(-1, -1e-3, 2**31, 2**63, np.int64(-1), np.float16(-1)),
)
NO_NUMBERS = ('', 'text', '1', 'nan', b'1', 1j, [], {}, {'a': 1}, object(), int)


# ---------------------------------------------------------------- annotations, read apart
def parts(hint, *, inside=True):
  """(type without annotations, bounds and facts) of a hint and, with `inside`, of its entries."""
  facts = ()
  while typing.get_origin(hint) is Annotated:
    facts, hint = (*facts, *hint.__metadata__), hint.__origin__
  flat = [b for f in facts for b in (f if isinstance(f, at.GroupedMetadata) else [f])]
  if typing.get_origin(hint) in (typing.Union, types.UnionType):
    for member in typing.get_args(hint):
      yield from parts(Annotated[member, *flat] if flat else member, inside=inside)
    return
  yield hint, flat
  if inside and typing.get_origin(hint) in SEQUENCES:
    for each in typing.get_args(hint):
      yield from parts(each) if each is not Ellipsis else ()


def open_ends(hint):
  """The numbers in a hint, those of its entries too, that have no lower or no upper bound."""
  return [
    kind.__name__
    for kind, facts in parts(hint)
    if kind in (int, float)
    and not (
      any(isinstance(f, at.Gt | at.Ge) for f in facts)
      and any(isinstance(f, at.Lt | at.Le) or f == INFINITY_ALLOWED for f in facts)
    )
  ]


def within(value, kind, facts):
  """True if a number is within the bounds."""
  value = value.item() if isinstance(value, np.generic) else value
  huge = abs(value) > 1e299 and INFINITY_ALLOWED not in facts
  if huge or value != value or (kind is int and not isinstance(value, int)):
    return False
  meets = {
    at.Gt: lambda f: value > f.gt,
    at.Ge: lambda f: value >= f.ge,
    at.Lt: lambda f: value < f.lt,
    at.Le: lambda f: value <= f.le,
  }
  return all(meets[type(f)](f) for f in facts if type(f) in meets)


def bad_values(hint):
  """Values of each kind that an annotation does not allow."""
  found = list(parts(hint, inside=False))
  kinds = {kind for kind, _ in found}
  origins = {typing.get_origin(kind) or kind for kind in kinds}
  numeric = [(kind, facts) for kind, facts in found if kind in (int, float)]
  named = [f for _, facts in found for f in facts if isinstance(f, OneOf)]
  strings = str in kinds and not named
  listed = {
    v for kind in kinds if typing.get_origin(kind) is Literal for v in typing.get_args(kind)
  }
  for value in NO_NUMBERS:
    is_list, is_section = value == [], isinstance(value, dict)
    if not (
      any(isinstance(f, OneOf) and isinstance(value, str) and value in f.names for f in named)
      or (strings and isinstance(value, str))
      or (isinstance(value, str) and value in listed)
      or (is_list and origins & set(SEQUENCES))
      or (is_list and SEVERAL in facts_of(hint))
      or (is_section and Mapping in origins)
    ):
      yield value
  if type(None) not in kinds:
    yield None
  if bool not in kinds:
    yield from (True, False)
  for value in NUMBERS:
    if not any(within(value, kind, facts) for kind, facts in numeric):
      yield value
  for kind, facts in numeric:
    yield from beyond(kind, facts)
    if float not in kinds:
      yield from (0.5, 1.0)
  for origin in origins & set(SEQUENCES):
    yield from bad_sequences(hint, origin, found)
  if SEVERAL in facts_of(hint):
    yield ()
    yield (object(),)
  elif not origins & set(SEQUENCES):
    yield from ((1, 2), [1, 2], ((),), np.zeros(2))


def bad_sequences(hint, origin, found):
  """A bad entry, one level too many, another length."""
  yield from (('text', object()), ([[]],), (math.nan,) * 2)
  (entries, facts) = next(
    (typing.get_args(k), f) for k, f in found if (typing.get_origin(k) or k) is origin
  )
  fixed = origin is tuple and entries[-1] is not Ellipsis
  if fixed:
    yield from ((), (1,) * (len(entries) + 1), (1,) * (len(entries) - 1))
  elif any(isinstance(f, at.MinLen) for f in facts):
    yield ()
  for bad in bad_values(entries[0]):
    if fixed or not (isinstance(bad, tuple) and bad == ()):
      yield (bad,) * (len(entries) if fixed else 1)


def beyond(kind, facts):
  """Numbers right outside of the bounds."""
  for fact in facts:
    match fact:
      case at.Gt(limit) | at.Lt(limit):
        yield limit
      case at.Ge(limit):
        yield limit - 1 if kind is int else np.nextafter(limit, -math.inf)
      case at.Le(limit):
        yield limit + 1 if kind is int else np.nextafter(limit, math.inf)


# ---------------------------------------------------------------- tests
def test_every_registry_is_tried():
  """A new one has to be added above, unless it is that of a section."""
  tried = [part.choices for part in sections().values()] + [*REGISTRIES.values(), *ELSEWHERE]
  found = dict(registries())
  assert len(found) > 10
  assert not [name for name, each in found.items() if not any(each is one for one in tried)]


def test_every_number_has_a_lower_and_an_upper_bound():
  assert not {name: ends for name, option in OPTIONS.items() if (ends := open_ends(option.hint))}


@pytest.mark.parametrize(
  'hint',
  [
    float,
    int | None,
    Annotated[float, at.Ge(0)],
    Annotated[int, at.Lt(1)] | None,
    tuple[float, Annotated[float, at.Interval(ge=0, le=1)]],
    Annotated[Sequence[Annotated[int, at.Ge(1)]], at.MinLen(1)],
  ],
)
def test_a_number_without_a_bound_is_seen(hint):
  assert open_ends(hint)
  assert not open_ends(Annotated[float | None, at.Ge(0), at.Le(1)])


def test_every_option_says_what_it_may_be():
  """No option takes anything at all."""
  for name, option in OPTIONS.items():
    assert option.hint is not typing.Any, name


def test_defaults_are_allowed():
  for name, option in OPTIONS.items():
    if option.default is not REQUIRED:
      check_value(name, option.default, option.hint)


@pytest.mark.parametrize('what', sorted({re.split(r'[.[]', name)[0] for name in OPTIONS}))
def test_bad_values_of_every_kind_are_refused(what):
  """By `check`, the one function that all of them go through, in one sentence about the option."""
  own = {name: option for name, option in OPTIONS.items() if re.split(r'[.[]', name)[0] == what}
  # Presets and methods share most of their options: each hint of a name once.
  distinct = {(name.rpartition('.')[2], str(o.hint)): (name, o) for name, o in own.items()}
  allowed, tried = [], 0
  for name, option in distinct.values():
    for value in bad_values(option.hint):
      tried += 1
      try:
        check({name: option}, {name: value}, what='it', complete=False)
      except UserError as error:
        text = str(error)
        assert text.startswith(name) and '\n' not in text and len(text) < 1000, text
      else:
        allowed.append(f'{name}={value!r}')
  assert not allowed
  assert tried > 10
