"""The subject of an evaluation whose backbone is of a file of another library."""

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
  """The network of step 0 with the weights of a file in the backbone; of the kind 'weights'.

  Args:
    experiment: whose model the file fits.
    sets: to evaluate on.
    file: in a layout that `init_from` reads, see `rundir.state_dicts`.

  Raises:
    UserError: no such file, or it does not fit the model; before any work.
  """
  if not is_weight_file(file):
    raise UserError(f'--weights={file} is no file of weights: give one of {listed(SUFFIXES)}')
  abstract = experiment.abstract_state
  load_backbone(file, abstract.params, abstract.state['batch_stats'])
  state = with_weights_of(file, experiment.init())
  digest = hashlib.sha256(epath.Path(file).read_bytes()).hexdigest()[:12]
  network = Network(0, state.params, state.state)
  return Subject(experiment, sets, network, 'weights', file=f'{epath.Path(file).name}@{digest}')
