"""Contrastive losses of a backbone's stages, Method -> Method: the layer-by-layer loss."""

from __future__ import annotations

import math

import jax

from clr_jax.core.errors import UserError
from clr_jax.core.types import Array, Batch, Method, Out, State
from clr_jax.losses.contrastive import ntxent


def layerwise(method: Method, *, weights: tuple[float, ...], temperature: float = 0.5) -> Method:
  """Adds sum_k weights[k] * NT-Xent(stage k of the backbone) between the online network's views.

  A stage's rows are its activations averaged over the image, `Out.extra['stages']`. Local views and
  mixtures do not take part.

  Args:
    weights: alpha_k, one for each stage, shallow to deep; increasing in the documents, such as
      0.01, 0.1, 1. 0 leaves a stage out.
    temperature: 0.5 (documents).

  Raises:
    UserError: for weights that are negative, not finite or all 0 or a temperature <= 0; when
      traced, unless the backbone has as many stages and its features come from two or more views.
  """
  weights = tuple(weights)
  if not all(0 <= w < math.inf for w in weights) or not any(weights):
    raise UserError(
      f'plugins.layerwise.weights must be finite and not negative, and one of them positive, '
      f'not {weights}'
    )
  if not 0 < temperature < math.inf:
    raise UserError(f'plugins.layerwise.temperature must be positive and finite, not {temperature}')

  def loss(out: Out, state: State, batch: Batch, rng: Array, step: Array):
    value, carry, metrics = method.loss(out, state, batch, rng, step)
    losses = stage_losses(out, count=len(weights), temperature=temperature)
    total = sum(w * loss for w, loss in zip(weights, losses, strict=True) if w)
    metrics = {**metrics, 'layerwise_loss': jax.lax.stop_gradient(total)}
    return value + total, carry, metrics

  return method._replace(loss=loss)


def stage_losses(out: Out, *, count: int, temperature: float) -> list[Array]:
  """L_k: NT-Xent of each stage, shallow to deep.

  Raises:
    UserError: unless the backbone has `count` stages and they are of two or more views.
  """
  stages = out.extra.get('stages', {})
  if len(stages) != count:
    raise UserError(
      f'plugins.layerwise.weights has {count} values and the backbone {len(stages)} stages: '
      f'give one weight for each'
    )
  rows = [stages[f'stage{k}'] for k in range(1, count + 1)]
  if rows[0].shape[1] < 2:
    raise UserError(
      'layerwise compares views, and the online network of this method embeds only one: '
      'use a symmetric method, or set plugins.layerwise.weights=()'
    )
  return [ntxent(stage, temperature=temperature).mean() for stage in rows]
