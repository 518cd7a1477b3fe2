"""Figures as PNG and CSV files: names, sizes, legends, and every kind of mark."""

import numpy as np
import pytest
from PIL import Image

from clr_jax.core.errors import UserError
from clr_jax.figures import check_out
from clr_jax.figures.drawing import render_png as renderer
from clr_jax.figures.drawing.data import (
  Axis,
  Bars,
  Block,
  Cell,
  FigureData,
  Grid,
  Histograms,
  Level,
  Line,
  Mosaic,
  Panel,
  Points,
  Table,
  finite_range,
  spans_decades,
)
from clr_jax.figures.drawing.marks_png import rgb
from clr_jax.figures.drawing.overlap import lines_above
from clr_jax.figures.drawing.palette import look
from clr_jax.figures.drawing.render_png import render_png
from tests.figures.run_files import read_csv

X, Y = Axis('x'), Axis('y')
GRID = Grid([0, 1, 2], [0, 1], np.array([[1.0, np.nan]]), 'z', (0, 1), numbers=[['1', '']])
SURFACE = Grid([-1, 0, 1], [-1, 0, 1], np.geomspace(1, 100, 9).reshape(3, 3), 'z', (1, 100), True)
MARKS = (
  [Line('a', 0, [1, 2, 3], [1.0, np.nan, 2.0]), Level('level', 1, 1.5)],
  [Line('a', 0, range(1, 51), np.arange(1.0, 51), y_half=np.full(50, 0.5))],
  [Line('b', 1, [1.0], [0], x_half=[np.nan], joined=False)],
  [Points('c', 2, np.arange(3.0), np.arange(3.0), ['', '', ''], [0, 1, 2])],
  [Bars(0, [1.0, np.nan, 2.0]), Level('', 1, 1.5, vertical=True)],
  [GRID],
  [SURFACE],
  [Histograms('h', 0, np.linspace(-1, 1, 5), [4, 8], np.ones((2, 6)))],
  [Mosaic([Cell(0, 0, np.zeros((2, 2, 1), np.uint8), 'text', '#D55E00')])],
)


def figure(panels, name='', legend='below', columns=2, shared=False, tables=(), **more):
  return FigureData(
    name, [Block(panels, columns, (3, 2), shared)], dict(tables), '', legend, **more
  )


def axes_of(data):
  made = renderer._draw_figure(data)
  return made, [axis for part in made.subfigs for axis in part.axes]


def test_lines_at_the_same_points_are_all_seen():
  steps, values = [1, 2, 3], [1.0, np.nan, 2.0]
  lines = [Line(name, look, steps, values) for look, name in enumerate('abc')]
  lines.insert(1, Line('d', 3, steps, [1.0, np.nan, 2.1]))
  assert lines_above(lines) == [2, 0, 1, 0]
  _, (axis,) = axes_of(figure([Panel('p', X, Y, lines)]))
  width = {line.get_color(): line.get_linewidth() for line in axis.get_lines() if line.get_ls()}
  below, middle, top = (width[look(i).color] for i in (0, 1, 2))
  assert below > middle > top == width[look(3).color]


@pytest.mark.parametrize('marks', MARKS, ids=lambda marks: type(marks[0]).__name__)
def test_every_mark_is_drawn(tmp_path, marks):
  panel = Panel('title', X, Y, marks, 'note')
  empty = render_png(figure([panel._replace(marks=[])]), str(tmp_path / 'empty.png'))
  (picture,) = render_png(figure([panel]), str(tmp_path / 'new' / 'x.png'))
  drawn, blank = (np.asarray(Image.open(path).convert('L')) for path in (picture, *empty))
  assert drawn.shape != blank.shape or (drawn != blank).sum() > 20


def test_names_of_files_and_numbers(tmp_path):
  tables = {'': Table(('a', 'b'), [(1, 'x')]), 'more': Table(('c',), [(np.nan,)])}
  panel = Panel('', X, Y, MARKS[0])
  written = render_png(figure([panel], 'part', tables=tables), str(tmp_path / 'f.png'))
  assert [path.name for path in written] == ['f-part.png', 'f-part.csv', 'f-part-more.csv']
  assert read_csv(written[1]) == [{'a': '1', 'b': 'x'}] and read_csv(written[2]) == [{'c': 'nan'}]


