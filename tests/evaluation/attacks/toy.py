"""A small network and images with labels that it mostly gets right."""

import math

import jax
import jax.numpy as jnp

from clr_jax.evaluation.attacks import Classifier, Problem
from clr_jax.evaluation.attacks.base import logits_of


def network(params, images):
  w, v = params
  return jnp.tanh((images - 0.5).reshape(len(images), -1) @ w) @ v


def toy(norm='l2', epsilon=math.inf, *, size=20, shape=(4, 4, 2), classes=5, seed=0):
  """`size` images of `shape` for a random network, and labels of which the last one is wrong."""
  a, b, c = jax.random.split(jax.random.key(seed), 3)
  pixels = shape[0] * shape[1] * shape[2]
  params = (jax.random.normal(a, (pixels, 24)) * 0.3, jax.random.normal(b, (24, classes)))
  classifier = Classifier(network, params)
  images = jax.random.uniform(c, (size, *shape))
  labels = jnp.argmax(logits_of(classifier, images), axis=1)
  labels = labels.at[-1].set((labels[-1] + 1) % classes)
  return Problem.of(classifier, images, labels, norm=norm, epsilon=epsilon)


def predict(problem, images):
  return jnp.argmax(logits_of(problem.classifier, jnp.asarray(images)), axis=1)
