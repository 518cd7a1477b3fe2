"""SGD, LARS, Adam and AdamW for the parameters of one group.

Each takes (learning_rate, weight_decay, mask): two numbers or schedules, and a function of the
parameters that is True for leaves with weight decay and (LARS) trust ratio. LARS also takes
`joined`, see `ops.many_arrays.norms`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from clr_jax.core.bounds import BelowOne, Epsilon, Positive, PositiveEpsilon
from clr_jax.core.errors import UserError
from clr_jax.core.option_texts import described_by
from clr_jax.core.options import OnlyWith
from clr_jax.core.types import Array, PyTree, Schedule
from clr_jax.ops import many_arrays

Mask = Callable[[PyTree], PyTree]
Value = float | Schedule


def matrices(params: PyTree) -> PyTree:
  """False for biases and normalization scales: leaves named 'bias' or 'scale', or with ndim <= 1.

  The names count because layers stacked by `nn.scan` or `vmap` have biases with two axes.

  Example:
    >>> matrices({'conv': {'kernel': jnp.ones([3, 4])}, 'bn': {'scale': jnp.ones(4)}})
    {'bn': {'scale': False}, 'conv': {'kernel': True}}
  """

  def is_matrix(path, leaf) -> bool:
    name = getattr(path[-1], 'key', None) if path else None
    return jnp.ndim(leaf) > 1 and name not in ('bias', 'scale')

  return jax.tree_util.tree_map_with_path(is_matrix, params)


def products(params: PyTree) -> PyTree:
  """False also for the positions and the class token of a vision transformer.

  Example:
    >>> products({'pos_embed': jnp.ones([1, 2, 3]), 'fc': {'kernel': jnp.ones([3, 4])}})
    {'fc': {'kernel': True}, 'pos_embed': False}
  """

  def is_product(path, leaf) -> bool:
    return leaf and getattr(path[-1], 'key', None) not in ('pos_embed', 'cls_token')

  return jax.tree_util.tree_map_with_path(is_product, matrices(params))


def everything(params: PyTree) -> PyTree:
  """True for all leaves."""
  return jax.tree.map(lambda _: True, params)


def clip_each(limit: float) -> optax.GradientTransformation:
  """Scales down every array whose L2 norm exceeds `limit`, as DINO's code does.

  Example:
    >>> tx, grads = clip_each(1.0), {'long': jnp.full(1, 4.0), 'short': jnp.full(1, 0.5)}
    >>> updates, _ = tx.update(grads, tx.init(grads))
    >>> {name: round(float(u[0]), 3) for name, u in updates.items()}
    {'long': 1.0, 'short': 0.5}
  """

  def clip(updates: PyTree, params: PyTree = None) -> PyTree:
    del params
    return jax.tree.map(
      lambda u: u * jnp.minimum(limit / (jnp.linalg.norm(u.ravel()) + 1e-6), 1), updates
    )

  return optax.stateless(clip)


def sgd(
  learning_rate: Value,
  weight_decay: Value = 0.0,
  mask: Mask = everything,
  *,
  momentum: BelowOne = 0.9,
  nesterov: bool = False,
) -> optax.GradientTransformationExtraArgs:
  """PyTorch's SGD: d = g + wd p, m = momentum m + d, p -= lr m (Nesterov: lr (d + momentum m)).

  Args:
    momentum: weight of the old velocity; 0.9 in all recipes of the methods here.
    nesterov: take the gradient plus momentum times the new velocity.

  Raises:
    UserError: nesterov without momentum.

  Example:
    >>> tx, params = sgd(0.5, momentum=0.0), {'w': jnp.ones([])}
    >>> updates, _ = tx.update({'w': jnp.ones([])}, tx.init(params), params)
    >>> updates['w'].item()
    -0.5
  """
  if nesterov and not momentum:
    raise UserError('nesterov=True has no effect without momentum: set momentum above 0')
  return optax.chain(
    optax.add_decayed_weights(weight_decay, mask),
    optax.trace(momentum, nesterov),
    optax.scale_by_learning_rate(learning_rate),
  )


def adam(
  learning_rate: Value,
  weight_decay: Value = 0.0,
  mask: Mask = everything,
  *,
  b1: BelowOne = 0.9,
  b2: BelowOne = 0.999,
  eps: PositiveEpsilon = 1e-8,
) -> optax.GradientTransformationExtraArgs:
  """Adam with L2 in the gradient, as in PyTorch (defaults of https://arxiv.org/abs/1412.6980).

  Args:
    b1: weight of the old moving average of the gradient.
    b2: weight of the old moving average of its square.
    eps: term added to the square root of the latter.

  Example:
    >>> tx, params = adam(0.5), {'w': jnp.ones([])}
    >>> updates, _ = tx.update({'w': jnp.full([], 3.0)}, tx.init(params), params)
    >>> print(f"{updates['w']:.4f}")  # the first step has the size of the rate
    -0.5000
  """
  return optax.chain(
    optax.add_decayed_weights(weight_decay, mask),
    optax.scale_by_adam(b1, b2, eps),
    optax.scale_by_learning_rate(learning_rate),
  )


@described_by(adam)
def adamw(
  learning_rate: Value,
  weight_decay: Value = 0.0,
  mask: Mask = matrices,
  *,
  b1: BelowOne = 0.9,
  b2: BelowOne = 0.999,
  eps: PositiveEpsilon = 1e-8,
) -> optax.GradientTransformationExtraArgs:
  """Adam with decoupled decay p -= lr wd p (https://arxiv.org/abs/1711.05101).

  Example:
    >>> tx, params = adamw(0.5, 0.1), {'w': jnp.ones([1, 1])}
    >>> updates, _ = tx.update({'w': jnp.zeros([1, 1])}, tx.init(params), params)
    >>> print(f"{updates['w'].item():.4f}")  # the decay alone
    -0.0500
  """
  return optax.chain(
    optax.scale_by_adam(b1, b2, eps),
    optax.add_decayed_weights(weight_decay, mask),
    optax.scale_by_learning_rate(learning_rate),
  )


def lars(
  learning_rate: Value,
  weight_decay: Value = 0.0,
  mask: Mask = matrices,
  joined: bool = False,
  *,
  momentum: BelowOne = 0.9,
  form: Literal['mocov3', 'simclr', 'clipped', 'unclipped'] = 'mocov3',
  trust_coefficient: Positive | None = None,
  eps: Annotated[Epsilon, OnlyWith(form=('clipped', 'unclipped'))] = 1e-8,
) -> optax.GradientTransformationExtraArgs:
  """Layer-wise adaptive rates (You et al., https://arxiv.org/abs/1708.03888), in three forms.

  With d = g + wd p and q = tc |p| / |d| (1 if a norm is 0):
  'mocov3'  m = momentum m + q d, p -= lr m: MoCo v3, SogCLR, Barlow Twins, VICReg.
  'simclr'  m = momentum m + lr q d, p -= m: google-research/simclr, `optax.lars`.
  'clipped' as 'mocov3' with q = min(tc |p| / (|g| + wd |p| + eps) / lr, 1) and the current lr;
            if a norm is 0, d = g without decay: solo-learn. 'unclipped': without the "/ lr, 1".
  Leaves outside `mask` get d = g, q = 1.

  Args:
    momentum: weight of the old velocity; 0.9 (all recipes of the methods).
    form: formula: 'mocov3', 'simclr', 'clipped' or 'unclipped'.
    trust_coefficient: factor of the ratio of norms; None = 0.001 (official code), 0.02 for
      (un)clipped (solo-learn).
    eps: in the denominator of the (un)clipped forms only (solo-learn).

  Example:
    >>> tx, params = lars(1.0, trust_coefficient=0.1), {'w': jnp.full([1, 1], 2.0)}
    >>> updates, _ = tx.update({'w': jnp.full([1, 1], 5.0)}, tx.init(params), params)
    >>> print(f"{updates['w'].item():.4f}")  # 0.1 of the weight, whatever the gradient
    -0.2000
  """
  rate = optax.scale_by_learning_rate(learning_rate, flip_sign=False)
  trace = optax.trace(momentum)
  official = form in ('mocov3', 'simclr')
  if trust_coefficient is None:
    trust_coefficient = 0.001 if official else 0.02
  if official:
    return optax.chain(
      optax.add_decayed_weights(weight_decay, mask),
      optax.masked(_scale_by_trust_ratio(trust_coefficient, joined), mask),
      *((trace, rate) if form == 'mocov3' else (rate, trace)),
      optax.scale(-1.0),
    )
  scale = _scale_by_solo_trust_ratio(
    learning_rate if form == 'clipped' else None,
    weight_decay,
    trust_coefficient=trust_coefficient,
    eps=eps,
    joined=joined,
  )
  return optax.chain(optax.masked(scale, mask), trace, rate, optax.scale(-1.0))


def _scale_by_trust_ratio(trust_coefficient: float, joined: bool) -> optax.GradientTransformation:
  """u tc |p| / |u|, or u where a norm is 0: `optax.scale_by_trust_ratio`, each norm once."""

  def update(updates, state, params=None):
    def ratio(p_norm: Array, u_norm: Array) -> Array:
      some = (p_norm > 0) & (u_norm > 0)
      return jnp.where(some, trust_coefficient * p_norm / jnp.where(some, u_norm, 1), 1)

    leaves, tree = jax.tree.flatten(updates)
    ratios = map(ratio, *_norms_of_both(params, updates, joined))
    return tree.unflatten(
      [r.astype(u.dtype) * u for u, r in zip(leaves, ratios, strict=True)]
    ), state

  return optax.GradientTransformation(optax.scale_by_trust_ratio().init, update)


def _norms_of_both(
  params: PyTree, updates: PyTree, joined: bool
) -> tuple[list[Array], list[Array]]:
  """Norms of the leaves of both trees, interleaved so that a kernel reads each pair once."""
  pairs = zip(jax.tree.leaves(params), jax.tree.leaves(updates), strict=True)
  found = many_arrays.norms([leaf for pair in pairs for leaf in pair], joined=joined)
  return found[::2], found[1::2]


class _CountState(NamedTuple):
  count: ArrayLike


def _scale_by_solo_trust_ratio(
  clip_at: Value | None, decay: Value, *, trust_coefficient: float, eps: float, joined: bool
) -> optax.GradientTransformation:
  """r (g + decay p) of solo-learn's LARS; r becomes min(r / clip_at, 1) unless clip_at is None."""

  def init(params):
    del params
    return _CountState(jnp.zeros([], jnp.int32))

  def update(updates, state, params=None):
    limit = clip_at(state.count) if callable(clip_at) else clip_at
    wd = decay(state.count) if callable(decay) else decay

    def scale(g, p, g_norm, p_norm):
      ratio = trust_coefficient * p_norm / (g_norm + wd * p_norm + eps)
      if limit is not None:
        ratio = jnp.where(ratio < limit, ratio / limit, 1.0)  # also right while lr is still 0
      scaled = ratio * (g + wd * p)
      return jnp.where((p_norm > 0) & (g_norm > 0), scaled, g).astype(g.dtype)

    p_norms, g_norms = _norms_of_both(params, updates, joined)
    leaves, tree = jax.tree.flatten(updates)
    scaled = map(scale, leaves, jax.tree.leaves(params), g_norms, p_norms)
    return tree.unflatten(scaled), _CountState(optax.safe_increment(state.count))

  return optax.GradientTransformation(init, update)
