"""A small network and images with labels that it mostly gets right."""

import jax
import jax.numpy as jnp

from clr_jax.evaluation.attacks import Classifier
from clr_jax.evaluation.attacks.base import logits_of


def network(params, images):
  w, v = params
  return jnp.tanh((images - 0.5).reshape(len(images), -1) @ w) @ v


def toy(size=20, *, shape=(4, 4, 2), classes=5, seed=0):
  """A classifier, images [size, *shape], and labels of which the last one is wrong."""
  a, b, c = jax.random.split(jax.random.key(seed), 3)
  pixels = shape[0] * shape[1] * shape[2]
  params = (jax.random.normal(a, (pixels, 24)) * 0.3, jax.random.normal(b, (24, classes)))
  classifier = Classifier(network, params)
  images = jax.random.uniform(c, (size, *shape))
  labels = jnp.argmax(logits_of(*classifier, images), axis=1)
  return classifier, images, labels.at[-1].set((labels[-1] + 1) % classes)


def predict(classifier, images):
  return jnp.argmax(logits_of(*classifier, jnp.asarray(images)), axis=1)
