"""Workdirs of runs that were never trained, and the numbers that figures write."""

import csv
import json
import pathlib

from clr_jax.core.config_tree import changed
from clr_jax.experiment.build import build_experiment
from clr_jax.experiment.config_files import load
from clr_jax.experiment.schema import keys_without_effect
from clr_jax.rundir.checkpoint import Checkpoints
from clr_jax.rundir.identity import open_run
from clr_jax.rundir.metrics import MetricWriter
from clr_jax.rundir.results import Measurement, write_result
from clr_jax.rundir.workdir import Workdir

TINY = pathlib.Path(__file__).parent.parent / 'tiny.py'


def write_run(directory, rows=(), method='moco', checkpoint=False, images=None, **changes):
  """A run of tests/tiny.py; returns its directory.

  Args:
    rows: {step: metrics}.
    checkpoint: saves the state of step 0, which costs no compilation of the train step.
    images: number of training images that data.json tells; None leaves the file out.
    changes: dotted keys of the config.
  """
  config = changed(load(f'{TINY}:{method}'), changes)
  run = Workdir(directory)
  open_run(run, config, keys_without_effect(config))
  if rows:
    with MetricWriter(run, first_step=0, loggers=()) as writer:
      for step, row in dict(rows).items():
        writer.write_scalars(step, row)
  if images is not None:
    (run.path / 'data.json').write_text(json.dumps({'number': images}))
  if checkpoint:
    with Checkpoints(run) as checkpoints:
      assert checkpoints.save(0, build_experiment(config).init())
  return str(directory)


def add_result(
  directory, protocol, metric, value, params, *, step=22, arrays=None, features='trained', data='d'
):
  """Writes one result of a run; `data` is the checksum of the images."""
  found = Measurement(metric, value, protocol, params, features, 1.5, arrays)
  stamp = {'config_hash': 'h', 'data': 'digits train, test', 'data_checksum': data, 'seed': 0}
  write_result(Workdir(directory), found, step=step, checkpoint=None, **stamp)


def read_csv(path):
  """The rows of a CSV file as dictionaries."""
  with open(path) as file:
    return list(csv.DictReader(file))
