"""Accuracy of a classifier that is a part of the trained network."""

from __future__ import annotations

import time

import jax
import jax.numpy as jnp
import numpy as np

from clr_jax.evaluation.probing.features import extract
from clr_jax.evaluation.probing.subject import Subject
from clr_jax.experiment.build import Experiment
from clr_jax.rundir.results import Measurement


def output_classes(experiment: Experiment, key: str) -> int | None:
  """Number of classes of the network's logits `key`; None if it has no such output."""
  state = experiment.abstract_state
  image = jax.ShapeDtypeStruct((1, *experiment.source.image_shape), jnp.float32)
  outputs = jax.eval_shape(experiment.method.represent, state.params, state.state, image)
  return outputs[key].shape[-1] if key in outputs else None


def measure_output(subject: Subject, key: str, protocol: str) -> Measurement:
  """Top-1 accuracy, in [0, 1], of the logits `key` of `represent` on the whole test set."""
  start, test = time.perf_counter(), subject.sets.test
  assert test is not None  # refused before
  experiment = subject.experiment
  represent = experiment.method.represent
  logits = extract(represent, *subject.weights, test, mesh=experiment.mesh, key=key)
  assert logits.label is not None  # refused before
  value = float(np.mean(logits.h.argmax(-1) == logits.label))
  params = {'num_images': test.num_examples}
  seconds = time.perf_counter() - start
  return Measurement('top1', value, protocol, params, subject.kind, seconds)
