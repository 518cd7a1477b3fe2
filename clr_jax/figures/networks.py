"""The networks of runs with their features, as the pictures of embeddings take them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from clr_jax import data
from clr_jax.core.errors import UserError
from clr_jax.evaluation.probing.features import Features, extract
from clr_jax.evaluation.probing.subject import Subject
from clr_jax.evaluation.runner import open_subject
from clr_jax.rundir import workdir
from clr_jax.rundir.identity import read_config
from clr_jax.rundir.reader import run_name


class Network(NamedTuple):
  """One checkpoint and what it makes of the images of its evaluation.

  Attributes:
    name: of the run, tells those of a picture apart.
    subject: the checkpoint.
    train, test: features of the training and test images; of a run without a test set both are of
      the training images.
  """

  name: str
  subject: Subject
  train: Features
  test: Features

  @property
  def title(self) -> str:
    return f'{self.name}, step {self.subject.step:,}'

  @property
  def source(self) -> data.Source:
    """Of the test images, or of the training images where there are none."""
    return self.subject.sets.test or self.subject.sets.train

  def class_name(self, label: int) -> str:
    names = self.source.class_names
    return str(names[label]) if names else str(label)


def open_networks(directories: Sequence[str], *, step: int | None = None) -> list[Network]:
  """The checkpoints that can be opened; of each other run a line on the terminal says why not.

  Args:
    directories: workdirs of runs.
    step: of the checkpoints; None = the newest.

  Raises:
    UserError: there is none.
  """
  networks, missing = [], []
  for directory in directories:
    try:
      subject = open_subject(read_config(workdir.Workdir(directory)), directory, step=step)
    except UserError as error:
      missing.append(str(error))
      continue
    except AttributeError as error:  # ml_collections': a key that is new since that version
      reason = str(error).partition('\n')[0].strip('"\'')
      missing.append(f'{directory} is of another version of clr-jax ({reason})')
      continue
    networks.append(Network(run_name(directory, directories), subject, *_features(subject)))
  if not networks:
    raise UserError(missing[0])
  for line in missing:
    print(f'left out: {line}', flush=True)
  return networks


def _features(subject: Subject) -> tuple[Features, Features]:
  sets = subject.sets
  if sets.labeled:
    return subject.features
  take = functools.partial(
    extract, subject.experiment.method.represent, *subject.weights, mesh=subject.experiment.mesh
  )
  train = take(sets.train)
  return train, train if sets.test is None else take(sets.test)


def some(num_examples: int, count: int, seed: int) -> np.ndarray:
  """`count` different rows in ascending order, or all where there are fewer."""
  rng = np.random.default_rng(seed)
  return np.sort(rng.choice(num_examples, min(count, num_examples), replace=False))
