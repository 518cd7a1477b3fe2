"""The HTML page: tables, plots and sections; all content of runs is escaped."""

from __future__ import annotations

import base64
import html
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from clr_jax.core.errors import UserError
from clr_jax.rundir.provenance import code_version

_HERE = pathlib.Path(__file__).parent
# Prevents loading of resources, whatever the texts of a run contain.
_POLICY = (
  "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
)


class Plot(NamedTuple):
  """A figure that the page's script draws.

  Attributes:
    title: title; all texts are plain.
    x, y: labels of the axes, with units.
    traces: plotly traces.
    note: a sentence below the plot.
    layout: plotly layout, without the axes' labels.
    shape: 'tall', 'square' or ''.
  """

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
    figures: {anchor: fields of its `Plot`}.
    images: {data URI: position}, by which points of plots refer to it.
  """

  def __init__(self):
    self.sections: list[tuple[str, str, str]] = []
    self.figures: dict[str, dict[str, Any]] = {}
    self.images: dict[str, int] = {}

  def section(self, name: str, title: str, body: str) -> None:
    """Appends a section."""
    self.sections.append((name, title, body))

  def image(self, uri: str) -> int:
    """Stores an image, once, and returns its position."""
    return self.images.setdefault(uri, len(self.images))

  def plot(self, name: str, plot: Plot) -> str:
    """Stores the data of a plot under its anchor; returns the HTML element for the script."""
    while name in self.figures:  # anchors may be equal for different names
      name = f'{name}-'
    self.figures[name] = plot._asdict()
    note = f'<p class="note">{escape(plot.note)}</p>' if plot.note else ''
    label = f'{plot.title}: {plot.y} against {plot.x}'
    return (
      f'<figure class="plot {plot.shape}" id="{escape(name)}">'
      f'<figcaption>{escape(plot.title)}</figcaption>'
      f'<div class="canvas" role="img" aria-label="{escape(label)}"></div>'
      f'<ul class="legend"></ul>{note}</figure>\n'
    )


# ---------------------------------------------------------------- HTML
def escape(value: Any) -> str:
  """Escapes text for HTML, including attributes."""
  return html.escape(str(value))


def missing(sentences: Iterable[str]) -> str:
  """A paragraph for each sentence about missing content."""
  return ''.join(f'<p class="missing">{escape(s.rstrip("."))}.</p>\n' for s in sentences)


def reason(error: Exception) -> str:
  """Message of an error on one line."""
  line = str(error).strip().partition('\n')[0].rstrip('.')
  return line if isinstance(error, UserError) else f'{type(error).__name__}: {line}'


def picture(title: str, png: bytes) -> str:
  """An embedded image with its title."""
  data = base64.b64encode(png).decode()
  return (
    f'<figure class="picture"><figcaption>{escape(title)}</figcaption>'
    f'<img src="data:image/png;base64,{data}" alt="{escape(title)}"></figure>\n'
  )


def table(
  caption: str,
  header: Sequence[str],
  rows: Iterable[Sequence[Any]],
  *,
  folded: bool = False,
) -> str:
  """A table whose first column names the rows; `folded` collapses it to its caption."""
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


def render(page: Page, title: str, data: str, created: str, javascript: str) -> str:
  """Renders the HTML file.

  Args:
    page: content of the page.
    title: title of the page.
    data: text of the JSON file.
    created: time of creation.
    javascript: source of plotly.js.
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
  made = created.replace('T', ' ').replace('+00:00', ' UTC')
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
<p>Made {escape(made)} by clr-jax {escape(code_version())}.
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
  """Source of plotly.js.

  Raises:
    UserError: plotly is not installed.
  """
  try:
    from plotly.offline import get_plotlyjs  # an extra: the wheel has 10 MB
  except ImportError:
    raise UserError("the report needs plotly: pip install 'clr-jax[report]'") from None
  return get_plotlyjs()
