"""Learned per-example temperatures: iSogCLR, https://arxiv.org/abs/2305.11965."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from clr_jax.core.types import Array
from clr_jax.losses.global_contrastive import SogCLR


def temperature_gradient(result: SogCLR, temperature: Array, *, rho: float) -> Array:
  """Derivative [B] of the robust objective w.r.t. each example's temperature, mean over its views.

  It is log u + rho - mean(w s) / T (LibAUC): a larger radius rho lowers T, negatives harder than
  the mean raise it.

  Args:
    result: result of the estimator with these temperatures.
    temperature: [B], > 0.
    rho: radius of the uncertainty set, >= 0.

  Example:
    >>> from clr_jax.losses import sogclr
    >>> found = sogclr(jnp.eye(4).reshape(2, 2, 4), jnp.zeros([2]), temperature=0.5)
    >>> gradient = temperature_gradient(found, jnp.array([0.5, 0.5]), rho=0.3)
    >>> print(f'{gradient[0]:.2f}')
    0.30
  """
  # T log u - s_pos and mean(w s) - s_pos, of which s_pos cancels.
  gap = result.objective.mean(-1) - result.per_example / result.objective.shape[-1]
  return jax.lax.stop_gradient(rho + gap / temperature)


def temperature_step(
  temperature: Array,
  average: Array,
  gradient: Array,
  *,
  eta: float,
  beta: float,
  bounds: tuple[float, float],
) -> tuple[Array, Array]:
  """One step of momentum descent; returns (temperature, average), all of one shape.

  average <- (1 - beta) average + beta gradient; temperature <- temperature - eta average, clipped.

  Args:
    temperature, average, gradient: values of the same examples, [...].
    eta: step size, >= 0.
    beta: weight of the new gradient, in (0, 1].
    bounds: (lowest, highest) temperature.

  Example:
    >>> one, zero = jnp.ones([1]), jnp.zeros([1])
    >>> new, average = temperature_step(0.5 * one, zero, one, eta=0.1, beta=0.9, bounds=(0.05, 1.0))
    >>> print(new.round(4), average)
    [0.41] [0.9]
  """
  average = (1 - beta) * average + beta * gradient
  return jnp.clip(temperature - eta * average, *bounds), average
