"""Self-contained HTML report of one or several runs: `clr-jax report`.

Lays out and draws the figures of `clr_jax.figures`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from absl import logging
from etils import epath

from clr_jax.core.activity import activity
from clr_jax.core.errors import UserError
from clr_jax.core.storage import atomic_write
from clr_jax.experiment.recorded import read_leniently
from clr_jax.report import sections, tables
from clr_jax.report.page import Page, missing, plotly_javascript, reason, render
from clr_jax.rundir.codec import jsonable, now
from clr_jax.rundir.provenance import code_version
from clr_jax.rundir.reader import Run, read_runs


def report(directories: Sequence[str], out: str) -> list[epath.Path]:
  """Writes an HTML report of runs, and the numbers of its plots as JSON.

  The page works offline: it contains plotly.js (MIT) and the images. Missing or unreadable data is
  reported in place.

  Args:
    directories: workdirs of runs; other directories are left out with a line on the terminal.
    out: FILE.html; FILE.json gets the numbers.

  Returns:
    Both paths.

  Raises:
    UserError: no directory is a run, `out` does not end with .html, or plotly is not installed.
  """
  path = epath.Path(out)
  if path.suffix != '.html':
    raise UserError(f'--out={out} must end with .html; the numbers go to the .json file beside it')
  javascript = plotly_javascript()
  runs, left_out = read_runs(directories, read=read_leniently)
  if not runs:
    raise UserError('; '.join(left_out))
  for sentence in left_out:
    print(f'left out: {sentence}', flush=True)
  page = Page()
  with activity('drawing the figures of the report', at_once=False):
    _add_sections(page, runs, left_out)
  data = {
    'created': now(),
    'code_version': code_version(),
    'left_out': left_out,
    'runs': [_facts(run) for run in runs],
    'results': [record for run in runs for record in run.results],
    'figures': page.figures,
  }
  text = json.dumps(jsonable(data), allow_nan=False)
  title = f'clr-jax report: {", ".join(run.name for run in runs)}'
  atomic_write(path, render(page, title, text, data['created'], javascript))
  atomic_write(path.with_suffix('.json'), text + '\n')
  return [path, path.with_suffix('.json')]


def _add_sections(page: Page, runs: Sequence[Run], left_out: Sequence[str]) -> None:
  def add(name: str, title: str, make: Callable[[], str]) -> None:
    before = dict(page.figures)
    try:
      html = make()
    # A damaged run may raise any error, but the other sections are still useful.
    except Exception as error:
      logging.warning('the section %s is missing: %s: %s', title, type(error).__name__, error)
      page.figures = before  # removes plots of this section
      html = missing([f'This section could not be made: {reason(error)}'])
    page.section(name, title, html)

  add('answer', 'Does training help?', lambda: sections.answer_section(page, runs))
  add('overview', 'Overview', lambda: tables.overview(runs, left_out))
  add('results', 'Evaluation', lambda: tables.evaluation(runs))
  add('curves', 'Training curves', lambda: sections.curve_section(page, runs))
  add('telemetry', 'Telemetry', lambda: sections.telemetry_section(page, runs))
  add('embedding', 'Embedding', lambda: sections.embedding_section(page, runs))
  add('images', 'Images', lambda: sections.image_section(runs))
  add('sweep', 'Results by config', lambda: sections.sweep_section(page, runs))
  add('trajectory', 'Results over training', lambda: sections.trajectory_section(page, runs))
  add('few-label', 'Few labels', lambda: sections.few_label_section(page, runs))
  add('robustness', 'Robustness', lambda: sections.robustness_section(page, runs))
  add('configuration', 'Configuration', lambda: tables.configuration(runs))
  add('parameters', 'Parameters', lambda: tables.parameters(runs))
  add('environment', 'Environment', lambda: tables.environment(runs))


def _facts(run: Run) -> dict[str, Any]:
  return {
    'name': run.name,
    'directory': run.directory,
    'status': run.status,
    'step': run.step,
    'total_steps': run.total_steps,
    'checkpoints': run.checkpoints,
    'training_seconds': run.training_seconds,
    'starts': run.starts,
    'training_images': run.data,
    'config': run.flat_config,
  }
