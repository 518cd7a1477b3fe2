"""Draws panels of figures with plotly as figures of the page."""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from clr_jax.figures.drawing.data import (
  Axis,
  Histograms,
  Line,
  Numbers,
  Panel,
  Points,
  finite_range,
)
from clr_jax.figures.drawing.overlap import lines_above
from clr_jax.figures.drawing.palette import look
from clr_jax.report.page import Page, Plot

MOST_POINTS = 1000  # of a line: more are invisible and enlarge the file
SIDE = 32  # largest side of images in pixels: 1,000 such PNGs of noise have 4 MB
_DASHES = {'-': 'solid', '--': 'dash', ':': 'dot', '-.': 'dashdot'}
_SYMBOLS = {'o': 'circle', 's': 'square', 'D': 'diamond', '^': 'triangle-up'}
# From white to Okabe and Ito's blue and darker, in one hue.
_SHADES = [[0, '#ffffff'], [0.25, '#9ad0f0'], [0.6, '#0072B2'], [1, '#00263d']]


def add_panels(
  page: Page, panels: Iterable[Panel], prefix: str, *, shape: str = '', large: bool = False
) -> str:
  """Adds panels to the page's figures.

  Args:
    page: page to which figures and images are added.
    panels: panels with lines, points or histograms.
    prefix: prefix of the figures' anchors.
    shape: 'tall', 'square' or ''.
    large: True to place fewer figures side by side.

  Returns:
    HTML elements for the page's script; '' without panels.
  """
  plots = [plot for panel in panels for plot in _plots(page, panel, shape)]
  html = ''.join(page.plot(f'{prefix}-{_slug(plot.title)}', plot) for plot in plots)
  return f'<div class="figures{" large" if large else ""}">{html}</div>\n' if html else ''


def _plots(page: Page, panel: Panel, shape: str) -> list[Plot]:
  """Plots of a panel: one, or one per histogram mark."""
  if histograms := panel.marks_of(Histograms):
    return [_heat_map(panel, mark, shape) for mark in histograms]
  lines, points = panel.marks_of(Line), panel.marks_of(Points)
  gaps = sum(not math.isfinite(v) or (panel.y.log and v <= 0) for line in lines for v in line.y)
  thinned = any(len(line.x) > MOST_POINTS for line in lines)
  notes = [
    f'{panel.note[:1].upper()}{panel.note[1:]}'.rstrip('.'),
    f'{gaps:,} values that are not finite, or not positive on a log axis, are gaps' if gaps else '',
    f'At most {MOST_POINTS:,} points of a line are drawn' if thinned else '',
  ]
  positive = min((v for line in lines for v in line.y if math.isfinite(v)), default=-1) >= 0
  return [
    Plot(
      title=panel.title,
      x=_label(panel.x),
      y=_label(panel.y),
      traces=[*map(_line, lines, lines_above(lines)), *(_scatter(page, mark) for mark in points)],
      note=' '.join(f'{note}.' for note in notes if note),
      layout={
        'xaxis': _axis(panel.x, _from_zero(lines), [line.x for line in lines]),
        'yaxis': _axis(panel.y, 'nonnegative' if positive else 'normal'),
      },
      shape=shape,
    )
  ]


def _from_zero(lines: Sequence[Line]) -> str:
  """Range from zero for an axis of steps, not of values."""
  return 'tozero' if any(line.joined for line in lines) else 'normal'


def _label(axis: Axis) -> str:
  return axis.label + ' (log)' * axis.log


def _axis(axis: Axis, rangemode: str, values: Iterable[Numbers] = ()) -> dict[str, Any]:
  """Options of a plotly axis with `values`."""
  if axis.log:
    layout: dict[str, Any] = {'type': 'log', 'exponentformat': 'power'}
  else:
    layout = {'rangemode': rangemode, 'exponentformat': 'power'}  # not 30µ
  if axis.whole:
    layout['tickformat'] = ',d'
    if finite_range(values, (0, 0))[1] <= 10:
      layout['dtick'] = 1
  if axis.limits:
    layout['range'] = list(axis.limits[::-1] if axis.reversed else axis.limits)
  if axis.reversed and not axis.limits:
    layout['autorange'] = 'reversed'
  if axis.ticks:
    layout |= {'tickvals': list(axis.ticks), 'ticktext': list(axis.ticks.values())}
  return layout


