"""The start of a run: from its newest checkpoint, another run's weights, or new weights."""

from __future__ import annotations

import sys
from typing import NamedTuple

import jax

from clr_jax.core.config_tree import Config
from clr_jax.core.errors import UserError, about
from clr_jax.core.storage import translate_errors
from clr_jax.core.types import TrainState
from clr_jax.experiment.build import Experiment
from clr_jax.experiment.initial_weights import with_weights_of
from clr_jax.rundir.checkpoint import Checkpoints
from clr_jax.rundir.rows import read_metrics
from clr_jax.rundir.state_dicts import is_weight_file, load_backbone
from clr_jax.rundir.weights import check_weights
from clr_jax.rundir.workdir import Workdir
from clr_jax.training.metric_accumulator import MetricAccumulator


class Start(NamedTuple):
  """State from which a run starts or resumes.

  Attributes:
    state: train state after `step` steps.
    step: number of steps done.
    metrics: metrics of the steps since the last log row.
    unevaluated: True if the run was stopped during the evaluation of this step.
  """

  state: TrainState
  step: int
  metrics: MetricAccumulator
  unevaluated: bool = False


def check_init_from(config: Config, run: Workdir, experiment: Experiment) -> None:
  """Raises a UserError if the weights that `init_from` names cannot be used."""
  with translate_errors(run.path):
    begins = not run.checkpoints.exists()
  if not config.init_from or not begins:
    return
  with about(init_from=config.init_from):
    if is_weight_file(config.init_from):
      abstract = experiment.abstract_state
      load_backbone(config.init_from, abstract.params, abstract.state['batch_stats'])
      return
    with Checkpoints(config.init_from, read_only=True) as other:
      step = other.latest_step()
      if step is None:
        raise UserError('it has no checkpoint: train that run first')
      if saved := other.leaves(step):
        check_weights(saved, experiment.abstract_state.params, config.init_from)


def start_or_resume(experiment: Experiment, run: Workdir, checkpoints: Checkpoints) -> Start:
  """Resumes from the newest checkpoint of the run, else starts at step 0.

  Prints one line when it reads weights, or if checkpoints must have been lost.
  """
  if checkpoints.latest_step() is not None:
    return _resume(experiment, run, checkpoints)
  if jax.process_index() == 0 and (rows := read_metrics(run)):
    reached = f'although its metrics reach step {rows[-1]["step"]}'
    print(
      f'{run.path} has no checkpoint, {reached}: it starts again at step 0',
      file=sys.stderr,
      flush=True,
    )
  state = experiment.init()
  if experiment.config.init_from:
    state = with_weights_of(experiment.config.init_from, state)
  return Start(state, 0, MetricAccumulator())


def _resume(experiment: Experiment, run: Workdir, checkpoints: Checkpoints) -> Start:
  state = checkpoints.restore(experiment.abstract_state)
  step = int(state.step)
  if jax.process_index() == 0:
    print(f'resumed {run.path} at step {step}', flush=True)
  metrics = MetricAccumulator.restored(checkpoints.window(step))
  return Start(state, step, metrics, checkpoints.is_unevaluated(step))
