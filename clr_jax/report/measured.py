"""Figures of what was measured: robustness, corruptions, few labels. Nothing is computed anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from clr_jax.figures import few_label_curves, robustness_curves
from clr_jax.figures import robustness as attacks
from clr_jax.report import page
from clr_jax.rundir.results import read_arrays

GRID = 250  # points of a robustness curve
_SHADES = 'Cividis'  # made for colour-blind readers (Nunez et al. 2018)


def few_label(content: page.Page, directories: Sequence[str]) -> str:
  """Accuracy against the number of labels, mean and 95 % interval over the draws."""
  lines = few_label_curves.lines(few_label_curves.comparable(directories))
  if not lines:
    return page.missing(
      'No accuracy with few labels was measured: run `clr-jax evaluate few-label` on the runs.'
    )
  traces = []
  for i, (name, points) in enumerate(lines.items()):
    halves = [page.value(100 * p.half) or 0 for p in points]  # a single draw has no interval
    made = page.line(name, [(p.num_labels, 100 * p.mean) for p in points], i, mode='lines+markers')
    error = {'type': 'data', 'array': halves, 'thickness': 1.2, 'width': 4}
    traces.append({**made, 'error_y': error})
  amounts = sorted({p.num_labels for points in lines.values() for p in points})
  ticks = {'tickvals': amounts, 'ticktext': [f'{n:,}' for n in amounts]}
  figure = page.Figure(
    name='few-label-accuracy',
    title='Accuracy with few labels',
    x='labels (log scale)',
    y='top-1 test accuracy, %',
    traces=traces,
    note='Mean and 95 % interval over the draws (Student t); one draw has no interval.',
    layout={'xaxis': {'type': 'log', **(ticks if len(amounts) < 8 else {})}},
    shape='tall',
  )
  header = ('line', 'labels', 'top-1, mean', '95 % interval, half', 'draws')
  rows = [
    (name, f'{p.num_labels:,}', f'{p.mean:.4f}', f'{p.half:.4f}' if p.draws > 1 else '', p.draws)
    for name, points in lines.items()
    for p in points
  ]
  numbers = page.table('Accuracy with few labels: the numbers', header, rows, folded=True)
  return page.figures([content.figure(figure)], large=True) + numbers


def robustness(content: page.Page, directories: Sequence[str]) -> str:
  """Each attack's curves in both conventions; corruptions by severity and family."""
  found = attacks.newest(directories)
  if not found:
    return page.missing('No attack was measured: run `clr-jax evaluate robustness` on the runs.')
  html = ''
  for attack, curves in found.items():
    kept = attacks.comparable(curves)
    notes = [
      f'{attack}: {label} is left out, it was measured with other settings or other images.'
      for label in curves.keys() - kept.keys()
    ]
    arrays = {label: read_arrays(run, record) for label, (run, record) in kept.items()}
    notes += [
      f'{attack}: the numbers of {label} are lost; run `clr-jax evaluate robustness --again`.'
      for label, array in arrays.items()
      if not array
    ]
    arrays = {label: array for label, array in arrays.items() if array}
    params = next(iter(kept.values()))[1]['params']
    title = attacks.title(attack, params)
    html += f'<h3 id="attack-{page.escape(attack)}">{page.escape(title)}</h3>\n'
    html += ''.join(map(page.missing, notes))
    if arrays:
      draw = _corruptions if attack == 'corruptions' else _attack
      html += draw(content, attack, params, arrays)
  return html


def _attack(
  content: page.Page, attack: str, params: Mapping[str, Any], arrays: Mapping[str, Any]
) -> str:
  distances = {label: array['distance'] for label, array in arrays.items()}
  summaries = {label: robustness_curves.summary(d) for label, d in distances.items()}
  x_max = max((s.max for s in summaries.values() if s.kept), default=1.0)
  fooled, errors = [], []
  for i, (label, values) in enumerate(distances.items()):
    x, share, _ = robustness_curves.paper_curve(values, x_max, GRID)
    fooled.append(page.line(label, list(zip(x, share, strict=True)), i, mode='lines'))
    error = robustness_curves.robust_error(values, x)
    errors.append(page.line(label, list(zip(x, error, strict=True)), i, mode='lines'))
  unit = robustness_curves.UNITS[params['norm']]
  for tex, text in (('\\ell_\\infty', 'L∞'), ('\\ell_', 'L'), ('$', '')):
    unit = unit.replace(tex, text)
  layout = {'yaxis': {'range': [-0.02, 1.02]}, 'xaxis': {'range': [0, x_max]}}
  made = [
    page.Figure(
      f'{attack}-paper',
      f"{attack}: the report's convention",
      unit,
      'share of the fooled images',
      fooled,
      'Of the images that were classified correctly and then fooled.',
      layout,
    ),
    page.Figure(
      f'{attack}-error',
      f'{attack}: robust error',
      unit,
      'share of all images misclassified',
      errors,
      'Of all images.',
      layout,
    ),
  ]
  header = ('network', 'images', 'misclassified', 'never fooled', 'fooled', 'median', 'mean', 'max')
  rows = [
    (label, *(f'{n:,}' for n in s[:4]), *(f'{d:.4g}' for d in s[4:]))
    for label, s in summaries.items()
  ]
  caption = f'{attack}: images, and distances of those fooled ({unit})'
  return page.figures(map(content.figure, made)) + page.table(caption, header, rows)


def _corruptions(
  content: page.Page, attack: str, params: Mapping[str, Any], arrays: Mapping[str, Any]
) -> str:
  del params
  tables = attacks.corruption_tables(arrays)
  means, maps = [], []
  for i, (label, families) in enumerate(tables.items()):
    levels = sorted({level for by in families.values() for level in by})
    clean = float(arrays[label]['clean'])
    mean = [(n, np.mean([by[n] for by in families.values() if n in by])) for n in levels]
    means.append(page.line(label, [(0, clean), *mean], i))
    accuracy = [
      [page.value(by[n]) if n in by else None for n in levels] for by in families.values()
    ]
    trace = {
      'type': 'heatmap',
      'x': [str(n) for n in levels],
      'y': [family.replace('_', ' ') for family in families],
      'z': accuracy,
      'texttemplate': '%{z:.2f}',
      'colorscale': _SHADES,
      'zmin': 0,
      'zmax': 1,
      'colorbar': {'title': {'text': 'top-1', 'side': 'right'}, 'thickness': 12, 'outlinewidth': 0},
      'hovertemplate': '%{y}, severity %{x}<br>top-1 %{z:.4f}<extra></extra>',
    }
    maps.append(
      page.Figure(
        f'{attack}-families-{i}',
        f'{label}: accuracy by family',
        'severity',
        'corruption',
        [trace],
        f'Clean: {clean:.4f}.',
        {'xaxis': {'type': 'category'}, 'yaxis': {'autorange': 'reversed', 'dtick': 1}},
        'tall',
      )
    )
  mean_figure = page.Figure(
    f'{attack}-mean',
    'Corruptions: mean of all families',
    'severity (0: clean)',
    'top-1 accuracy',
    means,
    layout={'xaxis': {'dtick': 1}},
  )
  return page.figures(map(content.figure, (mean_figure, *maps)))
