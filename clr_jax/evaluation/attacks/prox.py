"""Per-image proximal maps argmin_v weight * |v - center| + |v - u|^2 / 2 of the four norms.

Closed forms with s = u - center; Pooladian et al., "A principled approach for generating
adversarial images under non-smooth dissimilarity metrics", AISTATS 2020, section 3. Their published
code differs in l1 (no magnitude), l0 (threshold sqrt(2) * weight) and linf (see `linf_source`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp

from clr_jax.core.types import Array
from clr_jax.evaluation.attacks.norms import distance, expand_like, onto_l1_sphere, project


def prox_l2(u: Array, center: Array, weight: Any) -> Array:
  """Shortens s by `weight`, to 0 if it is shorter."""
  s = u - center
  shrink = 1 - weight / jnp.maximum(weight, distance(s, 'l2'))
  return center + expand_like(shrink, s) * s


def prox_l1(u: Array, center: Array, weight: Any) -> Array:
  """Shortens every entry of s by `weight`, to 0 if it is shorter."""
  s = u - center
  return center + jnp.sign(s) * jnp.maximum(jnp.abs(s) - weight, 0)


def prox_l0(u: Array, center: Array, weight: Any) -> Array:
  """Keeps the entries of s above sqrt(2 * weight)."""
  return jnp.where(jnp.abs(u - center) > jnp.sqrt(2 * weight), u, center)


def prox_linf(u: Array, center: Array, weight: Any) -> Array:
  """Subtracts from s its projection onto the l1 ball of radius `weight`."""
  s = u - center
  return center + (s - project(s, 'l1', weight))


def prox_linf_source(u: Array, center: Array, weight: Any) -> Array:
  """Uses the l1 *sphere* as the published code does: overshoots the center if |s|_1 < weight."""
  return u - onto_l1_sphere(u - center, weight)


PROX: Mapping[str, Callable[[Array, Array, Any], Array]] = {
  'l2': prox_l2,
  'linf': prox_linf,
  'l1': prox_l1,
  'l0': prox_l0,
  'linf_source': prox_linf_source,
}
