"""The layer-by-layer loss, Method -> Method: contrastive losses of a backbone's stages."""

from __future__ import annotations

import functools
from typing import Annotated

import jax

from clr_jax.core.bounds import NonNegative, Temperature
from clr_jax.core.errors import UserError
from clr_jax.core.options import OnlyWith
from clr_jax.core.types import Array, Batch, Method, Out, RunInfo, State
from clr_jax.losses.contrastive import ntxent

ORDER = 20  # outside of wrappers that change the method's own loss


def layerwise(
  method: Method,
  info: RunInfo,
  *,
  weights: tuple[NonNegative, ...] = (),
  temperature: Annotated[Temperature, OnlyWith('weights')] = 0.5,
) -> Method:
  """Adds sum_k weights[k] * NT-Xent(stage k of the backbone) between the online network's views.

  A stage's rows are its activations averaged over the image, `Out.extra['stages']`. Local views and
  mixtures do not take part.

  Args:
    weights: alpha_k, one per stage, shallow to deep; increasing in the documents, such as 0.01,
      0.1, 1. 0 leaves a stage out. () = off.
    temperature: divisor of the similarities; 0.5 (the robustness report).

  Raises:
    UserError: all weights are 0; when traced, unless the backbone has as many stages and embeds two
      or more views.
  """
  del info
  if not weights:
    return method
  if not any(weights):
    raise UserError(f'plugins.layerwise.weights={weights} adds nothing: set one above 0, or ()')
  of_stages = functools.partial(stage_losses, count=len(weights), temperature=temperature)

  def loss(out: Out, state: State, batch: Batch, rng: Array, step: Array):
    value, carry, metrics = method.loss(out, state, batch, rng, step)
    total = sum(w * loss for w, loss in zip(weights, of_stages(out), strict=True) if w)
    metrics = {**metrics, 'layerwise_loss': jax.lax.stop_gradient(total)}
    return value + total, carry, metrics

  return method._replace(loss=loss, independent=False, stage_losses=of_stages)


def stage_losses(out: Out, *, count: int, temperature: float) -> list[Array]:
  """L_k: NT-Xent of each stage, shallow to deep.

  Raises:
    UserError: unless the backbone has `count` stages and embeds two or more views.
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
