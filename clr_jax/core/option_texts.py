"""Descriptions of options from docstrings, for `--help`.

The section `Args:` or `Attributes:` of a docstring has entries for one or several options:

    temperature: 0.3 on CIFAR (the report), 0.1 on ImageNet.
    mean, std: pixel statistics, one value for all channels or one per channel.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from typing import Any, TypeVar

Factory = TypeVar('Factory', bound=Callable)

_SECTION = re.compile(r'^(?:Args|Attributes):\n((?:(?:  .*)?(?:\n|$))*)', re.MULTILINE)
_ENTRY = re.compile(r'^  (\w+(?:, \w+)*):(.*(?:\n    .*)*)', re.MULTILINE)


def described_by(source: Any) -> Callable[[Factory], Factory]:
  """Decorator: options missing in the factory's docstring are described by that of `source`."""

  def decorate(factory: Factory) -> Factory:
    described: Any = factory
    described.option_sources = (*getattr(factory, 'option_sources', ()), source)
    return factory

  return decorate


def option_texts(factory: Any) -> dict[str, str]:
  """Descriptions from the docstring of a factory, then of its sources, each on one line."""
  factory = getattr(factory, 'func', factory)  # unwraps a partial
  texts = dict(_entries(factory.__doc__ or ''))
  for source in getattr(factory, 'option_sources', ()):
    texts = {**option_texts(source), **texts}
  return texts


@functools.lru_cache(maxsize=1024)
def _entries(docstring: str) -> tuple[tuple[str, str], ...]:
  """(name, text) of each option; cached, because a config needs the same ones many times."""
  return tuple(
    (name, ' '.join(text.split()))
    for section in _SECTION.findall(inspect.cleandoc(docstring))
    for names, text in _ENTRY.findall(section)
    for name in names.split(', ')
  )
