"""Sizes at which every method trains in a test; the one table of them.

A new method needs a line here only where `SIZES` cannot do.
"""

import inspect
from typing import Any

from clr_jax import methods

NAMES = methods.names()
# One method of each kind: no state, a table, labels, an EMA target, a queue, prototypes.
SKELETONS = ('simclr', 'sogclr', 'supervised', 'byol', 'moco', 'swav')

# Options of any method that has them: for batches of 16, runs of some dozen steps.
SIZES = {
  'hidden_dim': 32,
  'predictor_dim': 32,
  'out_dim': 16,
  'num_prototypes': 12,
  'queue_length': 40,
  'momentum': 0.9,
}
OWN: dict[str, dict[str, Any]] = {
  'arb': {'groups': 2},
  'dino': {'num_prototypes': 32, 'freeze_last_layer': 0, 'warmup_teacher_epochs': 0},
  'real': {'retrieval': 'radius'},
  'swav': {'freeze_prototypes_steps': 0, 'queue_length': 32, 'queue_start_epoch': 0},
  # The published weights, over 25: they are made for LARS, which does not see a loss's scale.
  'vicreg': {'invariance_weight': 1.0, 'variance_weight': 1.0, 'covariance_weight': 0.04},
  'w_mse': {'whitening_size': 16, 'out_dim': 4},
}


def options(name: str, **sizes: Any) -> dict[str, Any]:
  """Small hyper-parameters of a method. `sizes` replace those of `SIZES` that it has."""
  taken = inspect.signature(methods.factory(name)).parameters
  return {k: v for k, v in {**SIZES, **OWN.get(name, {}), **sizes}.items() if k in taken}
