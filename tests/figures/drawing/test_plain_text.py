"""Names of any kind in figures: drawn as they are, or as escapes, and never as formulas."""

import io
import logging

import numpy as np
import pytest
from matplotlib import font_manager

from clr_jax.figures.drawing import plain_text, render_png
from clr_jax.figures.drawing.data import (
  Axis,
  Block,
  Cell,
  FigureData,
  Level,
  Line,
  Mosaic,
  Panel,
  Points,
  Table,
)
from clr_jax.figures.drawing.plain_text import drawable
from tests.figures.run_files import read_csv

NAMES = (
  *('_noise_', '__', 'US$1_2$', 'cost$\\frac$', '$5', '$$', r'a\$b$', 'a, b', '<b>&', '%s {x}'),
  *('日本', 'é', 'x\ty', 'b\udcff', '\x1b[31m', '😀'),
)


def figure(names):
  at = np.arange(3.0)
  points = [Points(name, i, at, at + i, [''] * 3, [0, 1, 2]) for i, name in enumerate(names)]
  lines = [Line(f'_{names[0]}', 0, [1], [1]), Level(names[-1], 1, 2.0)]
  ticks = dict(enumerate(names))
  cells = [Cell(0, i, np.zeros((2, 2, 1), np.uint8), name) for i, name in enumerate(names)]
  panels = [
    Panel(names[-1], Axis(names[0], ticks=ticks), Axis('y', log=True), [*points, *lines], names[0]),
    Panel(names[0], Axis(''), Axis(''), [Mosaic(cells)]),
  ]
  tables = {'': Table(('name',), [(name,) for name in names])}
  return FigureData('', [Block(panels, 2, (4, 3))], tables, names[-1], 'right')


def test_every_name_is_drawn_and_kept_in_the_tables(tmp_path):
  picture, table = render_png.render_png(figure(NAMES), str(tmp_path / 'x.png'))
  assert picture.stat().length > 1000
  kept = [row['name'] for row in read_csv(table)]
  assert kept == [name.encode(errors='backslashreplace').decode() for name in NAMES]


def test_legends_have_all_names():
  data, _ = drawable(figure(NAMES))
  (legend,) = render_png._draw_figure(data).legends
  found = [text.get_text().replace(r'\$', '$') for text in legend.get_texts()]
  assert {name for name in NAMES if name.isascii() and name.isprintable()} <= set(found)
  assert {r'x\ty', r'b\udcff', r'\x1b[31m', '__noise_'} <= set(found)


def test_long_names_leave_room_for_the_axes(tmp_path):
  points = [Points(c * 200, i, *np.ones((2, 1)), [''], [0]) for i, c in enumerate('ab')]
  data = FigureData('', [Block([Panel('', Axis('x'), Axis('y'), points)], 1, (4, 3))], {})
  for legend in ('right', 'below', 'panels'):
    made = render_png._draw_figure(data._replace(legend=legend))
    made.savefig(io.BytesIO())  # a layout that fails is a warning
    (found,) = made.legends or [axis.get_legend() for axis in made.subfigs[0].axes]
    assert [text.get_text()[-2:] for text in found.get_texts()] == ['a…', 'b…']


def test_characters_that_no_font_has_are_escaped_with_one_warning(monkeypatch, caplog):
  monkeypatch.setattr(
    plain_text, '_without', lambda path, characters: {c for c in characters if c == '日'}
  )
  with caplog.at_level(logging.WARNING):
    for _ in range(3):
      data, _ = drawable(figure(['日本', 'é']))
  assert data.panels[0].marks[0].name == r'\u65e5本'
  assert data.panels[0].marks[1].name == 'é'
  assert len(caplog.records) <= 1  # absl counts for the whole process


def test_another_installed_font_is_taken(monkeypatch):
  usual = font_manager.findfont(font_manager.FontProperties())
  entries = [
    font_manager.FontEntry(fname=f'/{name}.ttf', name=name, style='normal')
    for name in ('Last Resort X', 'Has None', 'Has Both', 'Has One')
  ]
  monkeypatch.setattr(font_manager.fontManager, 'ttflist', entries)
  lacks = {usual: '日本', '/Has None.ttf': '日本', '/Has One.ttf': '本'}
  monkeypatch.setattr(
    plain_text, '_without', lambda path, characters: set(characters) & set(lacks.get(path, ''))
  )
  data, families = drawable(figure(['日本']))
  assert families[-1] == 'Has Both' and 'Last Resort X' not in families
  assert data.panels[0].marks[0].name == '日本'


def test_a_drawing_that_fails_leaves_no_file(tmp_path, monkeypatch):
  def fail(data):
    raise RuntimeError('broken')

  monkeypatch.setattr(render_png, '_draw_figure', fail)
  with pytest.raises(RuntimeError):
    render_png.render_png(figure(['a']), str(tmp_path / 'x.png'))
  assert not list(tmp_path.iterdir())
