"""A run's network as a classifier of images: its own logits, or a linear layer on its features."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from clr_jax.core.errors import UserError
from clr_jax.core.types import Array, Params, RepresentFn, State
from clr_jax.evaluation.attacks import Classifier
from clr_jax.evaluation.probing.features import Features
from clr_jax.evaluation.probing.logistic import Head, fit_lbfgs
from clr_jax.evaluation.probing.normalization import standardization
from clr_jax.evaluation.probing.subject import Subject
from clr_jax.ops.similarity import l2_normalize

Logits = Literal['auto', 'own', 'linear']


def classifier(
  subject: Subject,
  *,
  head: Logits = 'auto',
  normalize: bool = True,
  l2: float = 1.0,
) -> Classifier:
  """Makes a classifier from images in [0, 1] to logits, in inference mode.

  Args:
    subject: a network and the labeled sets.
    head: 'own', the logits of a supervised network; 'linear', logistic regression on the features
      of the training set; 'auto', 'own' if the network has logits.
    normalize: train the linear layer on unit features, which the attack uses, too (the robustness
      document trains on unit features and attacks raw ones by mistake).
    l2: penalty of the logistic regression on standardized features (`fit_lbfgs`).

  Raises:
    UserError: the network has no logits, or logits for another data set's classes.
  """
  train = subject.sets.train
  image = jax.ShapeDtypeStruct((1, *train.image_shape), jnp.float32)
  represent = subject.experiment.method.represent
  outputs = jax.eval_shape(represent, *subject.weights, image)
  own = 'logits' in outputs and outputs['logits'].shape[-1] == train.num_classes
  if head == 'own' and not own:
    raise UserError(
      f'{subject.experiment.config.method.name} has no logits for the {train.num_classes} classes '
      f'of {train.name}: use --params.head=linear'
    )
  if head == 'own' or (head == 'auto' and own):
    return Classifier(_own(represent), subject.weights)
  fitted = linear_head(subject.features[0], train.num_classes, normalize=normalize, l2=l2)
  return Classifier(_linear(represent, normalize), (*subject.weights, fitted))


def linear_head(train: Features, num_classes: int | None, *, normalize: bool, l2: float) -> Head:
  """Logistic regression on standardized (unit) features, as one affine map of (unit) features.

  Raises:
    UserError: no labels, or a class without an example.
  """
  if train.label is None or num_classes is None:
    raise UserError('a linear classifier needs labels; give labeled data for training')
  if len(np.unique(train.label)) < num_classes:
    raise UserError(
      f'the training set has no example of some of the {num_classes} classes: use a larger split'
    )
  h = np.asarray(l2_normalize(jnp.asarray(train.h))) if normalize else train.h
  mean, factor = standardization(h)
  standard = ((h - mean) * factor).astype(h.dtype)
  head, _ = fit_lbfgs(standard, train.label, num_classes, l2=l2)
  w = np.asarray(head.w, np.float64) * factor[:, None]
  bias = np.asarray(head.b, np.float64) - mean @ w
  return Head(jnp.asarray(w, h.dtype), jnp.asarray(bias, h.dtype))


# Cached per network, so that an attack compiles once (see `Classifier.apply`).
@functools.lru_cache(maxsize=64)
def _own(represent: RepresentFn) -> Callable[..., Array]:
  def apply(params: tuple[Params, State], images: Array) -> Array:
    return represent(*params, images)['logits']

  return apply


@functools.lru_cache(maxsize=64)
def _linear(represent: RepresentFn, normalize: bool) -> Callable[..., Array]:
  def apply(params: tuple[Params, State, Any], images: Array) -> Array:
    network, state, head = params
    h = represent(network, state, images)['h'].astype(head.w.dtype)
    h = l2_normalize(h) if normalize else h
    return h @ head.w + head.b[None]

  return apply