# ---------------------------------------------------------------- traces
def _line(line: Line, above: int) -> dict[str, Any]:
  """Trace of a line over which `above` others are drawn at the same points."""
  color, dash, marker = look(line.look)
  at = thinned_rows(len(line.x), MOST_POINTS)
  trace = {
    'type': 'scatter',
    'mode': 'lines+markers' if len(at) <= 60 else 'lines',
    'name': line.name,
    'x': [_digits(line.x[i]) for i in at],
    'y': [_digits(line.y[i]) for i in at],
    'line': {'color': color, 'dash': _DASHES[dash], 'width': 2 + 4 * above},
    'marker': {'size': 6 + 5 * above, 'color': color, 'symbol': _SYMBOLS[marker]},
  }
  if not line.joined:
    trace['mode'] = 'markers'
  for axis, values in (('x', line.x_half), ('y', line.y_half)):
    if values is not None:
      halves = [_digits(values[i]) or 0 for i in at]  # a single draw has no interval
      trace[f'error_{axis}'] = {'type': 'data', 'array': halves, 'thickness': 1.2, 'width': 4}
  return trace


def _scatter(page: Page, points: Points) -> dict[str, Any]:
  color, _, marker = look(points.look)
  line = {'width': 0.5, 'color': '#fff'}
  trace = {
    'type': 'scatter',
    'mode': 'markers',
    'name': points.name,
    'x': [_digits(x) for x in points.x],
    'y': [_digits(y) for y in points.y],
    'text': list(points.text),
    'ids': [str(i) for i in points.ids],
    'marker': {'color': color, 'symbol': _SYMBOLS[marker], 'size': 8, 'line': line},
  }
  if points.images is not None:
    trace['customdata'] = [page.image(thumbnail(image)) for image in points.images]
  return trace


def _heat_map(panel: Panel, histograms: Histograms, shape: str) -> Plot:
  """Share of each step's scores in each bin, with rows for scores outside the edges, if any."""
  total = histograms.counts.sum(1, keepdims=True)
  share = (histograms.counts / np.maximum(total, 1)).T  # [bins + 2, steps]
  edges = np.asarray(histograms.edges)
  width = edges[1] - edges[0]
  rows = [edges[0] - width, *edges, edges[-1] + width]
  first = 0 if share[0].any() else 1
  last = None if share[-1].any() else -1
  trace = {
    'type': 'heatmap',
    'x': list(histograms.steps),
    'y': [_digits(y) for y in rows[first:last]],
    'z': [[_digits(z) for z in row] for row in share[first:last].tolist()],
    'colorscale': _SHADES,
    'zmin': 0,
    'colorbar': {'title': {'text': 'share', 'side': 'right'}, 'thickness': 12, 'outlinewidth': 0},
    'hovertemplate': 'step %{x}<br>score %{y:.3g}<br>share %{z:.3g}<extra></extra>',
  }
  outside = first == 0 or last is None
  note = 'The outermost rows hold all that lies beyond the edges.' if outside else ''
  title = f'{panel.title}: {histograms.name}'
  return Plot(title, panel.y.label, panel.x.label, [trace], note, shape=shape)


# ---------------------------------------------------------------- values
def thinned_rows(count: int, most: int) -> Sequence[int]:
  """At most `most` of `count` rows, evenly spaced, including the first and the last."""
  if count <= most:
    return range(count)
  return [i * (count - 1) // (most - 1) for i in range(most)]


def thumbnail(image: np.ndarray) -> str:
  """Data URI of an image [H, W, C] uint8, C = 1 or 3, as a PNG of at most SIDE pixels."""
  picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
  picture.thumbnail((SIDE, SIDE))
  file = io.BytesIO()
  picture.save(file, 'png', optimize=True)
  return f'data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}'


def _digits(x: Any) -> float | int | None:
  """Rounds to 7 digits, the precision of float32; None (a gap) if not finite."""
  if isinstance(x, int):
    return x
  return float(f'{x:.7g}') if math.isfinite(x) else None


def _slug(text: str) -> str:
  """Converts text to an anchor."""
  return re.sub(r'[^a-z0-9_-]+', '-', text.lower()).strip('-')
