"""Evaluation subject with a backbone from another library's file."""

from __future__ import annotations

import hashlib

from etils import epath

from clr_jax.core.errors import UserError
from clr_jax.core.names import listed
from clr_jax.evaluation.probing.sets import Sets
from clr_jax.evaluation.probing.subject import Subject
from clr_jax.experiment.build import Experiment
from clr_jax.experiment.initial_weights import with_weights_of
from clr_jax.rundir.state_dicts import SUFFIXES, is_weight_file, load_backbone
from clr_jax.rundir.weights import Network


def subject_of_file(experiment: Experiment, sets: Sets, file: str) -> Subject:
  """Makes a subject of kind 'weights': the network of step 0 with the backbone of a file.

  Args:
    experiment: experiment with a model that the file fits.
    sets: sets to evaluate on.
    file: file in a layout of `init_from`, see `rundir.state_dicts`.

  Raises:
    UserError: no such file, or it does not fit the model.
  """
  if not is_weight_file(file):
    raise UserError(f'--weights={file} is not a weights file: give one of {listed(SUFFIXES)}')
  abstract = experiment.abstract_state
  load_backbone(file, abstract.params, abstract.state['batch_stats'])
  state = with_weights_of(file, experiment.init())
  digest = hashlib.sha256(epath.Path(file).read_bytes()).hexdigest()[:12]
  network = Network(0, state.params, state.state)
  return Subject(experiment, sets, network, 'weights', file=f'{epath.Path(file).name}@{digest}')
