"""Colors, dashes and markers of lines and points."""

from __future__ import annotations

from typing import NamedTuple

# Okabe and Ito's palette: tells apart under all common forms of color blindness.
COLORS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9', '#000000')
DASHES = ('-', '--', ':', '-.')
MARKERS = ('o', 's', 'D', '^')
GRAY = '#BBBBBB'


class Look(NamedTuple):
  """Color, dash and marker in matplotlib's notation."""

  color: str
  dash: str
  marker: str


def look(number: int | None) -> Look:
  """The look of the number-th line or set of points, 28 different ones; gray for None."""
  if number is None:
    return Look(GRAY, DASHES[0], MARKERS[0])
  dash = DASHES[number // len(COLORS) % len(DASHES)]
  return Look(COLORS[number % len(COLORS)], dash, MARKERS[number % len(MARKERS)])
