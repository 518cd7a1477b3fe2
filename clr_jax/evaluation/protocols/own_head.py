"""Accuracy of a network's own classification head, as trained with it."""

from __future__ import annotations

from clr_jax.evaluation.probing.outputs import measure_output
from clr_jax.evaluation.probing.subject import Subject
from clr_jax.rundir.results import Measurement

NEEDS_NETWORK = True
OUTPUT = 'logits'
WITHOUT_OUTPUT = (
  'own_head measures the classification head of a network that was trained with labels, such as '
  'that of supervised: use linear, or finetune'
)


def measure(subject: Subject) -> list[Measurement]:
  """Measures top-1 accuracy, in [0, 1], of the network's own head on all test images.

  The number of the cross-entropy columns of the documents; a new classifier on the same features
  is `linear`. With few labels or after fine-tuning: `finetune` with head=own.
  """
  return [measure_output(subject, OUTPUT, 'own_head')]
