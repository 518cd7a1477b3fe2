"""Per-image losses that attacks raise."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp

from clr_jax.core.types import Array

Loss = Literal['cross_entropy', 'margin']


def cross_entropy(logits: Array, labels: Array) -> Array:
  """-log softmax(logits)[label], [B]."""
  return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1)[:, 0]


def margin(scores: Array, labels: Array) -> Array:
  """Largest other score minus the label's, [B]: > 0 where misclassified."""
  own = jnp.arange(scores.shape[1])[None] == labels[:, None]
  other = jnp.max(jnp.where(own, -jnp.inf, scores), axis=1)
  return other - jnp.take_along_axis(scores, labels[:, None], axis=1)[:, 0]


def image_loss(loss: Loss, logits: Array, labels: Array) -> Array:
  """Loss [B] to raise: 'cross_entropy', or 'margin' of the probabilities.

  'margin' is Carlini and Wagner's idea with the sign that attacks, max_j p_j - p_y: the robustness
  project's own 'CW' option has the opposite one.
  """
  if loss == 'cross_entropy':
    return cross_entropy(logits, labels)
  return margin(jax.nn.softmax(logits), labels)


def dlr(logits: Array, labels: Array, goal: Array, targeted: bool) -> Array:
  """Difference of logits ratio [B], -(z_y - max_other z) / (z_1 - z_3), or its targeted form.

  Targeted: -(z_y - z_t) / (z_1 - (z_3 + z_4) / 2). z_1 >= z_2 >= ... are the sorted logits, so
  neither form changes with the logits' scale. Croce and Hein 2020, equations 5 and 6.
  """
  ranked = jnp.flip(jnp.sort(logits, axis=1), axis=1)
  own = jnp.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
  if targeted:
    other = jnp.take_along_axis(logits, goal[:, None], axis=1)[:, 0]
    low = (ranked[:, 2] + ranked[:, 3]) / 2
  else:
    other = jnp.where(own == ranked[:, 0], ranked[:, 1], ranked[:, 0])
    low = ranked[:, 2]
  return (other - own) / (ranked[:, 0] - low + 1e-12)
