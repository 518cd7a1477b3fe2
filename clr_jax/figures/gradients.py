"""Gradients: their norms while runs train, the loss along them and around a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from etils import epath

from clr_jax.core.errors import UserError
from clr_jax.figures import loss_surface, plots
from clr_jax.figures.gradient_figures import draw_descent, draw_norms, draw_surfaces
from clr_jax.figures.telemetry import PREFIX, Run, read_runs, say_missing
from clr_jax.ops.gradient_statistics import landscape
from clr_jax.rundir.reader import run_name

_GROUPS = f'{PREFIX}grad_norm/'


def figures(
  directories: Sequence[str],
  out: str,
  *,
  step: int | None = None,
  etas: Sequence[float] = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0),
  surface: bool = True,
  points: int = 11,
  span: float = 1.0,
  batch_size: int | None = None,
  seed: int = 0,
) -> list[epath.Path]:
  """Draws FILE-norms.png, FILE-descent.png and FILE-surface.png, each with a CSV file.

  norms: of the gradient of each group of parameters over training, from telemetry. descent and
  surface: of a checkpoint, the training loss on one fixed batch (`loss_surface.open_objective`)
  along the negative gradient, and over the plane of two random directions in lengths of the
  filters. What cannot be drawn is left out, and a line on the terminal says why.

  Args:
    directories: workdirs of runs.
    out: FILE.png.
    step: of the checkpoint; None = each run's newest.
    etas: lengths of the steps w - eta g; () leaves the picture out. The defaults go from a small
      learning rate to where a loss of these methods no longer follows its gradient.
    surface: whether to draw it: points^2 losses, the slowest part.
    points: along each direction, odd, so that the checkpoint is one of them.
    span: how far to both sides; 1 = as far as every filter is long (Li et al.).
    batch_size: images of the batch; None = the run's, at most 256.
    seed: of the batch and the directions: the same for all runs.

  Returns:
    The pictures and the CSV files.

  Raises:
    UserError: nothing can be drawn, or a bad number.
  """
  _check(etas, points, span, seed)
  path = epath.Path(out)
  name = lambda part: path.with_name(f'{path.stem}-{part}.png')  # noqa: E731
  runs, problems = read_runs(directories)
  written = _norms(runs, name('norms'), problems)
  if etas or surface:
    offsets = np.linspace(-span, span, points) if surface else None
    probes = []
    for directory in directories:
      label = run_name(directory, directories)
      try:
        objective = loss_surface.open_objective(
          directory, step=step, batch_size=batch_size, seed=seed
        )
      except UserError as error:
        problems.append(str(error))
        continue
      probes.append(_probe(objective, label, etas=etas, offsets=offsets, seed=seed))
    if probes and etas:
      written += _descent(probes, name('descent'))
    if probes and offsets is not None:
      written += _surfaces(probes, offsets, name('surface'))
  say_missing(written, problems)
  return written


def _check(etas: Sequence[float], points: int, span: float, seed: int) -> None:
  if any(not 0 <= eta < math.inf for eta in etas):
    raise UserError(
      f'etas={tuple(etas)} must be lengths of steps: give finite numbers of 0 or more'
    )
  if points < 3 or points % 2 == 0:
    raise UserError(f'points={points} must be odd, so that the middle is the checkpoint, and >= 3')
  if not 0 < span < math.inf:
    raise UserError(f'span={span} must be positive and finite')
  if seed < 0:
    raise UserError(f'seed={seed} must not be negative')


# ---------------------------------------------------------------- norms
def _norms(runs: Sequence[Run], path: epath.Path, problems: list[str]) -> list[epath.Path]:
  """The CSV has run, group, step, norm."""
  found = {run.name: norms for run in runs if (norms := group_norms(run))}
  if not found:
    if runs:
      problems.append('the telemetry of these runs has no norms of gradients')
    return []
  table = [
    (name, group, step, value)
    for name, groups in found.items()
    for group, (steps, values) in groups.items()
    for step, value in zip(steps, values, strict=True)
  ]
  figure = draw_norms(found)
  return [path, plots.save(figure, str(path), ('run', 'group', 'step', 'norm'), table)]


def group_norms(run: Run) -> dict[str, tuple[list[int], list[float]]]:
  """{group of parameters: (steps, l2 norm of its gradient, mean of the measured steps)}."""
  keys = dict.fromkeys(k for row in run.rows for k in row if k.startswith(_GROUPS))
  return {key.removeprefix(_GROUPS): run.points(key) for key in keys}


# ---------------------------------------------------------------- checkpoint
class Probe(NamedTuple):
  """A checkpoint's numbers.

  Attributes:
    name: of the run.
    step: of the checkpoint.
    descent: rows (eta, loss, gradient norm, norm of the gradient's change); eta = 0 comes first.
    surface: losses [points, points], or None.
  """

  name: str
  step: int
  descent: list[tuple[float, float, float, float]]
  surface: np.ndarray | None


def _probe(
  objective: loss_surface.Objective,
  name: str,
  *,
  etas: Sequence[float],
  offsets: np.ndarray | None,
  seed: int,
) -> Probe:
  descent, grid = [], None
  if etas:
    lengths = sorted({0.0, *map(float, etas)})
    found = landscape(objective.value_and_grad, objective.params, lengths)
    columns = (found.losses, found.grad_norms, found.grad_differences)
    descent = list(zip(lengths, *(np.asarray(c).tolist() for c in columns), strict=True))
  if offsets is not None:
    grid = loss_surface.surface(objective.loss, objective.params, offsets.tolist(), seed=seed)
  return Probe(name, objective.step, descent, grid)


def _descent(probes: Iterable[Probe], path: epath.Path) -> list[epath.Path]:
  """The CSV has run, step, eta, loss, grad_norm, grad_difference."""
  lines = {_label(probe): np.array(probe.descent) for probe in probes}
  table = [(probe.name, probe.step, *row) for probe in probes for row in probe.descent]
  header = ('run', 'step', 'eta', 'loss', 'grad_norm', 'grad_difference')
  return [path, plots.save(draw_descent(lines), str(path), header, table)]


def _surfaces(probes: Iterable[Probe], offsets: np.ndarray, path: epath.Path) -> list[epath.Path]:
  """The CSV has run, step, x, y, loss."""
  grids = {_label(p): p.surface for p in probes if p.surface is not None}
  table = [
    (probe.name, probe.step, x, y, loss)
    for probe in probes
    if probe.surface is not None
    for y, row in zip(offsets.tolist(), probe.surface.tolist(), strict=True)
    for x, loss in zip(offsets.tolist(), row, strict=True)
  ]
  header = ('run', 'step', 'x', 'y', 'loss')
  return [path, plots.save(draw_surfaces(grids, offsets), str(path), header, table)]


def _label(probe: Probe) -> str:
  return f'{probe.name}, step {probe.step:,}'
