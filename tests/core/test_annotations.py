"""Values that annotations allow, and messages about others."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, Protocol

import numpy as np
import pytest
from annotated_types import Ge, Gt, Interval, Le, Len, Lt, MaxLen, MinLen, MultipleOf, Predicate

from clr_jax.core.annotations import (
  DISTINCT,
  INCREASING,
  INFINITY_ALLOWED,
  NO_EFFECT_ON_TRAINING,
  SEVERAL,
  OneOf,
  check_value,
  describe,
  value_type,
)
from clr_jax.core.errors import UserError

POSITIVE = 'a number of at least 0'
HUGE = 10**400  # larger than every float


class Step(Protocol):
  def __call__(self, step): ...


# annotation, values that it allows, values that it does not, its words
CASES = [
  (
    float,
    [0, 0.5, -1, HUGE, np.float32(2)],
    [math.nan, math.inf, True, '1', None, (1,)],
    'a number',
  ),
  (int, [0, -3, HUGE, np.int64(2)], [0.5, 1.0, True, '1', None, math.inf], 'a whole number'),
  (bool, [True, False], [0, 1, 'True', None], 'True or False'),
  (str, ['', 'a'], [1, None, ('a',)], 'a string'),
  (int | None, [None, 1], [0.5, ''], 'a whole number, or None'),
  (Annotated[float, INFINITY_ALLOWED], [math.inf, -math.inf, 1], [math.nan], 'a number'),
  (Annotated[float, Gt(0)], [1e-9], [0, -1, math.nan, math.inf], 'a number greater than 0'),
  (Annotated[float, Ge(0), INFINITY_ALLOWED], [0, math.inf], [-math.inf], 'a number of at least 0'),
  (Annotated[float, Lt(1)], [0.5], [1, 2], 'a number less than 1'),
  (Annotated[float, Ge(0), Le(1)], [0, 1], [-0.1, 1.1], 'a number of at least 0 and of at most 1'),
  (Annotated[float, Interval(gt=0, le=1)], [1], [0], 'a number greater than 0 and of at most 1'),
  (Annotated[int, MultipleOf(4)], [0, 8], [2], 'a whole number that is a multiple of 4'),
  (Annotated[int | None, Ge(1)], [None, 1], [0], 'a whole number of at least 1, or None'),
  (
    Annotated[int | Literal['auto'], Ge(1)],
    ['auto', 3],
    [0, 'atuo'],
    "a whole number of at least 1, or 'auto'",
  ),
  (Literal['a', 'b'], ['a'], ['c', None, ('a',)], "one of 'a', 'b'"),
  (Literal[1, 2], [1], [3, 1.0, True], 'one of 1, 2'),
  (Literal['a'] | None, ['a', None], ['b'], "'a', or None"),
  (Annotated[str, OneOf({'x': 1, 'y': 2})], ['x'], ['z', 1], "one of 'x', 'y'"),
  (Annotated[str, MinLen(1)], ['a'], [''], 'a string that is not empty'),
  (tuple[float, int], [(0.5, 1), [0, 1]], [(0.5,), (0.5, 0.5), 'ab'], '(a number, a whole number)'),
  (
    tuple[Annotated[float, Gt(0)], ...],
    [(), (1, 2)],
    [(0,), (1, math.nan), 1],
    'a sequence, each a number greater than 0',
  ),
  (
    Annotated[tuple[Literal['a', 'b'], ...], MinLen(1)],
    [('a', 'a')],
    [(), ('c',), 'a'],
    "a sequence, each one of 'a', 'b', that is not empty",
  ),
  (Sequence[str], [('a',)], ['a', (1,)], 'a sequence, each a string'),
  (
    Annotated[tuple, Len(2, 3)],
    [(1, 'a')],
    [(1,), (1,) * 4],
    'a sequence of at least 2 entries and of at most 3 entries',
  ),
  (
    Annotated[tuple[int, ...], MaxLen(1)],
    [(1,)],
    [(1, 2)],
    'a sequence, each a whole number, of at most 1 entries',
  ),
  (
    Annotated[tuple[float, float], INCREASING],
    [(0, 1), (1, 1)],
    [(1, 0)],
    '(a number, a number) in increasing order',
  ),
  (
    Annotated[Sequence[float], INCREASING, DISTINCT],
    [(), (1,), [1, 2.5]],
    [(1, 1), (1, 1.0), (2, 1)],
    'a sequence, each a number, in increasing order and without repetitions',
  ),
  (float | tuple[float, ...], [1, (1, 2)], ['1', ('1',)], 'a number, or a sequence, each a number'),
  (
    Annotated[float, Ge(0), SEVERAL],
    [1, (1, 2)],
    [-1, (1, -1), ()],
    'a number of at least 0, or several',
  ),
  (Mapping[str, Any], [{}], [1], 'a section with keys'),
  (Annotated[bool, NO_EFFECT_ON_TRAINING], [True], [1], 'True or False'),
]


@pytest.mark.parametrize(('hint', 'allowed', 'refused', 'words'), CASES, ids=lambda x: str(x)[:40])
def test_values(hint, allowed, refused, words):
  assert describe(hint) == words
  for value in allowed:
    check_value('key', value, hint)
  for value in refused:
    with pytest.raises(UserError) as error:
      check_value('key', value, hint)
    assert str(error.value).startswith('key') and str(error.value).endswith(words)


def test_callables_arrays_and_protocols_are_no_values_to_check():
  check_value('key', max, Callable[[Any], Any])
  check_value('key', max, Step)
  check_value('key', np.zeros(3), Any)


def test_sentences():
  for value, hint, message in (
    (0, Annotated[float, Gt(0)], 'method.t=0 is not allowed: give a number greater than 0'),
    (
      'cosin',
      Literal['cosine', 'step'],
      "method.t='cosin' is not allowed: did you mean 'cosine'? give one of 'cosine', 'step'",
    ),
    (
      (1, -1),
      Annotated[float, Ge(0), SEVERAL],
      'method.t=-1 is not allowed: give a number of at least 0, or several',
    ),
    (
      (2, 1, 2.0),
      Annotated[float, Ge(0), SEVERAL],
      'method.t=(2, 1, 2.0) repeats a value: give each of them once',
    ),
    (
      ('a', 'trainde'),
      tuple[Literal['a', 'trained'], ...],
      "method.t=('a', 'trainde') is not allowed: did you mean 'trained'? give a sequence, each one "
      "of 'a', 'trained'",
    ),
    ((), Annotated[float, SEVERAL], 'method.t is empty: give a number, or several'),
    ('x' * 100, int, f"method.t='{'x' * 76}... is not allowed: give a whole number"),
  ):
    with pytest.raises(UserError) as error:
      check_value('method.t', value, hint)
    assert str(error.value) == message


def test_an_unknown_bound_is_an_error_of_ours():
  with pytest.raises(TypeError, match='no rule for the bound'):
    check_value('key', 1, Annotated[int, Predicate(bool)])


@pytest.mark.parametrize(
  ('hint', 'kind'),
  [
    (Annotated[float | None, Gt(0)], float),
    (int | float, float),
    (Literal['a', 'b'], str),
    (Literal[1, 2], int),
    (bool | None, bool),
    (tuple[int, int] | None, tuple),
    (float | Sequence[float], tuple),
    (Any, str),
  ],
)
def test_types_of_flags(hint, kind):
  assert value_type(hint) is kind
