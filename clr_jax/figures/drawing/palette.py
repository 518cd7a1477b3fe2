"""Colors, dashes and markers of lines and points."""

from __future__ import annotations

from typing import NamedTuple

# The first seven are Okabe and Ito's, distinguishable under all common forms of color blindness;
# the others provide 20 colors for classes.
COLORS = (
  *('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9', '#000000'),
  *('#E6194B', '#911EB4', '#9A6324', '#469990', '#000075', '#A5D62C', '#F032E6'),
  *('#800000', '#808000', '#B497E7', '#7BD8A0', '#F5A3B5', '#E3C800'),
)
DASHES = ('-', '--', ':', '-.')
MARKERS = ('o', 's', 'D', '^')


class Look(NamedTuple):
  """Color, dash and marker in matplotlib's notation."""

  color: str
  dash: str
  marker: str


def look(number: int) -> Look:
  """Look of line or set of points number `number`; 80 are different."""
  dash = DASHES[number // len(COLORS) % len(DASHES)]
  return Look(COLORS[number % len(COLORS)], dash, MARKERS[number % len(MARKERS)])
