"""Draws figures by name from the workdirs of runs: `clr-jax inspect`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from etils import epath

from clr_jax.core.activity import activity
from clr_jax.core.errors import UserError
from clr_jax.core.options import check
from clr_jax.experiment.recorded import read_leniently
from clr_jax.figures import FIGURES
from clr_jax.figures.drawing.render_png import render_png
from clr_jax.rundir.reader import read_runs


def draw_figure(
  name: str, directories: Sequence[str], out: str, **options: Any
) -> list[epath.Path]:
  """Draws a figure of runs, and prints a line for each omission.

  Args:
    name: name of the figure.
    directories: workdirs of runs.
    out: FILE.png; figures with several parts add suffixes, and CSV files are written beside it.
    **options: options of the figure, see `parameters`.

  Returns:
    The paths of the files.

  Raises:
    UserError: an option that is not allowed, or nothing to draw.
  """
  figure = FIGURES.factory(name)
  check(figure, options, what=f'figure {name!r}')
  runs, missing = read_runs(directories, read=read_leniently)
  with activity(f'drawing {name.replace("_", "-")}', at_once=False):
    found = figure(runs, **options)
  missing = list(dict.fromkeys([*missing, *found.missing]))
  if not found.drawn:
    raise UserError('; '.join(missing) or f'there are no numbers for inspect {name} in these runs')
  for line in missing:
    print(f'left out: {line}')
  if found.text:
    print(found.text, flush=True)
  return [path for data in found.drawn for path in render_png(data, out)]
