"""One self-contained HTML file about one or several runs: `clr-jax report`."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from absl import logging
from etils import epath

from clr_jax.core.errors import UserError
from clr_jax.core.storage import write_whole
from clr_jax.report import embedding, measured, page, series, tables
from clr_jax.rundir import reader as runs
from clr_jax.rundir.codec import jsonable, now
from clr_jax.rundir.provenance import code_version


def report(directories: Sequence[str], out: str) -> list[epath.Path]:
  """Writes all that is known of runs into one HTML file, and what it draws into a JSON file.

  The page needs no network: plotly.js (MIT) and the images are inside. What a run does not have, or
  what cannot be read, is named in its place, and the rest is there.

  Args:
    directories: workdirs of runs; those that are no runs are left out, and a line on the terminal
      says so.
    out: FILE.html; FILE.json gets the numbers.

  Returns:
    Both paths.

  Raises:
    UserError: no directory is a run, `out` is no .html, or plotly is not installed.
  """
  path = epath.Path(out)
  if path.suffix != '.html':
    raise UserError(f'--out={out} must end with .html; the numbers go to the .json file beside it')
  javascript = page.plotly_javascript()
  found, left_out = _read(directories)
  content = page.Page()
  _sections(content, found, left_out)
  data = {
    'created': now(),
    'code_version': code_version(),
    'left_out': left_out,
    'runs': [run.facts() for run in found],
    'results': [record for run in found for record in run.records],
    'figures': content.figures,
  }
  text = json.dumps(jsonable(data), allow_nan=False)
  title = f'clr-jax report: {", ".join(run.name for run in found)}'
  write_whole(path, page.render(content, title, text, data['created'], javascript))
  write_whole(path.with_suffix('.json'), text + '\n')
  return [path, path.with_suffix('.json')]


def _read(directories: Sequence[str]) -> tuple[list[runs.Run], list[str]]:
  """The runs, and a sentence for each directory that is none."""
  found, left_out = [], []
  directories = list(dict.fromkeys(directories))
  for directory in directories:
    try:
      found.append(runs.read(directory, directories))
    except UserError as error:
      left_out.append(f'left out: {error}')
  if not found:
    raise UserError(left_out[0].removeprefix('left out: '))
  for sentence in left_out:
    print(sentence, flush=True)
  return found, left_out


def _sections(content: page.Page, found: list[runs.Run], left_out: list[str]) -> None:
  directories = [run.directory for run in found]

  def add(name: str, title: str, make: Callable[[], str]) -> None:
    before = dict(content.figures)
    try:
      html = make()
    # Whatever an older, newer or damaged run holds: the other sections are still worth reading.
    except Exception as error:
      logging.warning('the section %s is missing: %s: %s', title, type(error).__name__, error)
      content.figures = before  # what it has drawn has no place on the page
      html = page.missing(f'This section could not be made: {runs.reason(error)}.')
    content.section(name, title, html)

  add('overview', 'Overview', lambda: tables.overview(found, left_out))
  add('results', 'Evaluation', lambda: tables.evaluation(found))
  add('curves', 'Training curves', lambda: series.curves(content, found))
  add('telemetry', 'Telemetry', lambda: series.telemetry(content, found))
  add('embedding', 'Embedding', lambda: embedding.embedding(content, found))
  add('few-label', 'Few labels', lambda: measured.few_label(content, directories))
  add('robustness', 'Robustness', lambda: measured.robustness(content, directories))
  add('configuration', 'Configuration', lambda: tables.configuration(found))
  add('parameters', 'Parameters', lambda: tables.parameters(found))
  add('environment', 'Environment', lambda: tables.environment(found))
