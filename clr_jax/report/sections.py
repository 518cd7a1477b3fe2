"""Sections of the report with figures, which `clr_jax.figures` computes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from clr_jax.figures.accuracy import accuracy
from clr_jax.figures.analysis.networks import Network
from clr_jax.figures.analysis.points import point_panel
from clr_jax.figures.analysis.score_histograms import histogram_panels
from clr_jax.figures.analysis.seed_groups import seed_groups
from clr_jax.figures.drawing.data import Table
from clr_jax.figures.drawing.metric_panels import (
  is_telemetry,
  metric_panels,
  series_panels,
  unchanging,
  with_telemetry,
)
from clr_jax.figures.drawing.render_png import to_png
from clr_jax.figures.embedding import embedding
from clr_jax.figures.few_label import few_label
from clr_jax.figures.robustness import robustness
from clr_jax.figures.sweep import sweep
from clr_jax.figures.trajectory import trajectory
from clr_jax.report import page
from clr_jax.report.page import Page
from clr_jax.report.render_html import add_panels
from clr_jax.rundir.reader import Run

MOST_IMAGES = 500  # per data set
ALL_IMAGES = 1000  # in total
_LEAST_POINTS = 3  # of a curve over a config key
MOST_HISTOGRAMS = 300  # columns of a heat map


def curve_section(content: Page, runs: Sequence[Run]) -> str:
  """Panels of all metrics except telemetry, with all runs that have them."""
  html = page.missing(
    f'{run.name} has no metrics: it stopped before log_every steps'
    for run in runs
    if not run.metrics
  )
  specs = [panel for panel in metric_panels(runs) if not is_telemetry(panel)]
  html += page.missing(f'left out: {sentence}' for sentence in unchanging(runs, specs))
  return html + add_panels(content, series_panels(runs, specs), 'curve')


def telemetry_section(content: Page, runs: Sequence[Run]) -> str:
  """Series of telemetry, and histograms of scores as heat maps."""
  measured, missing = with_telemetry(runs)
  specs = [panel for panel in metric_panels(measured) if is_telemetry(panel)]
  panels = series_panels(measured, specs)
  histograms, left_out = histogram_panels(measured, MOST_HISTOGRAMS)
  left_out = [*unchanging(measured, specs), *left_out]
  html = page.missing([*missing, *(f'left out: {sentence}' for sentence in left_out)])
  html += add_panels(content, panels, 'telemetry')
  return html + add_panels(content, histograms, 'heat')


def embedding_section(content: Page, runs: Sequence[Run]) -> str:
  """Evenly spaced images at the principal components of their features, one plot per run."""
  sets = ('data.name', 'data.test_split', 'data.image_size', 'eval.data', 'eval.test_split')
  different = {tuple(str(run.setting(key)) for key in sets) for run in runs}
  most = min(MOST_IMAGES, ALL_IMAGES // len(different))
  missing, panels = [], []
  for run in runs:
    try:
      network = Network(run)
      source = network.source
      size = min(most, source.num_examples)
      rows = np.arange(size) * source.num_examples // size
      images, _ = source.load(rows)
      panels.append(point_panel(network, rows, network.extract(source, rows), images=images))
    # Missing or damaged data may raise any error, but the other runs can be drawn.
    except Exception as error:
      missing.append(f'{run.name} has no embedding: {page.reason(error)}')
  plots = add_panels(content, panels, 'embedding', shape='square', large=True)
  return page.missing(missing) + plots


def answer_section(content: Page, runs: Sequence[Run]) -> str:
  """Improvement by training: a sentence per run, and a figure of all accuracies."""
  found = accuracy(runs)
  html = ''.join(f'<p class="answer">{page.escape(line)}</p>\n' for line in found.text.splitlines())
  for figure in found.drawn:
    html += add_panels(content, figure.panels, 'accuracy', shape='tall', large=True)
  return html + page.missing(found.missing)


def image_section(runs: Sequence[Run]) -> str:
  """Views, nearest neighbors and classes of each checkpoint, as in `clr-jax inspect embedding`."""
  found = embedding(runs, num_points=4)
  html = page.missing(f'left out: {sentence}' for sentence in found.missing)
  for figure in found.drawn:
    if figure.name != 'points':
      html += page.picture(figure.name.capitalize(), to_png(figure))
  return html


def sweep_section(content: Page, runs: Sequence[Run]) -> str:
  """Results against the config key with the most values, for runs with at least three configs."""
  if len(seed_groups(runs)) < _LEAST_POINTS:
    return page.missing([f'fewer than {_LEAST_POINTS} runs that differ in more than the seed'])
  found = sweep(runs)
  html = page.missing(f'left out: {sentence}' for sentence in found.missing)
  for figure in found.drawn:
    html += add_panels(content, figure.panels, 'sweep', shape='tall', large=True)
    html += _table('Results by config: the numbers', figure.tables[''], folded=True)
  return html


def trajectory_section(content: Page, runs: Sequence[Run]) -> str:
  """Accuracy against epochs by each protocol with results of several checkpoints of a run."""
  steps: dict[tuple[str, str], set[int]] = {}
  for run in runs:
    for record in run.results:
      if record['metric'] == 'top1' and record['features'] == 'trained':
        steps.setdefault((record['protocol'], run.name), set()).add(record['step'])
  html = ''
  for protocol in dict.fromkeys(name for (name, _), own in steps.items() if len(own) > 1):
    for figure in trajectory(runs, protocol=protocol, measure=False).drawn:
      html += add_panels(content, figure.panels, f'trajectory-{protocol}', large=True)
      html += _table(f'{protocol} against epochs: the numbers', figure.tables[''], folded=True)
  missing = 'no run has results of several checkpoints: clr-jax inspect trajectory measures them'
  return html or page.missing([missing])


def few_label_section(content: Page, runs: Sequence[Run]) -> str:
  """Accuracy against the number of labels, with a table."""
  found = few_label(runs)
  html = page.missing(found.missing)
  for figure in found.drawn:
    html += add_panels(content, figure.panels, 'few-label', shape='tall', large=True)
    html += _table('Accuracy with few labels: the numbers', figure.tables[''], folded=True)
  return html


def robustness_section(content: Page, runs: Sequence[Run]) -> str:
  """Curves of each attack in both conventions, and corruptions by family and severity."""
  found = robustness(runs)
  html = page.missing(f'left out: {sentence}' for sentence in found.missing)
  for figure in found.drawn:
    html += f'<h3 id="attack-{page.escape(figure.name)}">{page.escape(figure.title)}</h3>\n'
    html += add_panels(content, figure.panels, figure.name)
    if numbers := figure.tables.get('summary'):
      html += _table(f'{figure.name}: images, and distances of those fooled', numbers)
    else:
      html += _table(f'{figure.name}: the numbers', figure.tables[''], folded=True)
  return html


def _table(caption: str, table: Table, *, folded: bool = False) -> str:
  cells = [[f'{v:.4g}' if isinstance(v, float) else v for v in row] for row in table.rows]
  header = [name.replace('_', ' ') for name in table.header]
  return page.table(caption, header, cells, folded=folded)
