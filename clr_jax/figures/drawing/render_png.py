"""Draws a `FigureData` with matplotlib, and writes its tables as CSV files."""

from __future__ import annotations

import csv
import io
import itertools
import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from clr_jax.core.storage import atomic_write
from clr_jax.figures.drawing.data import Axis, Block, FigureData, Grid, Line, Mosaic, Panel, Table
from clr_jax.figures.drawing.marks_png import draw_mark, name_of
from clr_jax.figures.drawing.overlap import lines_above
from clr_jax.figures.drawing.plain_text import drawable

_LETTERS = 13  # letters of a legend per inch
_MOST_LETTERS = 16  # small letters per inch
_LINE = 0.2  # height of a legend's line in inches


def render_png(data: FigureData, out: str) -> list[epath.Path]:
  """Writes the image and the numbers of a figure.

  Args:
    data: the figure.
    out: FILE.png. A figure with a name becomes FILE-NAME.png, and its tables FILE-NAME.csv or
      FILE-NAME-TABLE.csv.

  Returns:
    The paths of the files, the image first.
  """
  path = epath.Path(out)
  stem = '-'.join(filter(None, (path.stem, data.name)))
  written = [path.with_name(f'{stem}.png')]
  atomic_write(written[0], to_png(data))
  for name, table in data.tables.items():
    written.append(path.with_name('-'.join(filter(None, (stem, name))) + '.csv'))
    _write_csv(written[-1], table)
  return written


def _write_csv(path: epath.Path, table: Table) -> None:
  file = io.StringIO(newline='')
  writer = csv.writer(file)
  writer.writerow(table.header)
  writer.writerows(table.rows)
  atomic_write(path, file.getvalue().encode(errors='backslashreplace'))


def to_png(data: FigureData) -> bytes:
  """Renders a figure as the bytes of a PNG file."""
  from matplotlib import rc_context  # takes 0.5 s to import, and only needed here

  data, families = drawable(data)
  file = io.BytesIO()
  with rc_context({'font.family': families}):
    _draw_figure(data).savefig(file, format='png')
  return file.getvalue()


def _draw_figure(data: FigureData) -> Any:
  """Draws a matplotlib figure from a figure with drawable texts."""
  from matplotlib.figure import Figure  # 0.5 s to import, and only needed here

  heights = [block.size[1] * _num_rows(block) for block in data.blocks]
  width = max(block.size[0] * _num_columns(block) for block in data.blocks)
  figure: Any = Figure(dpi=110, layout='constrained')
  parts = figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights).ravel()
  axes, lines = [], 0
  for part, block in zip(parts, data.blocks, strict=True):
    drawn = _draw_block(part, block)
    axes += drawn
    if data.legend == 'panels':
      wide, high = block.size
      place = {'loc': 'upper center', 'bbox_to_anchor': (0.5, -0.55 / high)}
      counts = [_legend(axis.legend, _handles([axis]), wide, **place) for axis in drawn]
      lines += max(counts) * _num_rows(block)
  if data.legend == 'below':
    handles = {data.details.get(name, name): handle for name, handle in _handles(axes).items()}
    lines = _legend(figure.legend, handles, width, loc='outside lower center')
  if data.legend == 'right':
    width += 1.2
    _legend(figure.legend, _handles(axes), 0, loc='outside right upper')
  if data.title:
    figure.suptitle(data.title, fontsize=11)
  figure.set_size_inches(width, sum(heights) + _LINE * (lines + 2 * bool(data.title)))
  return figure


# ---------------------------------------------------------------- legends
def _handles(axes: Sequence[Any]) -> dict[str, Any]:
  """{legend entry: first artist drawn under that name}."""
  handles = {}
  for axis in axes:
    for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
      handles.setdefault(name_of(label), handle)
  return handles


def _legend(make: Any, handles: Mapping[str, Any], width: float, **place: Any) -> int:
  """Draws a legend outside of the axes and returns its number of lines."""
  if not handles:
    return 0
  most = max(40, int(width * _MOST_LETTERS))  # longer names leave no room for the axes
  widest = max(min(len(line), most) for name in handles for line in name.splitlines())
  columns = max(1, min(len(handles), int(width * _LETTERS / (widest + 8))))
  style = {'frameon': False, 'fontsize': 8, 'ncols': columns}
  # Not `labels`: matplotlib before 3.10 ignores those that start with '_'.
  made = make(list(handles.values()), [''] * len(handles), **style, **place)
  for text, name in zip(made.get_texts(), handles, strict=True):
    text.set_text('\n'.join(_shortened(line, most) for line in name.splitlines()))
  for handle in made.legend_handles:
    if hasattr(handle, 'set_sizes'):
      handle.set_sizes([36])  # the points of a scatter plot are small
  return math.ceil(sum(1 + name.count('\n') for name in handles) / columns)


