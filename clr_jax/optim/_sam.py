"""Sharpness-aware minimization: updates w by the gradient at a perturbed point.

Both wrap the optimizer of all groups (inside a partition no global norm exists) and are called as
`tx.update(grads, state, params, grad_fn=lambda params, i: ...)`. `optax.contrib.sam` in opaque mode
does this without control flow; this module adds the adversaries, minimizers whose update is -delta.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
import optax.contrib
from jax.typing import ArrayLike

from clr_jax.core.bounds import NonNegative, Seed
from clr_jax.core.errors import UserError
from clr_jax.core.options import OnlyWith
from clr_jax.core.types import Array, Group, Params, PyTree
from clr_jax.optim._optimizers import matrices


def sam(
  base: optax.GradientTransformation,
  groups: Mapping[str, Group],
  *,
  rho: NonNegative = 0.05,
  adaptive: Annotated[bool, OnlyWith(norm='2')] = False,
  norm: Literal['1', '2', 'inf'] = '2',
) -> optax.GradientTransformationExtraArgs:
  """SAM: delta = rho g / (|g| + 1e-12), the norm over all parameters jointly.

  Foret et al., https://arxiv.org/abs/2010.01412; adaptive: delta = rho w^2 g / (| |w| g | + 1e-12),
  Kwon et al., https://arxiv.org/abs/2102.11600. Weight decay stays in the base (davda54/sam).
  Groups with `no_sam` have delta = 0, are excluded from the norm, and are updated with the gradient
  of the second pass. rho = 0 gives the base update.

  With another norm, delta maximizes <g, delta> for |delta|_norm <= rho: rho sign(g) for 'inf', and
  for '1' rho sign(g) at the largest |g| of all parameters, shared equally if there are several.

  Args:
    rho: length of delta: 0.05 (the paper); about 10 times as much if adaptive (0.5 to 2), and much
      less for norm='inf', which moves every parameter by rho.
    adaptive: scale each element of delta by its parameter (ASAM).
    norm: norm p of delta; 2 (Foret et al.), others: eq. 3 of the TAMU report on SogCLR.

  Example:
    >>> params = {'w': jnp.full([], 2.0)}
    >>> tx = sam(optax.sgd(0.1), {}, rho=0.5)
    >>> gradient = jax.grad(lambda params: params['w'] ** 2)
    >>> updates, _ = tx.update(
    ...   gradient(params), tx.init(params), params, grad_fn=lambda params, i: gradient(params)
    ... )
    >>> print(f"{updates['w']:.4f}")  # the gradient at 2.5, not at 2
    -0.5000
  """

  def adversary(grads, params):
    part = _perturbed_part(grads, groups)
    if norm != '2':
      steepest = _steepest(part, norm)
      part = jax.tree.map(lambda s, g: (-rho * s).astype(g.dtype), steepest, part)
      return {**jax.tree.map(jnp.zeros_like, grads), **part}
    weights = _perturbed_part(params, groups)
    if adaptive:
      length = optax.tree.norm(jax.tree.map(lambda g, w: jnp.abs(w) * g, part, weights))
      part = jax.tree.map(lambda g, w: w**2 * g, part, weights)
    else:
      length = optax.tree.norm(part)
    part = jax.tree.map(lambda g: (-rho * g / (length + 1e-12)).astype(g.dtype), part)
    return {**jax.tree.map(jnp.zeros_like, grads), **part}

  return optax.contrib.sam(base, optax.stateless(adversary), opaque_mode=True)


def _steepest(grads: PyTree, norm: str) -> PyTree:
  """The delta with |delta|_norm <= 1 and the largest <g, delta>, for the norms '1' and 'inf'."""
  if norm == 'inf':
    return jax.tree.map(jnp.sign, grads)
  top = jnp.max(jnp.stack([jnp.max(jnp.abs(g)) for g in jax.tree.leaves(grads)]))
  at_top = jax.tree.map(lambda g: (jnp.abs(g) == top) & (g != 0), grads)
  count = jnp.maximum(sum(jnp.sum(where) for where in jax.tree.leaves(at_top)), 1)
  return jax.tree.map(lambda g, where: jnp.sign(g) * where / count, grads, at_top)


def noise_sam(
  base: optax.GradientTransformation,
  groups: Mapping[str, Group],
  *,
  eps: NonNegative = 1e-5,
  subset: Literal['matrices', 'projector', 'all'] = 'matrices',
  relative: bool = False,
  seed: Seed = 0,
) -> optax.GradientTransformationExtraArgs:
  """Uses the gradient at w + delta with delta ~ U(-eps, eps) instead of SAM's adversary.

  The TAMU report on SogCLR describes it, but its code discards the noise. The gradient passed in is
  unused, so a step costs one backward pass (if nothing else needs the first). The noise is a
  function of (seed, update number, parameter name); groups with `no_sam` get none.

  Args:
    eps: bound of the noise: 1e-5 (the report).
    subset: leaves to perturb: 'matrices' (neither biases nor scales), 'projector' (all below that
      first key) or 'all'.
    relative: True makes eps a fraction of each tensor's root mean square.
    seed: RNG seed of the noise.

  Raises:
    UserError: at the first update, 'projector' without such parameters.

  Example:
    >>> params = {'w': jnp.full([1, 1], 2.0)}
    >>> tx = noise_sam(optax.sgd(0.1), {}, eps=0.5)
    >>> gradient = jax.grad(lambda params: (params['w'] ** 2).sum())
    >>> updates, _ = tx.update(
    ...   gradient(params), tx.init(params), params, grad_fn=lambda params, i: gradient(params)
    ... )
    >>> -0.5 <= updates['w'].item() <= -0.3  # the gradient between 1.5 and 2.5
    True
  """

  def draw(count: ArrayLike, params: Params) -> Params:
    part = _perturbed_part(params, groups)
    if subset == 'projector':
      if 'projector' not in part:
        raise UserError('noise_sam finds no projector to perturb: set sam.subset=all')
      part = {'projector': part['projector']}
    if subset == 'matrices':
      chosen = matrices(part)
    else:
      chosen = jax.tree.map(lambda _: True, part)
    key = jax.random.fold_in(jax.random.key(seed), count)
    noise = uniform_noise(key, part, chosen, eps=eps, relative=relative)
    return {**jax.tree.map(jnp.zeros_like, params), **noise}

  return with_noise(base, draw)


def uniform_noise(
  key: Array, params: PyTree, chosen: PyTree, *, eps: float, relative: bool = False
) -> PyTree:
  """U(-eps, eps) for leaves with `chosen` (if relative, times their rms), 0 for the others.

  Each leaf's key depends on its path, so that adding parameters does not change the others' noise.
  """

  def leaf_noise(path, p, use):
    if not use:
      return jnp.zeros_like(p)
    leaf_key = jax.random.fold_in(key, zlib.crc32(jax.tree_util.keystr(path).encode()))
    scale = eps * jnp.sqrt(jnp.mean(p**2)) if relative else eps
    return jax.random.uniform(leaf_key, p.shape, p.dtype, -1.0, 1.0) * scale

  return jax.tree_util.tree_map_with_path(leaf_noise, params, chosen)


class _NoiseState(NamedTuple):
  count: ArrayLike


def with_noise(
  base: optax.GradientTransformation, draw: Callable[[ArrayLike, Any], Params]
) -> optax.GradientTransformationExtraArgs:
  """`base` fed with the gradient at w + draw(number of updates so far, w).

  Example:
    >>> params = {'w': jnp.full([], 2.0)}
    >>> tx = with_noise(optax.sgd(0.1), lambda count, params: {'w': 0.5})
    >>> gradient = jax.grad(lambda params: params['w'] ** 2)
    >>> updates, _ = tx.update(
    ...   gradient(params), tx.init(params), params, grad_fn=lambda params, i: gradient(params)
    ... )
    >>> print(f"{updates['w']:.4f}")
    -0.5000
  """

  def init(params):
    del params
    return _NoiseState(jnp.zeros([], jnp.int32))

  def update(updates, state, params=None):
    del updates
    delta = jax.tree.map(jnp.negative, draw(state.count, params))
    return delta, _NoiseState(optax.safe_increment(state.count))

  adversary = optax.GradientTransformation(init, update)
  return optax.contrib.sam(base, adversary, opaque_mode=True, reset_state=False)


def _perturbed_part(tree: Params, groups: Mapping[str, Group]) -> Params:
  return {k: v for k, v in tree.items() if not groups.get(k, Group()).no_sam}
