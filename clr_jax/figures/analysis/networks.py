"""The networks of runs with their features."""

from __future__ import annotations

import functools

import numpy as np

from clr_jax import data
from clr_jax.evaluation.probing.features import Features, extract
from clr_jax.evaluation.runner import open_subject
from clr_jax.rundir.reader import Run


class Network:
  """One checkpoint of a run, and its features of the images of the run's evaluation.

  Args:
    run: a run with a checkpoint.
    step: of the checkpoint; None = the newest.

  Attributes:
    name: of the run.
    subject: the checkpoint with its sets.

  Raises:
    UserError: there is no such checkpoint.
  """

  def __init__(self, run: Run, *, step: int | None = None):
    self.name = run.name
    self.subject = open_subject(run.config, run.directory, step=step)

  @property
  def title(self) -> str:
    """Run and step."""
    return f'{self.name}, step {self.subject.step:,}'

  @property
  def source(self) -> data.Source:
    """The test images, or the training images where there are none."""
    return self.subject.sets.test or self.subject.sets.train

  def class_name(self, label: int) -> str:
    """The name of a class, or its number."""
    names = self.source.class_names
    return str(names[label]) if names else str(label)

  @functools.cached_property
  def features(self) -> tuple[Features, Features]:
    """Features of the training images, and of `source`."""
    sets = self.subject.sets
    if sets.labeled:
      return self.subject.features
    train = self.extract(sets.train)
    return train, train if sets.test is None else self.extract(sets.test)

  def extract(self, source: data.Source, indices: np.ndarray | None = None) -> Features:
    """Features of some images of a source, or of all."""
    subject = self.subject
    mesh, represent = subject.experiment.mesh, subject.experiment.method.represent
    return extract(represent, *subject.weights, source, mesh=mesh, indices=indices)


def random_rows(num_examples: int, count: int, seed: int) -> np.ndarray:
  """`count` different rows in ascending order, or all where there are fewer."""
  rng = np.random.default_rng(seed)
  return np.sort(rng.choice(num_examples, min(count, num_examples), replace=False))
