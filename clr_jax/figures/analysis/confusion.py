"""Confusion matrix of kNN."""

from __future__ import annotations

import numpy as np

from clr_jax.core.config_tree import to_dict
from clr_jax.core.options import options_of, sweep
from clr_jax.evaluation.protocols.knn import knn, predict
from clr_jax.figures.analysis.networks import Network


def confusion(label: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
  """Counts [C, C] of examples by true class (rows) and predicted class (columns)."""
  counts = np.zeros((num_classes, num_classes), np.int64)
  np.add.at(counts, (label, predicted), 1)
  return counts


def class_accuracy(counts: np.ndarray) -> np.ndarray:
  """Share [C] of each true class that is predicted correctly, in [0, 1]; NaN without examples."""
  total = counts.sum(1)
  return np.divide(np.diag(counts), total, out=np.full(len(total), np.nan), where=total > 0)


def knn_confusion(network: Network) -> tuple[np.ndarray, str]:
  """Confusion counts [C, C] on the test images, and a description of the classifier.

  kNN uses the options of the run's `eval.protocols`, or the protocol's defaults.
  """
  asked = to_dict(network.subject.experiment.config.eval.protocols).get('knn') or {}
  options = {name: option.default for name, option in options_of(knn).items()}
  options |= next(sweep(knn, asked))
  train, test = network.features
  predicted = predict(train, test, **options)
  assert test.label is not None  # checked by predict
  num_classes = max(
    source.num_classes or 0 for source in network.subject.sets if source is not None
  )
  k = min(options['k'], len(train.h))
  how = f'{k} nearest neighbors, {options["weights"]}, {options["distance"]}'
  return confusion(test.label, predicted, num_classes), how
