"""Networks of runs with their features."""

from __future__ import annotations

import functools

import numpy as np

from clr_jax import data
from clr_jax.evaluation.probing.features import Features, extract
from clr_jax.evaluation.runner import open_subject
from clr_jax.rundir.reader import Run


class Network:
  """A checkpoint of a run, and its features of the run's evaluation images.

  Args:
    run: a run with a checkpoint.
    step: step of the checkpoint; None = the newest.

  Attributes:
    name: name of the run.
    subject: the checkpoint with its sets.

  Raises:
    UserError: there is no such checkpoint.
  """

  def __init__(self, run: Run, *, step: int | None = None):
    self.name = run.name
    self.subject = open_subject(run.config, run.directory, step=step)

  @property
  def title(self) -> str:
    """Title with run and step."""
    return f'{self.name}, step {self.subject.step:,}'

  @property
  def source(self) -> data.Source:
    """Test images, or training images if there are none."""
    return self.subject.sets.test or self.subject.sets.train

  def class_name(self, label: int) -> str:
    """Name of a class, or its number."""
    names = self.source.class_names
    return str(names[label]) if names else str(label)

  @functools.cached_property
  def features(self) -> tuple[Features, Features]:
    """Features of the training images and of `source`."""
    sets = self.subject.sets
    if sets.labeled:
      return self.subject.features
    train = self.extract(sets.train)
    return train, train if sets.test is None else self.extract(sets.test)

  def extract(self, source: data.Source, indices: np.ndarray | None = None) -> Features:
    """Computes features of some or all images of a source."""
    subject = self.subject
    mesh, represent = subject.experiment.mesh, subject.experiment.method.represent
    return extract(represent, *subject.weights, source, mesh=mesh, indices=indices)


def random_rows(num_examples: int, count: int, seed: int) -> np.ndarray:
  """Draws `count` different rows in ascending order, or returns all if there are fewer."""
  rng = np.random.default_rng(seed)
  return np.sort(rng.choice(num_examples, min(count, num_examples), replace=False))
