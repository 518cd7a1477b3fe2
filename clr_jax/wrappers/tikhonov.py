"""Tikhonov regularization of the input gradient, Method -> Method: robustness report, eq. 2-5."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import jax
import jax.numpy as jnp

from clr_jax.core.bounds import NonNegative
from clr_jax.core.errors import UserError
from clr_jax.core.options import OnlyWith
from clr_jax.core.types import Array, Batch, Method, Metrics, Out, Params, RunInfo, State
from clr_jax.losses.tikhonov import (
  GradOf,
  Penalties,
  Route,
  eq_factor,
  input_gradient_penalties,
  norms_per_image,
)
from clr_jax.ops.random import Stream, stream

ORDER = 30  # outside of all wrappers that add to the loss


def tikhonov(
  method: Method,
  info: RunInfo,
  *,
  weight: NonNegative = 0.0,
  layer_weights: tuple[NonNegative, ...] = (),
  route: Annotated[Route, OnlyWith('weight', 'layer_weights')] = 'jvp',
  grad_of: Annotated[Literal['auto', GradOf], OnlyWith('weight', 'layer_weights')] = 'auto',
) -> Method:
  """Adds weight / 2 * R + sum_k layer_weights[k] * R_k, squared gradients w.r.t. the images.

  R uses the method's whole training loss: all `batch.views`, gradients through the batch
  statistics, and constants where the method has them (targets, queues, tables). R_k =
  sum_i |dL_k/dx_i|^2 / 2 uses the loss of the backbone's stage k (eq. 5), `Method.stage_losses`.
  The penalties need the networks, so `embed` computes the loss as well, random losses with a
  separate key, and `loss` returns the result from `Out.extra['tikhonov']`. This wraps the wrappers
  that add to the loss (un_mix, layerwise), but not the online probe.

  Metrics: tikhonov_penalty R and input_gradient_norm, the mean over views and images of the L2 norm
  of the gradient in R (`own`: that of each image's own loss); tikhonov_layer_penalty, the sum over
  stages.

  Args:
    weight: lambda, 0.1 to 10 in the report; 0 without `layer_weights` = off.
    layer_weights: beta_k, one per stage; increasing in the report.
    route: 'jvp' or 'double', see `input_gradient_penalties`; the numbers are the same.
    grad_of: 'batch' (eq. 3), 'own' (eq. 2) or 'batch_mean', see `eq_factor`; 'auto' is 'own' for an
      independent method (supervised), else 'batch'.

  Raises:
    UserError: all weights are 0, layer weights for a method without stage losses, or 'own' for a
      loss that couples images; when traced, a backbone with another number of stages.
  """
  del info
  if not weight and not layer_weights:
    return method
  _check_weights(method, weight, layer_weights)
  grad_of = _resolve(method, grad_of)

  def embed(params: Params, state: State, batch: Batch, rng: Array, step: Array):
    def losses(views):
      seen = batch._replace(views=views)
      out, carry = method.embed(params, state, seen, rng, step)
      result = method.loss(out, state, seen, stream(rng, Stream.TIKHONOV), step)
      penalized = [result[0]] if weight else []
      if layer_weights and method.stage_losses is not None:
        stages = method.stage_losses(out)
        _check_count(layer_weights, stages)
        penalized += [loss for w, loss in zip(layer_weights, stages, strict=True) if w]
      return penalized, (out, carry, result)

    found = input_gradient_penalties(losses, batch.views, route=route)
    out, carry, (value, loss_carry, metrics) = found.aux
    rows = math.prod(batch.views['global'].shape[:2])
    added, of_penalty = _penalize(found, weight, layer_weights, grad_of, rows)
    metrics = {**metrics, **jax.tree.map(jax.lax.stop_gradient, of_penalty)}
    result = value + added, loss_carry, metrics
    return out._replace(extra={**out.extra, 'tikhonov': result}), carry

  def loss(out: Out, state: State, batch: Batch, rng: Array, step: Array):
    del state, batch, rng, step
    return out.extra['tikhonov']

  return method._replace(embed=embed, loss=loss)


def _penalize(
  found: Penalties, weight: float, layer_weights: Sequence[float], grad_of: GradOf, rows: int
) -> tuple[Array, Metrics]:
  """Penalty and metrics; `found` has one entry per positive weight, in order."""
  added, metrics = jnp.zeros([], found.halves.dtype), {}
  if weight:
    penalty = eq_factor(grad_of, rows) * found.halves[0]
    norm = norms_per_image(found.gradients[0]).mean() * (rows if grad_of == 'own' else 1)
    metrics |= {'tikhonov_penalty': penalty, 'input_gradient_norm': norm}
    added += weight / 2 * penalty
  if betas := [w for w in layer_weights if w]:
    penalty = jnp.asarray(betas, found.halves.dtype) @ found.halves[-len(betas) :]
    metrics['tikhonov_layer_penalty'] = penalty
    added += penalty
  return added, metrics


def _check_weights(method: Method, weight: float, layer_weights: Sequence[float]) -> None:
  if not weight and not any(layer_weights):
    raise UserError('tikhonov needs a positive plugins.tikhonov.weight, or layer_weights')
  if layer_weights and method.stage_losses is None:
    raise UserError(
      'plugins.tikhonov.layer_weights needs the losses of plugins.layerwise: set '
      'plugins.layerwise.weights, too'
    )


def _resolve(method: Method, grad_of: Literal['auto', GradOf]) -> GradOf:
  """Resolves 'auto' in `grad_of`; raises a UserError for 'own' if the loss couples images."""
  if grad_of == 'auto':
    return 'own' if method.independent else 'batch'
  if grad_of == 'own' and not method.independent:
    with_stages = ' with layerwise' if method.stage_losses else ''
    raise UserError(
      f'the loss of {method.name}{with_stages} couples the images, so there are no per-image '
      f'losses: set plugins.tikhonov.grad_of=batch'
    )
  return grad_of


def _check_count(layer_weights: Sequence[float], stages: Sequence[Array]) -> None:
  if len(layer_weights) != len(stages):
    raise UserError(
      f'plugins.tikhonov.layer_weights has {len(layer_weights)} values and the backbone '
      f'{len(stages)} stages: give one weight for each'
    )
