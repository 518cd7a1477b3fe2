"""Runs with rows of metrics that no training wrote."""

from clr_jax import config as configs
from clr_jax import experiment, workdir
from clr_jax.checkpoint import Checkpoints
from clr_jax.metrics import MetricWriter
from tests.evaluate.test_run import TINY


def write(directory, rows=(), method='moco', checkpoint=False, **changes):
  """A run of tests/tiny.py; rows are {step: metrics}, the checkpoint is that of step 0."""
  config = configs.load(f'{TINY}:{method}')
  with config.unlocked():
    config.telemetry.enabled = True
    config.update_from_flattened_dict(changes)
  run = workdir.Workdir(directory)
  workdir.open_run(run, config)
  with MetricWriter(run, first_step=0, tensorboard=False) as writer:
    for step, row in dict(rows).items():
      writer.write_scalars(step, row)
  if checkpoint:
    with Checkpoints(run) as checkpoints:
      checkpoints.save(0, experiment.make(config).init())
  return str(directory)
