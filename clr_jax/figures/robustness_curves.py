"""How many images an attack fools against the size of the perturbation, and how accuracy falls
with the severity of corruptions: the numbers and the figures.

Everywhere a distance of 0 is an image that is misclassified without an attack, and inf or NaN one
that the attack did not fool.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from clr_jax.core.errors import UserError
from clr_jax.evaluation.corruptions import VALIDATION
from clr_jax.figures import plots

UNITS = {
  'l2': '$\\ell_2$ distance of images in [0, 1]',
  'linf': '$\\ell_\\infty$ distance of images in [0, 1]',
  'l1': '$\\ell_1$ distance of images in [0, 1]',
  'l0': '$\\ell_0$ distance: changed values of an image',
}


class Summary(NamedTuple):
  """What the curve of one attack is made from.

  Attributes:
    total, clean_errors, failures, kept: numbers of images; the first is the sum of the others.
    median, mean, max: of the kept distances, NaN if there are none.
  """

  total: int
  clean_errors: int
  failures: int
  kept: int
  median: float
  mean: float
  max: float


def summary(distances: Any) -> Summary:
  """Counts and statistics of distances [N].

  Raises:
    UserError: no distances, or negative ones.
  """
  distances = _checked(distances)
  kept = _kept(distances)
  statistics = [float(f(kept)) for f in (np.median, np.mean, np.max)] if len(kept) else [np.nan] * 3
  errors = int((distances == 0).sum())
  total = len(distances)
  return Summary(total, errors, total - errors - len(kept), len(kept), *statistics)


def paper_curve(
  distances: Any, x_max: float | None = None, points: int = 1000
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """The robustness report's curve: failures and clean errors are left out.

  Args:
    distances: [N].
    x_max: end of the grid, for curves that are compared; the largest distance kept if None.
    points: of the grid, which starts at 0.

  Returns:
    x [points]; y [points], the share of the distances kept that are below x (not equal; NaN if none
    is kept); the distances kept, ascending.

  Raises:
    UserError: no distances, or negative ones.
  """
  kept = np.sort(_kept(_checked(distances)))
  if x_max is None:
    x_max = float(kept[-1]) if len(kept) else 0.0
  x = np.linspace(0, x_max, points)
  share = np.searchsorted(kept, x, 'left') / len(kept) if len(kept) else np.full(points, np.nan)
  return x, share, kept


def robust_error(distances: Any, eps: Any) -> np.ndarray:
  """The share of all images that are misclassified within `eps`; failures never count.

  Args:
    distances: [N]; `eps` is compared in their precision.
    eps: budgets of any shape.

  Returns:
    Shares, of the shape of `eps`.

  Raises:
    UserError: no distances, or negative ones.
  """
  distances = _checked(distances)
  fooled = np.sort(distances[np.isfinite(distances)])
  budget = np.asarray(eps).astype(distances.dtype)
  return np.asarray(np.searchsorted(fooled, budget, 'right') / len(distances))


def draw(
  curves: Mapping[str, Any],
  out: str,
  *,
  norm: str,
  attack: str,
  x_max: float | None = None,
) -> epath.Path:
  """Draws the curves of one attack on several networks into the PNG `out`, in both conventions.

  Left the report's, of the images that were classified correctly and then fooled; right the share
  of all images. The legend says how many images each curve leaves out.

  Args:
    curves: name of a network -> distances [N].
    out: the picture; FILE.csv gets the curves, FILE_summary.csv the counts and statistics.
    norm: of the distances: l2, linf, l1 or l0.
    attack: its name and budget, for the title.
    x_max: end of the axes; the largest finite distance if None.

  Returns:
    The path of the CSV file with the curves.

  Raises:
    UserError: no curve, an unknown norm, no distances, or negative ones.
  """
  from matplotlib.figure import Figure  # 0.5 s to import, and only needed here

  if not curves:
    raise UserError('there is no curve to draw; attack at least one checkpoint')
  if norm not in UNITS:
    raise UserError(f'there is no norm {norm!r}; choose from {", ".join(UNITS)}')
  summaries = {name: summary(distances) for name, distances in curves.items()}
  if x_max is None:
    x_max = max((s.max for s in summaries.values() if s.kept), default=1.0)
  texts = [_sentence(name, s) for name, s in summaries.items()]
  height = 3.9 + 0.15 * sum(1 + text.count('\n') for text in texts)
  figure = Figure(figsize=(9.0, height), dpi=110, layout='constrained')
  left, right = figure.subplots(1, 2)
  table, lines = [], []
  for i, (name, distances) in enumerate(curves.items()):
    x, paper, _ = paper_curve(distances, x_max)
    share = robust_error(distances, x)
    table += [(name, 'paper', *row) for row in zip(x, paper, strict=True)]
    table += [(name, 'robust_error', *row) for row in zip(x, share, strict=True)]
    left.plot(x, paper, **plots.look(i))
    lines += right.plot(x, share, **plots.look(i))
  left.set(title="Report's convention", ylabel='share of fooled images misclassified')
  right.set(title='Robust error', ylabel='share of all images misclassified')
  for axis in (left, right):
    axis.set(xlabel=UNITS[norm], xlim=(0, x_max), ylim=(-0.02, 1.02))
    axis.grid(alpha=0.3)
  figure.suptitle(attack)
  figure.legend(lines, texts, loc='outside lower left', frameon=False, fontsize=8)
  data = plots.save(figure, out, ('network', 'convention', 'distance', 'share'), table)
  rows = [(name, *s) for name, s in summaries.items()]
  counts = data.with_name(f'{data.stem}_summary.csv')
  plots.write_csv(counts, ('network', *Summary._fields), rows)
  return data


def draw_corruptions(
  accuracy: Mapping[str, Mapping[str, Mapping[int, float]]],
  out: str,
  *,
  clean: Mapping[str, float],
) -> epath.Path:
  """Draws top-1 accuracy against severity into the PNG `out`: a panel for each family and
  their mean, which leaves out CIFAR-10-C's validation families (†).

  Args:
    accuracy: name of a network -> family -> severity -> top-1 accuracy in [0, 1]; every network
      with the same families and severities.
    out: the picture; FILE.csv gets the numbers.
    clean: name of a network -> top-1 accuracy without corruption, drawn at severity 0.

  Returns:
    The path of the CSV file.

  Raises:
    UserError: no network, or networks with other families or severities than the first.
  """
  from matplotlib.figure import Figure

  if not accuracy:
    raise UserError('there is no network to draw; corrupt the images of at least one checkpoint')
  rows = {name: _corruption_rows(families, clean[name]) for name, families in accuracy.items()}
  keys = {name: [key for key, _ in values] for name, values in rows.items()}
  first = next(iter(keys))
  for name, own in keys.items():
    if own != keys[first]:
      raise UserError(f'{name} has other families or severities than {first}; evaluate both alike')
  panels = list(dict.fromkeys(family for family, _ in keys[first]))
  columns = min(5, len(panels))
  lines = -(-len(panels) // columns)
  figure = Figure(
    figsize=(2.1 * columns + 0.5, 1.75 * lines + 0.5 + 0.2 * len(accuracy)),
    dpi=110,
    layout='constrained',
  )
  axes = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).ravel()
  handles = []
  for i, values in enumerate(rows.values()):
    for panel, axis in zip(panels, axes, strict=False):
      points = [(severity, value) for (family, severity), value in values if family == panel]
      line = axis.plot(*zip(*points, strict=True), marker='o', ms=3, **plots.look(i))
    handles += line
  for panel, axis in zip(panels, axes, strict=False):
    mean = panel == 'mean'
    axis.set_title(
      'mean without the † families'
      if mean
      else panel.replace('_', ' ') + ' †' * (panel in VALIDATION),
      fontsize=9,
    )
    axis.title.set_fontweight('bold' if mean else 'normal')
    axis.set_xticks(sorted({severity for _, severity in keys[first]}))
    axis.grid(alpha=0.3)
    # Where no panel is below, the shared axis would have no numbers.
    if list(axes).index(axis) + columns >= len(panels):
      axis.tick_params(labelbottom=True)
      axis.set_xlabel('severity (0: clean)', fontsize=9)
  for axis in axes[::columns]:
    axis.set_ylabel('top-1 accuracy', fontsize=9)
  for axis in axes[len(panels) :]:
    axis.remove()
  texts = [_accuracies(name, dict(values)) for name, values in rows.items()]
  figure.legend(handles, texts, loc='outside lower left', frameon=False, fontsize=8)
  table = [(name, *key, value) for name, values in rows.items() for key, value in values]
  return plots.save(figure, out, ('network', 'family', 'severity', 'top1'), table)


def _corruption_rows(
  families: Mapping[str, Mapping[int, float]], clean: float
) -> list[tuple[tuple[str, int], float]]:
  """((family, severity), accuracy), the mean of the families first, each from severity 0."""
  full = {name: {0: clean, **dict(sorted(by.items()))} for name, by in families.items()}
  severities = next(iter(full.values()), {})
  if any(by.keys() != severities.keys() for by in full.values()):
    raise UserError('the families have different severities; evaluate all of them alike')
  # As `evaluate robustness` records it.
  counted = [by for name, by in full.items() if name not in VALIDATION] or [*full.values()]
  mean = {s: float(np.mean([by[s] for by in counted])) for s in severities}
  full = {'mean': mean, **full}
  return [((name, s), float(value)) for name, by in full.items() for s, value in by.items()]


def _accuracies(name: str, values: Mapping[tuple[str, int], float]) -> str:
  mean = np.mean([v for (family, severity), v in values.items() if family == 'mean' and severity])
  return f'{name}: clean {values["mean", 0]:.3f}, mean of families and severities {mean:.3f}'


def _sentence(name: str, s: Summary) -> str:
  text = (
    f'{name}: {s.kept:,} of {s.total:,} images fooled; not at left: {s.clean_errors:,} '
    f'misclassified without attack, {s.failures:,} never fooled'
  )
  if s.kept:
    text += f'; median {s.median:.3g}, mean {s.mean:.3g}, max {s.max:.3g}'
  return textwrap.fill(text, 150)  # what fits under the figure


def _checked(distances: Any) -> np.ndarray:
  distances = np.asarray(distances)
  if not np.issubdtype(distances.dtype, np.floating):
    distances = distances.astype(np.float64)
  if distances.ndim != 1 or not len(distances):
    raise UserError(
      f'a robustness curve needs a list of distances, one an image, not shape {distances.shape}'
    )
  if (distances < 0).any():
    raise UserError(
      'distances are 0 (misclassified), more, or inf (not fooled); there are negative ones'
    )
  return distances


def _kept(distances: np.ndarray) -> np.ndarray:
  return distances[np.isfinite(distances) & (distances > 0)]
