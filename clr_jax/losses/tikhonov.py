"""Tikhonov regularization: penalties on the gradient of losses with respect to their inputs.

Drucker & Le Cun (1992) for classifiers, the robustness project (2020) for contrastive losses,
Finlay & Oberman (https://arxiv.org/abs/1905.11468, "tulip") by finite differences. Inputs are
images in [0, 1], after augmentation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

from clr_jax.core.errors import UserError
from clr_jax.core.names import check_name
from clr_jax.core.types import Array, PyTree
from clr_jax.ops.similarity import at_least_float32, l2_normalize

Route = Literal['jvp', 'double']
GradOf = Literal['batch', 'own', 'batch_mean']
Norm = Literal['l2', 'l1', 'linf']


class Penalties(NamedTuple):
  """Squared gradients of K losses with respect to one input x.

  Attributes:
    losses: [K].
    halves: [K], |dL_k/dx|^2 / 2; their gradient needs second derivatives of L_k.
    gradients: K times dL_k/dx, without gradient.
    aux: the auxiliary output of the losses.
  """

  losses: Array
  halves: Array
  gradients: Sequence[PyTree]
  aux: Any


def input_gradient_penalties(
  losses: Callable[[PyTree], tuple[Sequence[Array], Any]], x: PyTree, *, route: Route = 'jvp'
) -> Penalties:
  """Computes |dL_k/dx|^2 / 2 of scalars L_k, differentiable with respect to L_k's closure.

  The function is linearized once, for values and gradients. Where a squared norm vanishes, its
  gradient is 0.

  Args:
    losses: x -> (K scalars, anything).
    x: a tree of arrays; the norm is taken over all of them.
    route: differentiation of the penalty itself. 'double' backpropagates through the backward pass,
      'jvp' through the derivative of L_k along v = stop_gradient(dL_k/dx), since
      d/dw |g|^2 / 2 = d/dw <g, v>. Value and gradient are the same.

  Raises:
    UserError: for an unknown route.

  Example:
    >>> found = input_gradient_penalties(lambda x: ([jnp.sum(x**2)], None), jnp.array([3.0, 4.0]))
    >>> found.halves.tolist()  # |2 x|^2 / 2
    [50.0]
  """
  check_name(get_args(Route), route, 'route of tikhonov')

  def stacked(x: PyTree):
    values, aux = losses(x)
    return jnp.stack([at_least_float32(value) for value in values]), aux

  values, along, aux = jax.linearize(stacked, x, has_aux=True)
  transposed = jax.linear_transpose(along, x)
  gradients = [transposed(row)[0] for row in jnp.eye(len(values), dtype=values.dtype)]
  halves = jnp.stack([_half_square(g) for g in gradients])
  fixed = jax.lax.stop_gradient(gradients)
  if route == 'jvp':
    surrogates = jnp.stack([along(g)[k] for k, g in enumerate(fixed)])
    halves = surrogates + jax.lax.stop_gradient(halves - surrogates)
  return Penalties(values, halves, fixed, aux)


def eq_factor(grad_of: GradOf, rows: int) -> float:
  """R / (|g|^2 / 2) for g = gradient of a batch's mean loss with respect to all its `rows` images.

  The regularized loss is L + (weight / 2) R in all three forms.

  Args:
    grad_of: 'batch' R = sum_i |g_i|^2 / 2 (robustness report, eq. 3: of two views of an image
      each counts half); 'own' R = mean_i |rows g_i|^2 (eq. 2: rows g_i is the gradient of the
      i-th example's own loss if no layer couples examples, else of the sum of losses);
      'batch_mean' R = mean_i |g_i|^2, rows^2 times smaller (the report's code for classifiers).

  Raises:
    UserError: for an unknown `grad_of`.
  """
  check_name(get_args(GradOf), grad_of, 'grad_of of tikhonov')
  return {'batch': 1.0, 'own': 2.0 * rows, 'batch_mean': 2.0 / rows}[grad_of]


def norms_per_image(gradient: PyTree) -> Array:
  """L2 norms [B, V] of [B, V, ...]; for a tree, over all leaves together."""

  def norms(g: Array) -> Array:
    return jnp.sqrt(jnp.sum(jnp.square(at_least_float32(g)), tuple(range(2, g.ndim))))

  return jnp.concatenate([norms(g) for g in jax.tree.leaves(gradient)], 1)


def dual_direction(gradient: Array, *, norm: Norm = 'l2') -> Array:
  """The direction d along which finite differences measure the `norm` of each row's gradient.

  No gradient flows through d, which is 0 for a row whose gradient is 0. <gradient, d> is the L2
  norm; the L1 norm / sqrt(n), to defend against Linf attacks; or the size of the largest entry,
  against L1 attacks (tulip).

  Args:
    gradient: [B, ...], gradient of each example's own loss.
    norm: 'l2' unit rows, 'l1' signs / sqrt(n), 'linf' the sign of the largest of the n entries.

  Raises:
    UserError: for an unknown norm.
  """
  check_name(get_args(Norm), norm, 'norm of the input gradient')
  rows = jax.lax.stop_gradient(at_least_float32(gradient).reshape(len(gradient), -1))
  if norm == 'l2':
    direction = l2_normalize(rows)
  elif norm == 'l1':
    direction = jnp.sign(rows) / jnp.sqrt(jnp.asarray(rows.shape[1], rows.dtype))
  else:
    largest = jnp.argmax(jnp.abs(rows), -1)
    direction = jnp.sign(rows) * jax.nn.one_hot(largest, rows.shape[1], dtype=rows.dtype)
  return direction.reshape(gradient.shape)


def directional_derivatives(
  losses: Callable[[Array], Array],
  x: Array,
  direction: Array,
  *,
  step: float = 0.01,
  order: Literal[1, 2] = 1,
) -> Array:
  """Finite differences [B] of each example's own loss; the penalty is mean(derivatives^2) / 2.

  Costs one or two more forward passes, all with gradient, instead of double backpropagation
  (tulip). For losses of single examples: the robustness project found them inaccurate for a
  contrastive loss, which is one number for the whole batch.

  Args:
    losses: [B, ...] -> [B].
    x: [B, ...].
    direction: [B, ...], see `dual_direction`.
    step: h > 0, 0.01 in tulip.
    order: 1 (l(x + h d) - l(x)) / h, or 2 (l(x + h d) - l(x - h d)) / 2h.

  Raises:
    UserError: for another order or a step that is not positive.
  """
  if order not in (1, 2):
    raise UserError(f'order={order} is not allowed: finite differences have order 1 or 2')
  if not 0 < step < float('inf'):
    raise UserError(f'step={step} is not allowed: the step must be positive and finite')
  ahead = losses(x + step * direction)
  if order == 1:
    return (ahead - losses(x)) / step
  return (ahead - losses(x - step * direction)) / (2 * step)


def _half_square(gradient: PyTree) -> Array:
  squares = [jnp.sum(jnp.square(at_least_float32(g))) for g in jax.tree.leaves(gradient)]
  return 0.5 * jnp.stack(squares).sum()
