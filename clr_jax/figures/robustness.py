"""Robustness figures of runs, from the results of `clr-jax evaluate robustness`."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from clr_jax.evaluation.corruptions import VALIDATION
from clr_jax.figures.analysis.distances import Summary, paper_curve, robust_error, summary
from clr_jax.figures.drawing.data import (
  Axis,
  Block,
  FigureData,
  Figures,
  Line,
  Panel,
  Table,
  finite_range,
)
from clr_jax.figures.drawing.metric_panels import PERCENT
from clr_jax.rundir.reader import Run

UNITS = {
  'l2': 'L2 distance of images in [0, 1]',
  'linf': 'L∞ distance of images in [0, 1]',
  'l1': 'L1 distance of images in [0, 1]',
  'l0': 'L0 distance: changed values of an image',
}
_METRICS = ('median_distance', 'mean_corrupted_top1')  # records with arrays

Accuracy = Mapping[str, Mapping[int, float]]  # family -> severity -> top-1 accuracy in [0, 1]


def robustness(runs: Sequence[Run]) -> Figures:
  """Draws a figure for each measured attack, and one for corruptions.

  Uses only the newest numbers of each run. Runs that were attacked with other settings or on other
  images than the newest record are left out.
  """
  figures, missing = [], []
  for attack, found in _newest(runs).items():
    # The records of a run are in order; only between runs the clock decides.
    newest = [own[-1] for run in runs if (own := _records(run, attack))]
    last = max(newest, key=lambda record: record['time'])
    arrays = {}
    for label, (run, record) in found.items():
      if _settings(record) != _settings(last):
        missing.append(f'{attack}: {label}, measured with other settings or other images')
      elif not (own := run.arrays(record)):
        missing.append(
          f'{attack}: {label}, whose numbers are lost: run clr-jax evaluate robustness --overwrite'
        )
      else:
        arrays[label] = own
    title = attack_title(attack, last['params'])
    if attack == 'corruptions' and arrays:
      clean = {label: float(own['clean']) for label, own in arrays.items()}
      accuracy = {label: _accuracy(own) for label, own in arrays.items()}
      figures.append(corruption_figure(accuracy, clean, title=title))
    elif arrays:
      distances = {label: own['distance'] for label, own in arrays.items()}
      norm = last['params']['norm']
      figures.append(attack_figure(distances, name=attack, norm=norm, title=title))
  if not figures:
    missing.append('no attack was measured: run clr-jax evaluate robustness on the runs')
  return Figures(figures, missing)


def attack_title(attack: str, params: Mapping[str, Any]) -> str:
  """Name of the attack with short settings."""
  told = [f'{key} {params[key]}' for key in ('steps', 'outer', 'inner') if key in params]
  if budgets := params.get('epsilons'):
    told.append(f'budgets {", ".join(f"{e:.3g}" for e in budgets)}')
  settings = f' ({", ".join(told)})' if told else ''
  return f'{attack}{settings}, {params["num_images"]} images'


def _newest(runs: Sequence[Run]) -> dict[str, dict[str, tuple[Run, dict[str, Any]]]]:
  """{attack: {name of a line: (run, newest record with arrays)}}."""
  found: dict[str, dict[str, tuple[Run, dict[str, Any]]]] = {}
  for run in runs:
    for record in _records(run):
      kind = record['features']
      label = run.name if kind == 'trained' else f'{run.name}, {kind}'
      found.setdefault(record['params']['attack'], {})[label] = run, record
  return found


def _records(run: Run, attack: str = '') -> list[dict[str, Any]]:
  """Records with arrays of one attack or all attacks, oldest first."""
  return [
    r
    for r in run.results
    if r['protocol'] == 'robustness' and r['metric'] in _METRICS
    if attack in ('', r['params']['attack'])
  ]


def _settings(record: Mapping[str, Any]) -> str:
  """Settings that must agree for two runs to be comparable."""
  asked = {k: v for k, v in record['params'].items() if k != 'head'}  # supervised runs differ
  return json.dumps([asked, record['data_checksum']], sort_keys=True)


def _accuracy(arrays: Mapping[str, Any]) -> Accuracy:
  levels = arrays['level'].tolist()
  return {
    str(family): dict(zip(levels, row.tolist(), strict=True))
    for family, row in zip(arrays['family'], arrays['top1'], strict=True)
  }


# ---------------------------------------------------------------- attacks
def attack_figure(distances: Mapping[str, Any], *, name: str, norm: str, title: str) -> FigureData:
  """Figure of an attack on several networks in both conventions.

  Args:
    distances: {name of a network: [N]}, see `analysis.distances`.
    name: name of the attack.
    norm: norm of the distances: l2, linf, l1 or l0.
    title: title of the figure.

  Raises:
    UserError: no distances, or negative ones.
  """
  summaries = {label: summary(own) for label, own in distances.items()}
  x_max = max((s.max for s in summaries.values() if s.fooled), default=1.0)
  curves: dict[str, list[Line]] = {'paper': [], 'robust_error': []}
  rows: list[tuple[Any, ...]] = []
  for i, (label, own) in enumerate(distances.items()):
    x, paper, _ = paper_curve(own, x_max)
    for convention, share in (('paper', paper), ('robust_error', robust_error(own, x))):
      curves[convention].append(Line(label, i, x, 100 * np.asarray(share)))
      rows += [(label, convention, *row) for row in zip(x, share, strict=True)]
  rows.sort(key=lambda row: row[1] != 'paper')  # one convention after the other
  x_axis = Axis(UNITS[norm], limits=(0, 1.03 * x_max))  # the last image falls inside
  y_axis = Axis('misclassified, %', limits=(-2, 102))
  note = 'Of the images that were classified correctly and then fooled.'
  panels = [
    Panel("Report's convention", x_axis, y_axis, curves['paper'], note),
    Panel('Robust error', x_axis, y_axis, curves['robust_error'], 'Of all images.'),
  ]
  tables = {
    '': Table(('network', 'convention', 'distance', 'share'), rows),
    'summary': Table(('network', *Summary._fields), [(k, *s) for k, s in summaries.items()]),
  }
  details = {label: _sentence(label, s) for label, s in summaries.items()}
  return FigureData(name, [Block(panels, 2, (4.5, 3.8))], tables, title, details=details)


def _sentence(name: str, s: Summary) -> str:
  text = (
    f'{name}: {s.fooled:,} of {s.total:,} images fooled; not at left: {s.clean_errors:,} '
    f'misclassified without attack, {s.never_fooled:,} never fooled'
  )
  if s.fooled:
    text += f'; median {s.median:.3g}, mean {s.mean:.3g}, max {s.max:.3g}'
  return textwrap.fill(text, 150)  # what fits under the figure


# ---------------------------------------------------------------- corruptions
def corruption_figure(
  accuracy: Mapping[str, Accuracy], clean: Mapping[str, float], *, title: str
) -> FigureData:
  """Figure of top-1 accuracy against severity, with a panel per family and one for their mean.

  The mean excludes CIFAR-10-C's validation families (†), as in `evaluate robustness`.

  Args:
    accuracy: {name of a network: accuracies}, with equal families and severities.
    clean: {name of a network: top-1 accuracy without corruption}, drawn at severity 0.
    title: title of the figure.
  """
  full = {name: _with_clean_and_mean(own, clean[name]) for name, own in accuracy.items()}
  families = list(dict.fromkeys(family for own in full.values() for family in own))
  low, high = finite_range(
    [[100 * v for v in by.values()] for own in full.values() for by in own.values()], (0, 100)
  )
  room = 0.05 * (high - low) + 1
  severities = sorted({s for own in full.values() for by in own.values() for s in by})
  x = Axis('severity (0: clean)', ticks={s: str(s) for s in severities})
  y = Axis(PERCENT, limits=(low - room, high + room))
  panels = []
  for family in families:
    shown = {i: (name, own[family]) for i, (name, own) in enumerate(full.items()) if family in own}
    lines = [
      Line(name, i, list(by), [100 * value for value in by.values()])
      for i, (name, by) in shown.items()
    ]
    words = 'mean without the † families' if family == 'mean' else family.replace('_', ' ')
    panels.append(Panel(words + ' †' * (family in VALIDATION), x, y, lines))
  rows = [
    (name, family, severity, value)
    for name, own in full.items()
    for family, by in own.items()
    for severity, value in by.items()
  ]
  tables = {'': Table(('network', 'family', 'severity', 'top1'), rows)}
  details = {name: _accuracies(name, own) for name, own in full.items()}
  block = Block(panels, min(5, len(panels)), (2.1, 1.75), shared=True)
  return FigureData('corruptions', [block], tables, title, details=details)


def _with_clean_and_mean(accuracy: Accuracy, clean: float) -> dict[str, dict[int, float]]:
  """Adds the mean of the families, first, and severity 0 to each."""
  full = {name: {0: clean, **dict(sorted(by.items()))} for name, by in accuracy.items()}
  counted = [by for name, by in full.items() if name not in VALIDATION] or [*full.values()]
  mean = {s: float(np.mean([by[s] for by in counted])) for s in counted[0]}
  return {'mean': mean, **full}


def _accuracies(name: str, full: Accuracy) -> str:
  corrupted = np.mean([value for severity, value in full['mean'].items() if severity])
  clean = 100 * full['mean'][0]
  return f'{name}: clean {clean:.1f} %, mean of families and severities {100 * corrupted:.1f} %'
