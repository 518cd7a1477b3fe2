"""Which classes the nearest neighbours confuse."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from clr_jax.core.config_tree import to_dict
from clr_jax.core.options import options_of, sweep
from clr_jax.evaluation.protocols.knn import knn, predict
from clr_jax.figures import plots
from clr_jax.figures.networks import Network

_MOST_NAMES = 40  # more class names on an axis cannot be read
_MOST_NUMBERS = 12  # classes of a matrix whose cells have numbers


def confusion(label: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
  """Counts [C, C] of examples by true class (rows) and predicted class (columns)."""
  counts = np.zeros((num_classes, num_classes), np.int64)
  np.add.at(counts, (label, predicted), 1)
  return counts


def class_accuracy(counts: np.ndarray) -> np.ndarray:
  """[C] in [0, 1]: the share of each true class that is on the diagonal; NaN without examples."""
  total = counts.sum(1)
  return np.divide(np.diag(counts), total, out=np.full(len(total), np.nan), where=total > 0)


def draw_classes(networks: Sequence[Network], out: str) -> tuple[epath.Path, epath.Path]:
  """Draws accuracy by class and the confusion matrix of kNN into the PNG `out`, one row a network.

  kNN is the protocol of the run's own `eval.protocols`, or the protocol's defaults.

  Args:
    networks: labeled.
    out: the picture.

  Returns:
    The CSV files: accuracy by class, and the counts that are not 0.
  """
  from matplotlib.figure import Figure  # 0.5 s to import, and only needed here

  sides = [_side(_num_classes(network)) for network in networks]
  figure = Figure(figsize=(2 * max(sides) + 1, sum(sides)), dpi=110, layout='constrained')
  axes = figure.subplots(
    len(networks), 2, squeeze=False, height_ratios=sides, width_ratios=(0.8, 1.2)
  )
  accuracies, cells = [], []
  for network, pair in zip(networks, axes, strict=True):
    counts, how = knn_confusion(network)
    accuracy = class_accuracy(counts)
    _bars(pair[0], accuracy, counts, f'{network.title}\n{how}')
    _matrix(pair[1], counts)
    _names(pair, [network.class_name(c) for c in range(len(counts))])
    accuracies += [
      (network.name, c, network.class_name(c), n, a)
      for c, (n, a) in enumerate(zip(counts.sum(1).tolist(), accuracy.tolist(), strict=True))
    ]
    for true, predicted in np.argwhere(counts).tolist():
      cells.append((network.name, true, predicted, counts[true, predicted]))
  data = plots.save(figure, out, ('run', 'label', 'class', 'images', 'top1'), accuracies)
  matrix = data.with_name(f'{data.stem}-confusion.csv')
  plots.write_csv(matrix, ('run', 'label', 'predicted', 'images'), cells)
  return data, matrix


def knn_confusion(network: Network) -> tuple[np.ndarray, str]:
  """Counts by true and predicted class on the test images, and how they were predicted."""
  asked = to_dict(network.subject.experiment.config.eval.protocols).get('knn') or {}
  options = {name: option.default for name, option in options_of(knn).items()}
  options |= next(sweep(knn, asked))
  predicted = predict(network.train, network.test, **options)
  assert network.test.label is not None  # predict has refused that
  counts = confusion(network.test.label, predicted, _num_classes(network))
  k = min(options['k'], len(network.train.h))
  how = f'{k} nearest neighbours, {options["weights"]}, {options["distance"]}'
  return counts, how


def _num_classes(network: Network) -> int:
  return max(source.num_classes or 0 for source in network.subject.sets if source is not None)


def _side(num_classes: int) -> float:
  """Inches of a matrix."""
  return float(np.clip(0.34 * num_classes + 1.4, 3.6, 9))


def _bars(axis: Any, accuracy: np.ndarray, counts: np.ndarray, title: str) -> None:
  """Horizontal, a bar beside each row of the matrix."""
  total = 100 * np.trace(counts) / counts.sum()
  axis.barh(np.arange(len(accuracy)), 100 * accuracy, color=plots.COLOURS[0])
  axis.axvline(total, color=plots.COLOURS[1], ls='--', label=f'all test images: {total:.1f} %')
  axis.set(xlim=(0, 100), xlabel='top-1 accuracy, %', ylabel='class')
  axis.set_ylim(len(accuracy) - 0.5, -0.5)
  axis.grid(alpha=0.3, axis='x')
  axis.legend(loc='upper center', bbox_to_anchor=(0.5, -0.16), frameon=False, fontsize=8)
  axis.set_title(title, fontsize=9)


def _matrix(axis: Any, counts: np.ndarray) -> None:
  share = 100 * counts / np.maximum(counts.sum(1), 1)[:, None]
  image = axis.imshow(share, cmap='cividis', vmin=0, vmax=100, aspect='auto')
  if len(counts) <= _MOST_NUMBERS:
    for (i, j), value in np.ndenumerate(share):
      if counts[i, j]:
        colour = 'black' if value > 50 else 'white'
        text = f'{value:.0f}' if value >= 1 else '<1'
        axis.text(j, i, text, ha='center', va='center', color=colour, fontsize=7)
  axis.set(xlabel='predicted class', ylabel='class')
  axis.set_title('confusion matrix', fontsize=9)
  axis.figure.colorbar(image, ax=axis, label='share of the class, %', pad=0.02)


def _names(pair: Sequence[Any], names: Sequence[str]) -> None:
  """Class names at the axes, or some of their numbers where they are too many."""
  count = len(names)
  if count > _MOST_NAMES:
    return
  short = [name[:16] for name in names]
  for axis in pair:
    axis.set_yticks(range(count), short, fontsize=8)
  turned = max(map(len, short)) > 2
  pair[1].set_xticks(range(count), short, fontsize=8, rotation=60 if turned else 0)
  if turned:
    for tick in pair[1].get_xticklabels():
      tick.set(ha='right', rotation_mode='anchor')
