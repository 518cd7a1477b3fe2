"""A network of step 0 and the digits at 8x8, for protocols that need a whole network."""

import jax
import numpy as np

from clr_jax.evaluation.probing.sets import evaluation_sets
from clr_jax.evaluation.probing.subject import Subject
from clr_jax.experiment.build import build_experiment
from tests.evaluation.runs import tiny


def make_subject(method='simclr', *, kind='trained', **changes):
  """A width of 4 on one device, 120 training and 100 test images; every weight is random."""
  splits = {'eval.train_split': 'train[:120]', 'eval.test_split': 'test[:100]'}
  config = tiny(method, **{'probe.enabled': False, **splits, **changes})
  experiment = build_experiment(config, devices=jax.devices()[:1])
  network = experiment.init()
  return Subject(experiment, evaluation_sets(experiment), network, kind)


def leaves(tree):
  """Copies on the host."""
  return [np.array(x) for x in jax.tree.leaves(tree)]


def same(before, after):
  """True if all leaves are equal to the bit."""
  return all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
