"""Runs with rows of metrics that no training wrote."""

from clr_jax.experiment.build import build_experiment
from clr_jax.experiment.config_files import load
from clr_jax.experiment.schema import keys_without_effect
from clr_jax.rundir import workdir
from clr_jax.rundir.checkpoint import Checkpoints
from clr_jax.rundir.identity import open_run
from clr_jax.rundir.metrics import MetricWriter
from tests.evaluation.test_runner import TINY


def write(directory, rows=(), method='moco', checkpoint=False, **changes):
  """A run of tests/tiny.py; rows are {step: metrics}, the checkpoint is that of step 0."""
  config = load(f'{TINY}:{method}')
  with config.unlocked():
    config.telemetry.enabled = True
    config.update_from_flattened_dict(changes)
  run = workdir.Workdir(directory)
  open_run(run, config, keys_without_effect(config))
  with MetricWriter(run, first_step=0, tensorboard=False) as writer:
    for step, row in dict(rows).items():
      writer.write_scalars(step, row)
  if checkpoint:
    with Checkpoints(run) as checkpoints:
      checkpoints.save(0, build_experiment(config).init())
  return str(directory)