def _shortened(text: str, most: int) -> str:
  return text if len(text) <= most else f'{text[: most - 1]}…'


# ---------------------------------------------------------------- panels
def _num_columns(block: Block) -> int:
  return min(block.columns, len(block.panels))


def _num_rows(block: Block) -> int:
  return math.ceil(len(block.panels) / _num_columns(block))


def _draw_block(part: Any, block: Block) -> list[Any]:
  """Creates the axes of a block, in the order of its panels."""
  rows, columns = _num_rows(block), _num_columns(block)
  axes = part.subplots(rows, columns, squeeze=False).ravel().tolist()
  for unused in axes[len(block.panels) :]:
    unused.remove()
  axes = axes[: len(block.panels)]
  colored = [
    _draw_panel(axis, p, block.size[0]) for axis, p in zip(axes, block.panels, strict=True)
  ]
  if block.shared:
    for i, axis in enumerate(axes):
      if i % columns:
        axis.set_ylabel('')
        axis.tick_params(labelleft=False)
      if i + columns < len(axes):
        axis.set_xlabel('')
        axis.tick_params(labelbottom=False)
  bars = [(axis, *found) for axis, found in zip(axes, colored, strict=True) if found]
  scales = {(label, *mappable.get_clim()) for _, mappable, label in bars}
  if len(bars) == len(axes) and len(scales) == 1:
    bars = [(axes, *bars[0][1:])]
  for at, mappable, label in bars:
    bar = part.colorbar(mappable, ax=at, shrink=0.9, format='%.5g')
    bar.set_label(label, fontsize=9)
    bar.ax.tick_params(labelsize=8)
  return axes


def _draw_panel(axis: Any, panel: Panel, width: float) -> tuple[Any, str] | None:
  """Draws marks and labels; returns the mappable of a color bar with its label."""
  colored = None
  above = iter(lines_above(panel.marks_of(Line)))
  for mark in panel.marks:
    mappable = draw_mark(axis, mark, above=next(above) if isinstance(mark, Line) else 0)
    if isinstance(mark, Grid):
      colored = mappable, mark.label
  title = '\n'.join(filter(None, (panel.title, panel.note)))
  if any(isinstance(mark, Mosaic) for mark in panel.marks):
    lines = [textwrap.fill(line, int(width * _LETTERS)) for line in title.splitlines()]
    axis.set_title('\n'.join(lines), fontsize=9)
    return None
  axis.set_title(title, fontsize=10 if width >= 3 else 9)
  axis.tick_params(labelsize=8)
  if colored is None:
    axis.grid(alpha=0.3)
  _draw_axis(axis, 'x', panel.x, width)
  _draw_axis(axis, 'y', panel.y, width)
  return colored


def _draw_axis(axes: Any, which: str, axis: Axis, width: float) -> None:
  own = getattr(axes, f'{which}axis')
  own.set_label_text(axis.label, fontsize=9)
  if axis.log:
    getattr(axes, f'set_{which}scale')('log', nonpositive='mask')
  elif not axis.ticks:
    axes.ticklabel_format(axis=which, scilimits=(-3, 4), useOffset=False)
    own.get_offset_text().set_fontsize(8)
    if axis.whole:
      own.get_major_locator().set_params(integer=True)
  if axis.limits:
    getattr(axes, f'set_{which}lim')(axis.limits)
  if axis.reversed:
    own.set_inverted(True)
  if axis.ticks:
    own.set_ticks(list(axis.ticks), list(axis.ticks.values()))
    own.set_tick_params(which='minor', length=0, labelbottom=False, labelleft=False)
    if which == 'x' and _crowded(axis, _LETTERS * width):
      for label in axes.get_xticklabels():
        label.set(rotation=60, ha='right', rotation_mode='anchor')


def _crowded(axis: Axis, letters: float) -> bool:
  """True if neighboring tick labels would touch on an axis that is `letters` characters long."""
  places = sorted(axis.ticks)
  low, high = axis.limits or (places[0], places[-1])
  if axis.log or high <= low:
    return sum(len(text) + 1 for text in axis.ticks.values()) > letters
  return any(
    (len(axis.ticks[a]) + len(axis.ticks[b])) / 2 + 1 > letters * (b - a) / (high - low)
    for a, b in itertools.pairwise(places)
  )
