"""Accuracy of the linear classifier that is trained online, beside the method."""

from __future__ import annotations

from clr_jax.evaluation.probing.outputs import measure_output
from clr_jax.evaluation.probing.subject import Subject
from clr_jax.rundir.results import Measurement

NEEDS_NETWORK = True
NEEDS_PROBE = True
OUTPUT = 'probe_logits'
WITHOUT_OUTPUT = (
  'online measures the online probe of a run with labels: train with probe.enabled=True, or use '
  'linear'
)


def measure(subject: Subject) -> list[Measurement]:
  """Measures top-1 accuracy, in [0, 1], of the online probe on all test images.

  solo-learn's published numbers are those of this classifier. `online_probe_top1` during training
  is the same on at most 1,024 of the images.
  """
  return [measure_output(subject, OUTPUT, 'online')]
