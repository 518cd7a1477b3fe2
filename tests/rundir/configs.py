"""Small configs, and what a run records of them."""

import math

from ml_collections import ConfigDict, config_dict

from clr_jax.rundir.results import Measurement, write_result


def make_config(**changes):
  config = ConfigDict(
    {
      'seed': 0,
      'num_epochs': 10.0,
      'log_every': 50,
      'evaluator': 1,
      'stop_at_epoch': config_dict.placeholder(float),
      'method': {'name': 'simclr', 'temperature': 0.5},
      'data': {'name': 'digits', 'workers': 0, 'mean': (0.5, 0.25), 'data_dir': None},
      'eval': {'protocols': {'knn': {'k': 10}, 'linear': {}}},
      'clip': math.inf,
    }
  )
  config.update_from_flattened_dict(changes)
  return config


def record(run, value, *, step=10, data='digits train, test', **changes):
  measurement = Measurement('top1', value, 'knn', {'k': 20}, 'trained', 1.5)
  write_result(
    run,
    measurement._replace(**changes),
    step=step,
    checkpoint='checkpoints/10',
    config_hash='0123456789ab',
    data=data,
    data_checksum='crc',
    seed=3,
  )
