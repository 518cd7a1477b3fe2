"""Gradient norms of parameter groups, and the loss landscape along the negative gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from clr_jax.core.types import Array, Params, PyTree
from clr_jax.ops.similarity import at_least_float32


def tensor_norms(tree: PyTree) -> PyTree:
  """The l2 norm of every leaf, in float32 or wider, in the same structure."""
  return jax.tree.map(lambda x: jnp.sqrt(jnp.sum(jnp.square(at_least_float32(x)))), tree)


def group_norms(grads: Params) -> dict[str, Array]:
  """{first key: l2 norm of all leaves below it}, in float32 or wider."""
  return {name: optax.tree.norm(tensor_norms(tree)) for name, tree in grads.items()}


class Landscape(NamedTuple):
  """The loss along the negative gradient.

  Attributes:
    loss: [] at the weights themselves.
    norms: l2 norm of the gradient there, leaf by leaf.
    losses: [E] at the weights w - eta g.
    grad_norms: [E] global l2 norm of the gradient there.
    grad_differences: [E] ||g(w - eta g) - g(w)||; small values mean a predictive gradient.
  """

  loss: Array
  norms: PyTree
  losses: Array
  grad_norms: Array
  grad_differences: Array


def landscape(
  value_and_grad: Callable[[PyTree], tuple[Array, PyTree]], params: PyTree, etas: Sequence[float]
) -> Landscape:
  """Loss and gradient at w and at w - eta g(w) for each eta.

  The envelope over training steps is the plot of Santurkar et al.,
  https://arxiv.org/abs/1805.11604, figure 4 (loss landscape, gradient predictiveness).

  Args:
    value_and_grad: params -> (loss, gradient), compiled by the caller: it is called from Python
      once for each eta, because XLA's loops around convolutions are slow on CPUs.
    params: w.
    etas: lengths of the steps in units of the gradient.
  """
  loss, grads = value_and_grad(params)
  losses, norms, differences = [], [], []
  for eta in etas:
    there = jax.tree.map(lambda w, g, eta=eta: w - jnp.asarray(eta, w.dtype) * g, params, grads)
    value, moved = value_and_grad(there)
    losses.append(value)
    norms.append(optax.tree.norm(moved))
    differences.append(optax.tree.norm(jax.tree.map(jnp.subtract, moved, grads)))
  stacked = (jnp.stack(x) for x in (losses, norms, differences))
  return Landscape(loss, tensor_norms(grads), *stacked)
