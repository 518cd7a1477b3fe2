"""The random operators that a policy consists of, each by itself."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from clr_jax.augment.policies import Chain, Policy
from clr_jax.core.types import Array

_RESIZE = 'resize'  # the function that `_resize` returns
_NAMES = {
  '_ResizedCrop': 'resized crop',
  'auto_augment': 'AutoAugment',
  'rand_augment': 'RandAugment',
}


class Operator(NamedTuple):
  """A random operator of a policy.

  Attributes:
    name: its name, such as 'color jitter'.
    apply: the operator, applied to every image.
    options: its options, except for the probability.
    probability: share of the images that it changes; 1 without such an option.
    takes_whole: True for the first step, which gets the images as they are, or a canvas.
  """

  name: str
  apply: Policy
  options: Mapping[str, Any]
  probability: float
  takes_whole: bool


def operators_of(policy: Policy) -> list[Operator]:
  """Lists the random operators of a policy in order, without the resizing of whole images."""
  found = []
  for i, step in enumerate(_steps(policy)):
    function = getattr(step, 'func', step)
    name = getattr(function, '__name__', '') or type(function).__name__
    options = dict(getattr(step, 'keywords', None) or getattr(step, '_asdict', dict)())
    probability = 1.0
    if 'p' in (parameters := inspect.signature(function).parameters):
      probability = float(options.pop('p', parameters['p'].default))
      always: Callable[..., Array] = step
      step = functools.partial(always, p=1.0)
    if name != _RESIZE:
      words = _NAMES.get(name, name.removeprefix('random_').replace('_', ' '))
      found.append(Operator(words, step, options, probability, i == 0))
  return found


def _steps(policy: Policy) -> list[Policy]:
  if not isinstance(policy, Chain):
    return [policy]
  return [step for part in policy.steps for step in _steps(part)]
