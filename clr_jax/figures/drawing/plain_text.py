"""Makes texts of a figure drawable by matplotlib, since names of folders may be arbitrary."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from absl import logging

from clr_jax.figures.drawing.data import FigureData

_FALLBACK = 'Last Resort'  # a font with a box for every character


def drawable(data: FigureData) -> tuple[FigureData, list[str]]:
  """Returns the figure with drawable texts, and font families in order of preference.

  Dollar signs are escaped, because names are not formulas. If the usual font lacks a character,
  another installed font is added; if none has it, or it is not printable, its escape is drawn, such
  as '\\\\u65e5'. Tables are unchanged.
  """
  parts = (data.blocks, data.title, data.details)
  unusual = {c for text in _texts(parts) for c in text if not (' ' <= c <= '~' or c == '\n')}
  printed = {c for c in unusual if c.isprintable()}
  families, missing = _families(printed)
  if missing:
    logging.log_first_n(
      logging.WARNING,
      'No installed font has %s: drawn as escapes; a font such as Noto Sans CJK helps.',
      1,
      ' '.join(sorted(missing)[:20]),
    )
  escaped = (unusual - printed) | missing
  escapes = {ord(c): c.encode('unicode_escape').decode() for c in escaped}
  escapes[ord('$')] = r'\$'  # otherwise it starts a formula
  blocks, title, details = _mapped(parts, lambda text: text.translate(escapes))
  return data._replace(blocks=blocks, title=title, details=details), families


def _texts(value: Any) -> Iterator[str]:
  """All texts in nested tuples, sequences and mappings, including keys."""
  if isinstance(value, str):
    yield value
  elif isinstance(value, Mapping):
    yield from _texts([*value.keys(), *value.values()])
  elif isinstance(value, tuple | list):
    for part in value:
      yield from _texts(part)


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
  """Applies a function to all texts in a nested structure."""
  if isinstance(value, str):
    return change(value)
  if isinstance(value, Mapping):
    return {_mapped(k, change): _mapped(v, change) for k, v in value.items()}
  if isinstance(value, tuple) and hasattr(value, '_fields'):
    return type(value)(*(_mapped(part, change) for part in value))
  if isinstance(value, tuple | list):
    return [_mapped(part, change) for part in value]
  return value


def _families(characters: Iterable[str]) -> tuple[list[str], set[str]]:
  """(font families with the characters, characters without an installed font)."""
  # Matplotlib takes 0.5 s to import and is needed only for drawing.
  from matplotlib import font_manager, rcParams

  missing = _without(font_manager.findfont(font_manager.FontProperties()), characters)
  families = list(rcParams['font.family'])
  entries = {
    entry.name: entry.fname
    for entry in font_manager.fontManager.ttflist
    if entry.style == 'normal' and not entry.name.startswith(_FALLBACK)
  }
  for name, path in sorted(entries.items()) if missing else ():
    rest = _without(path, missing)
    if rest != missing:
      families.append(name)
      missing = rest
  return families, missing


def _without(path: str, characters: Iterable[str]) -> set[str]:
  """Characters missing in a font; all if it cannot be read."""
  from matplotlib import font_manager  # as above

  characters = set(characters)
  try:
    known = font_manager.get_font(path).get_charmap() if characters else ()
  except (OSError, RuntimeError):  # a damaged file
    return characters
  return {c for c in characters if ord(c) not in known}