def test_one_legend_of_all_panels_or_one_for_each():
  panels = [Panel('', X, Y, [Line('a', 0, [1], [1]), Line('b', 1, [1], [1])])] * 3
  made, axes = axes_of(figure(panels, details={'a': 'a: much longer'}))
  (legend,) = made.legends
  assert [text.get_text() for text in legend.get_texts()] == ['a: much longer', 'b']
  assert len(axes) == 3 and not any(axis.get_legend() for axis in axes)
  _, axes = axes_of(figure(panels, legend='panels'))
  assert all(len(axis.get_legend().get_texts()) == 2 for axis in axes)


@pytest.mark.parametrize(('highest', 'bars'), [(1, 1), (2, 2)])
def test_panels_share_a_color_bar_only_with_the_same_scale(highest, bars):
  grids = GRID, GRID._replace(limits=(0, highest))
  _, axes = axes_of(figure([Panel('', X, Y, [grid]) for grid in grids]))
  assert len(axes) == 2 + bars


def test_shared_axes_are_labeled_where_no_panel_follows():
  _, axes = axes_of(figure([Panel('', X, Y, MARKS[0])] * 5, columns=3, shared=True))
  assert [bool(axis.get_ylabel()) for axis in axes] == [True, False, False, True, False]
  assert [bool(axis.get_xlabel()) for axis in axes] == [False, False, True, True, True]


def test_axes_have_ticks_limits_and_direction():
  y = Axis('y', limits=(-0.5, 1.5), ticks={0: 'first', 1: 'second'}, reversed=True)
  line = Line('a', 0, [0, 10, 100], [0.0, 1.0, 1.0])
  _, (axis,) = axes_of(figure([Panel('', Axis('x', log=True), y, [line])]))
  assert [text.get_text() for text in axis.get_yticklabels()] == ['first', 'second']
  assert axis.get_ylim() == (1.5, -0.5) and axis.get_xscale() == 'log'
  assert axis.get_xlim()[0] > 1  # 0 is a gap


def test_labels_of_ticks_that_would_touch_are_turned():
  short = {i: str(i) for i in range(10)}
  one_long = {**short, 3: 'automobile', 4: 'background'}
  for ticks, turned in ((short, False), (one_long, True)):
    x = Axis('x', limits=(-0.5, 9.5), ticks=ticks)
    _, (axis,) = axes_of(figure([Panel('', x, Y, [Bars(0, [1.0])])]))
    assert {label.get_rotation() > 0 for label in axis.get_xticklabels()} == {turned}


def test_looks_are_different():
  assert len({look(i) for i in range(80)}) == 80 and look(80) == look(0)
  assert len({look(i).color for i in range(20)}) == 20  # that many classes


def test_mosaic_makes_room_for_text():
  cell = Cell(0, 0, np.zeros((2, 2, 1), np.uint8), 'two\nlines')
  plain = Cell(1, 2, np.full((2, 4, 3), 1.2))
  mosaic = Mosaic([cell, plain])
  assert mosaic.row_heights[0] > mosaic.row_heights[1] == 1 and mosaic.num_columns == 3
  assert rgb(plain.image).max() == 1 and rgb(cell.image).shape == (2, 2, 3)


def test_scales():
  assert finite_range([[1.0, np.nan], [np.inf, -2.0]], (0, 1)) == (-2, 1)
  assert finite_range([[np.nan], []], (0, 1)) == (0, 1)
  assert spans_decades([[1.0, -5.0, 0.0], [31.0]]) and not spans_decades([[0.0, 1.0, 29.0]])


def test_files_that_cannot_be_written_are_refused(tmp_path):
  check_out(str(tmp_path / 'new' / 'x.png'), '.png')
  assert not (tmp_path / 'new' / 'x.png').exists()
  (tmp_path / 'folder.png').mkdir()
  (tmp_path / 'file').write_text('')
  cases = ('x.jpg', r'ends? in \.png'), ('folder.png', 'folder'), ('file/x.png', 'cannot')
  for name, words in cases:
    with pytest.raises(UserError, match=words):
      check_out(str(tmp_path / name), '.png')
