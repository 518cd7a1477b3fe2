"""Evaluation subject: a frozen network of a run with labeled sets and cached features."""

from __future__ import annotations

import copy
import errno
import functools
import hashlib
import json
import math
import typing
import zipfile
import zlib
from typing import NamedTuple

import jax
import numpy as np
from absl import logging
from etils import epath

from clr_jax.core.errors import NOT_PERMITTED, UserError
from clr_jax.core.names import check_name
from clr_jax.core.storage import is_file
from clr_jax.core.types import Params, State, TrainState
from clr_jax.evaluation.probing.features import Features, estimate_batch_stats, extract, pixels
from clr_jax.evaluation.probing.sets import Sets
from clr_jax.experiment.build import Experiment
from clr_jax.rundir import weights, workdir
from clr_jax.rundir.codec import write_arrays
from clr_jax.rundir.provenance import code_version
from clr_jax.rundir.results import Evaluated, FeaturesOf

Kind = Evaluated
FEATURES: tuple[FeaturesOf, ...] = typing.get_args(FeaturesOf)
_CACHED_BYTES = 2**30  # largest features to cache on disk


def described(kind: str) -> str:
  """Kind of features in a sentence, such as 'trained features'."""
  known = {'pixels': 'raw pixels', 'weights': 'features of the file'}
  return known.get(kind, f'{kind} features')


class Subject:
  """A frozen network of a run with labeled sets; weights and features are computed once.

  Attributes:
    experiment: experiment of the run.
    sets: labeled sets, unless stated otherwise.
    step: step of the network.
    kind: 'trained' (the network given), 'untrained' (the network of step 0, its BatchNorm
      statistics estimated on the run's own training images), 'pixels' (no network) or 'weights'
      (the network given, of a file).
    run: workdir for cached features; None = in memory only.
    file: name and checksum of the file of 'weights'.
  """

  def __init__(
    self,
    experiment: Experiment,
    sets: Sets,
    network: TrainState | weights.Network,
    kind: Kind = 'trained',
    *,
    run: workdir.Workdir | None = None,
    file: str = '',
  ):
    check_name((*FEATURES, 'weights'), kind, 'features')
    self.experiment, self.sets, self.run = experiment, sets, run
    self.kind: Kind = kind
    self.step = int(network.step)
    self.file = file
    self._network = network

  @property
  def is_pretrained(self) -> bool:
    """True for the given network, False for that of step 0."""
    return self.kind in ('trained', 'weights')

  def of_kind(self, kind: Kind) -> Subject:
    """Makes the subject for another kind of features."""
    how = {'run': self.run, 'file': self.file}
    return Subject(self.experiment, self.sets, self._network, kind, **how)

  def on(self, sets: Sets) -> Subject:
    """Makes the subject on other sets."""
    if self.kind != 'pixels':
      _ = self.weights  # computed once for all sets
    other = copy.copy(self)
    other.sets = sets
    for of_sets in ('checksum', 'features'):
      other.__dict__.pop(of_sets, None)
    return other

  @functools.cached_property
  def checksum(self) -> str:
    """Checksum of the sets."""
    return self.sets.checksum()

  @functools.cached_property
  def weights(self) -> tuple[Params, State]:
    """(params, state) of the network, as in the train state; not for 'pixels'."""
    assert self.kind != 'pixels'
    if self.is_pretrained:
      return self._network.params, self._network.state
    experiment, first = self.experiment, self.experiment.init()
    state = estimate_batch_stats(
      experiment.plain,
      first.params,
      first.state,
      experiment.source,
      num_views=experiment.info.num_views,
      seed=experiment.config.seed,
    )
    return first.params, state

  @functools.cached_property
  def features(self) -> tuple[Features, Features]:
    """Features 'h' of the training and the test set, or pixels; UserError if not finite."""
    train, test = self.sets
    if self.kind == 'pixels':
      return pixels(train), pixels(test)
    cache = _FeatureCache.of(self)
    if cache is not None and (found := cache.read()) is not None:
      return found
    take = functools.partial(
      extract, self.experiment.method.represent, *self.weights, mesh=self.experiment.mesh
    )
    both = take(train), take(test)
    if not all(np.isfinite(each.h).all() for each in both):
      raise UserError(
        f'the {self.kind} features are not finite: choose another --step or other weights'
      )
    if cache is not None and jax.process_index() == 0:
      cache.write(both)
    return both


class _FeatureCache(NamedTuple):
  """File with the features of a network on two sets, in `features/` of the workdir."""

  path: epath.Path

  @classmethod
  def of(cls, subject: Subject) -> _FeatureCache | None:
    """The cache; None without a workdir, with several processes, too many bytes or edited code."""
    experiment, sets, version = subject.experiment, subject.sets, code_version()
    if subject.run is None or jax.process_count() > 1 or version.endswith('.dirty'):
      return None
    image = jax.ShapeDtypeStruct((1, *sets.train.image_shape), np.float32)
    abstract = experiment.abstract_state
    shapes = jax.eval_shape(experiment.method.represent, abstract.params, abstract.state, image)
    rows = sum(s.num_examples for s in sets if s is not None)
    if rows * math.prod(shapes['h'].shape) * 4 > _CACHED_BYTES:
      return None
    depends_on = [experiment.config_hash, subject.checksum, version]
    digest = hashlib.sha256(json.dumps(depends_on).encode()).hexdigest()[:16]
    return cls(subject.run.path / 'features' / f'{subject.kind}-{subject.step}-{digest}.npz')

  def read(self) -> tuple[Features, Features] | None:
    if not is_file(self.path):
      return None
    try:
      with self.path.open('rb') as raw, np.load(raw, allow_pickle=False) as file:
        train, test = (Features(file[f'{s}_h'], file[f'{s}_label']) for s in ('train', 'test'))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
      logging.warning('computing features again: cannot read %s (%s)', self.path, error)
      return None
    return train, test

  def write(self, features: tuple[Features, Features]) -> None:
    """Writes the file and deletes those of the same kind at other steps."""
    arrays = {
      f'{name}_{field}': array
      for name, part in zip(('train', 'test'), features, strict=True)
      for field, array in part._asdict().items()
    }
    try:
      write_arrays(self.path, arrays)
      kind, step, _ = self.path.name.split('-')
      for old in self.path.parent.glob(f'{kind}-*.npz'):
        if old.name.split('-')[1] != step:
          old.unlink(missing_ok=True)
    except OSError as error:  # a full disk must not end an evaluation
      if error.errno not in (
        *NOT_PERMITTED,
        errno.EROFS,
      ):  # the command says once that nothing can be kept
        logging.warning('cannot cache the features: %s', error)
