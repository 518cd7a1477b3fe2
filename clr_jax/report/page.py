"""The HTML page: tables, figures and sections; everything that comes from a run is escaped."""

from __future__ import annotations

import html
import math
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from clr_jax.core.errors import UserError
from clr_jax.figures import plots
from clr_jax.rundir.provenance import code_version

_HERE = pathlib.Path(__file__).parent
SYMBOLS = ('circle', 'square', 'diamond', 'triangle-up')  # those that page.js has in legends
_DASHES = {'-': 'solid', '--': 'dash', ':': 'dot', '-.': 'dashdot'}
MOST_POINTS = 1000  # of a line: more cannot be seen, and the file is to stay small
# Nothing can be loaded from anywhere, whatever a run's texts hold.
_POLICY = (
  "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
)


class Figure(NamedTuple):
  """One plot, in plotly's words where it has any.

  Attributes:
    name: its anchor.
    title: plain text, as all that follows.
    x, y: labels of the axes, with units.
    traces: of plotly.
    note: what a reader must know beside the title.
    layout: of plotly, beyond the axes' labels.
    shape: 'tall', 'square' or ''.
  """

  name: str
  title: str
  x: str
  y: str
  traces: list[dict[str, Any]]
  note: str = ''
  layout: Mapping[str, Any] = MappingProxyType({})
  shape: str = ''


class Page:
  """Collects sections and figures.

  Attributes:
    sections: (anchor, title, HTML).
    figures: anchor -> what the JSON file holds of a figure.
    images: data URIs that points of figures name by their position.
  """

  def __init__(self):
    self.sections: list[tuple[str, str, str]] = []
    self.figures: dict[str, dict[str, Any]] = {}
    self.images: dict[str, int] = {}

  def section(self, name: str, title: str, body: str) -> None:
    """Appends a section."""
    self.sections.append((name, title, body))

  def image(self, uri: str) -> int:
    """The position of an image; one that is there already is not stored twice."""
    return self.images.setdefault(uri, len(self.images))

  def figure(self, figure: Figure) -> str:
    """Keeps the figure's data; the HTML that the script draws it into."""
    name = figure.name
    while name in self.figures:  # of names that differ only in what anchors cannot have
      name = f'{name}-'
    self.figures[name] = {k: v for k, v in figure._asdict().items() if k != 'name'}
    note = f'<p class="note">{escape(figure.note)}</p>' if figure.note else ''
    label = f'{figure.title}: {figure.y} against {figure.x}'
    return (
      f'<figure class="plot {figure.shape}" id="{escape(name)}">'
      f'<figcaption>{escape(figure.title)}</figcaption>'
      f'<div class="canvas" role="img" aria-label="{escape(label)}"></div>'
      f'<ul class="legend"></ul>{note}</figure>\n'
    )


# ---------------------------------------------------------------- HTML
def escape(value: Any) -> str:
  """Text for HTML, in attributes too."""
  return html.escape(str(value))


def missing(sentence: str) -> str:
  """What is not there, and why."""
  return f'<p class="missing">{escape(sentence)}</p>\n'


def table(
  caption: str,
  header: Sequence[str],
  rows: Iterable[Sequence[Any]],
  *,
  folded: bool = False,
) -> str:
  """A table; the first column names its rows. `folded` hides it until it is asked for."""
  head = ''.join(f'<th scope="col">{escape(name)}</th>' for name in header)
  body = ''.join(
    f'<tr><th scope="row">{escape(row[0])}</th>'
    + ''.join(f'<td>{escape(cell)}</td>' for cell in row[1:])
    + '</tr>\n'
    for row in rows
  )
  made = (
    f'<div class="scroll"><table><caption>{escape(caption)}</caption>'
    f'<thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table></div>\n'
  )
  if not folded:
    return made
  return f'<details><summary>{escape(caption)}</summary>{made}</details>\n'


def figures(parts: Iterable[str], *, large: bool = False) -> str:
  """Several figures beside each other; '' without any."""
  html = ''.join(parts)
  return f'<div class="figures{" large" if large else ""}">{html}</div>\n' if html else ''


def render(page: Page, title: str, data: str, created: str, javascript: str) -> str:
  """The whole file.

  Args:
    page: the content.
    title: of the page.
    data: the text of the JSON file.
    created: the time.
    javascript: plotly.js.
  """
  links = ''.join(
    f'<li><a href="#{name}">{escape(text)}</a></li>' for name, text, _ in page.sections
  )
  sections = ''.join(
    f'<section id="{name}" aria-labelledby="{name}-title">'
    f'<h2 id="{name}-title">{escape(text)}</h2>\n{body}</section>\n'
    for name, text, body in page.sections
  )
  images = ','.join(f'"{uri}"' for uri in page.images)
  return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>
{(_HERE / 'page.css').read_text()}</style>
</head>
<body>
<header>
<h1>{escape(title)}</h1>
<p>Made {escape(created)} by clr-jax {escape(code_version())}.
<button type="button" id="download">Save the data of all figures (JSON)</button></p>
<noscript><p class="missing">The figures need JavaScript; the tables do not.</p></noscript>
<nav aria-label="Sections"><ul>{links}</ul></nav>
</header>
<main>
{sections}</main>
<div id="tip" role="tooltip" hidden><img alt=""><span></span></div>
<script type="application/json" id="report-data">{data.replace('<', chr(92) + 'u003c')}</script>
<script type="application/json" id="report-images">[{images}]</script>
<script>{javascript}</script>
<script>
{(_HERE / 'page.js').read_text()}</script>
</body>
</html>
"""


def plotly_javascript() -> str:
  """The source of plotly.js.

  Raises:
    UserError: plotly is not installed.
  """
  try:
    from plotly.offline import get_plotlyjs  # an extra: the wheel has 10 MB
  except ImportError:
    raise UserError("the report needs plotly: pip install 'clr-jax[report]'") from None
  return get_plotlyjs()


# ---------------------------------------------------------------- traces
def line(name: str, points: Sequence[tuple[Any, Any]], number: int, **more: Any) -> dict[str, Any]:
  """A line with the number-th look through (x, y) points, at most MOST_POINTS of them."""
  shown = thinned(points)
  look = plots.look(number)
  return {
    'type': 'scatter',
    'mode': 'lines+markers' if len(shown) <= 60 else 'lines',
    'name': name,
    'x': [value(x) for x, _ in shown],
    'y': [value(y) for _, y in shown],
    'line': {'color': look['color'], 'dash': _DASHES[look['ls']], 'width': 2},
    'marker': {'size': 6, 'color': look['color'], 'symbol': _symbol(number)},
    **more,
  }


def _symbol(number: int) -> str:
  """It changes with the kind of line: points that no line joins are told apart too."""
  return SYMBOLS[number // len(plots.COLOURS) % len(SYMBOLS)]


def thinned(points: Sequence, most: int = MOST_POINTS) -> list:
  """At most `most` of them, spread evenly, with the first and the last."""
  if len(points) <= most:
    return list(points)
  return [points[i * (len(points) - 1) // (most - 1)] for i in range(most)]


def value(x: Any) -> float | None:
  """With 7 digits, float32's; None, a gap, where it is not finite."""
  return float(f'{x:.7g}') if math.isfinite(x) else None
