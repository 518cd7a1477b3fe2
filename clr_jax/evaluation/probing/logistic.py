"""Multinomial logistic regression on cached features: full-batch L-BFGS and minibatch SGD."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from annotated_types import MinLen

from clr_jax.core.bounds import (
  BelowOne,
  Count,
  EpochCount,
  Epsilon,
  Iterations,
  Milestones,
  NonNegative,
  RateFactor,
)
from clr_jax.core.options import OnlyWith, checked
from clr_jax.core.programs import host_jit
from clr_jax.core.types import Array
from clr_jax.evaluation.probing import placement
from clr_jax.ops.similarity import at_least_float32

Candidates = NonNegative | Annotated[Sequence[NonNegative], MinLen(1)]
"""One value, or several that are fitted together."""


class Head(NamedTuple):
  """A linear classifier, logits = h @ w + b; leading axes are the values of a sweep.

  Attributes:
    w: [..., F, C].
    b: [..., C].
  """

  w: Array
  b: Array


@checked
def fit_lbfgs(
  h: Any,
  label: Any,
  num_classes: int,
  *,
  l2: Candidates = 1.0,
  max_iter: Iterations = 1000,
  tol: Epsilon = 1e-6,
) -> tuple[Head, dict[str, Array]]:
  """Minimizes 0.5 * l2 * ||w||^2 + sum of cross-entropies; the bias is not penalized.

  This is scikit-learn's objective with l2 = 1 / C (default C = 1), so features should be
  standardized. With two classes scikit-learn has one row of weights where this has two: predictions
  are equal for its C = 2 / l2.
  Features are in float32 or wider, and split over the devices if there are many (`placement`).

  Args:
    h: [N, F].
    label: [N] integers in [0, num_classes).
    l2: L2 penalty, or [S] penalties that are solved together.
    max_iter: largest number of iterations.
    tol: tolerance: stops when the largest gradient of the objective / N is below it, or when
      rounding prevents further progress.

  Returns:
    The head (leading axis S for a sweep) and {'loss': objective / N, 'iterations', 'gradient'}.
  """
  num = len(h)
  h, label = placement.in_blocks(h, label, num_classes, heads=np.size(l2))
  fitted = lbfgs(h, label, jnp.asarray(l2, h.dtype), num_classes, num, max_iter, tol)
  return placement.on_one_device(fitted)


@functools.partial(host_jit, static_argnums=(3, 4))
def lbfgs(
  h: Array, label: Array, l2: Array, num_classes: int, num: int, max_iter: Any, tol: Any
) -> tuple[Head, dict[str, Array]]:
  """Program of `fit_lbfgs` for `num` examples in the form of `placement.in_blocks`."""
  optimizer = optax.lbfgs()

  def solve(l2: Array) -> tuple[Head, dict[str, Array]]:
    def objective(head: Head) -> Array:
      penalty = 0.5 * l2 * jnp.sum(head.w**2) / num
      return _mean_cross_entropy(head, h, label, num) + penalty

    value_and_grad = optax.value_and_grad_from_state(objective)

    def unfinished(carry: Any) -> Array:
      _, _, step, loss, before, gradient = carry
      # Relative rounding error of the loss; below it the line search would follow noise.
      falling = before - loss > jnp.finfo(h.dtype).eps * jnp.maximum(loss, 1e-3)
      return (step == 0) | ((step < max_iter) & (gradient > tol) & falling)

    def iterate(carry: Any) -> Any:
      head, state, step, *_ = carry
      value, grad = value_and_grad(head, state=state)
      updates, state = optimizer.update(
        grad, state, head, value=value, grad=grad, value_fn=objective
      )
      head = optax.apply_updates(head, updates)
      loss = optax.tree.get(state, 'value')
      gradient = jnp.max(
        jnp.abs(jnp.concatenate([g.ravel() for g in optax.tree.get(state, 'grad')]))
      )
      return head, state, step + 1, loss, value, gradient

    head = Head(jnp.zeros((h.shape[2], num_classes), h.dtype), jnp.zeros((num_classes,), h.dtype))
    far = jnp.asarray(jnp.inf, h.dtype)
    head, _, steps, loss, _, gradient = jax.lax.while_loop(
      unfinished, iterate, (head, optimizer.init(head), jnp.int32(0), far, far, far)
    )
    return head, {'loss': loss, 'iterations': steps, 'gradient': gradient}

  return solve(l2) if l2.ndim == 0 else jax.vmap(solve)(l2)


@checked
def fit_sgd(
  h: Any,
  label: Any,
  num_classes: int,
  seed: int = 0,
  watch: Sequence[tuple[Any, Any]] = (),
  *,
  epochs: EpochCount = 90,
  batch_size: Count = 1024,
  base_lr: Candidates = 0.1,
  scaling: Literal['linear', 'none'] = 'linear',
  schedule: Literal['cosine', 'tcl', 'step', 'constant'] = 'cosine',
  milestones: Annotated[Milestones, OnlyWith(schedule='step')] = (),
  factor: Annotated[RateFactor, OnlyWith(schedule='step')] = 0.1,
  momentum: BelowOne = 0.9,
  nesterov: bool = False,
  weight_decay: Candidates = 0.0,
  init: Literal['normal', 'zero'] = 'normal',
) -> tuple[Head, list[np.ndarray]]:
  """Minibatch SGD, by default the linear evaluation of the SogCLR report ("lincls").

  w ~ N(0, .01) or 0, b = 0; the learning rate changes per epoch, without warm-up; the last batch of
  an epoch may be short; a batch larger than N becomes N, and a scaled learning rate follows. The
  defaults are the report's (MoCo's main_lincls with SogCLR's lr).

  Args:
    h: [N, F], or [K, N, F]: features of K augmented copies of the images, of which epoch e uses
      copy e modulo K; one copy is on the devices at a time, split over them if it is large.
    label: [N] integers in [0, num_classes).
    seed: RNG seed of the initial weights and the order of the examples.
    watch: sets (h, label) of examples to test after every epoch.
    epochs: number of passes over the labels.
    batch_size: labeled images per step; at most N.
    base_lr: learning rate, or [S] rates, trained together from the same initial weights on the same
      batches.
    scaling: 'linear', base_lr is for 256 images and multiplied by batch_size / 256; 'none', as is.
    schedule: 'cosine' to 0; 'tcl', a cosine one epoch late, to a thousandth (TCL's code); 'step',
      multiplied by `factor` after each of the `milestones` (epochs); 'constant'.
    milestones: epochs after which the rate is multiplied by factor, with schedule='step'.
    factor: multiplier of the rate at each of the milestones.
    momentum: weight of the old velocity.
    nesterov: use g + momentum * velocity (PyTorch's form).
    weight_decay: coefficient of (w, b) added to the gradient; or [S], one per base_lr.
    init: initial weights: 'normal', with standard deviation 0.01 (MoCo's main_lincls), or 'zero'
      (google-research/simclr).

  Returns:
    The head after the last epoch (leading axis S for a sweep), and for each set of `watch` the
    accuracies [..., epochs] in [0, 1].
  """
  copies = h if np.ndim(h) == 3 else [h]
  rows, label = placement.by_rows(copies[0], num_classes), jnp.asarray(label, jnp.int32)
  size = min(batch_size, len(label))
  key, init_key = jax.random.split(jax.random.key(seed))
  rates, decays = (np.asarray(x) for x in np.broadcast_arrays(base_lr, weight_decay))
  single = rates.ndim == 0
  peaks = jnp.asarray(np.atleast_1d(rates) * (size / 256 if scaling == 'linear' else 1), rows.dtype)
  decays = jnp.asarray(np.atleast_1d(decays), rows.dtype)
  head = _initial_heads(init_key, len(peaks), (rows.shape[1], num_classes), rows.dtype)
  if init == 'zero':
    head = jax.tree.map(jnp.zeros_like, head)
  state = sgd_state(head, momentum, nesterov)
  watched = [_as_arrays(*examples) for examples in watch]
  curves = [[] for _ in watched]
  for epoch in range(epochs):
    if len(copies) > 1:
      rows = placement.by_rows(copies[epoch % len(copies)], num_classes)
    rate = peaks * _scale(schedule, epoch, epochs, milestones, factor)
    key_now = jax.random.fold_in(key, epoch)
    head, state = sgd_epoch(
      rows, label, head, state, rate, decays, key_now, momentum, nesterov, size
    )
    for curve, examples in zip(curves, watched, strict=True):
      curve.append(score(head, *examples)[0])
  head = placement.on_one_device(head)
  if single:
    head = jax.tree.map(lambda x: x[0], head)
    curves = [[point[0] for point in curve] for curve in curves]
  return head, [np.stack(curve, axis=-1) for curve in curves]


def _initial_heads(key: Array, num: int, shape: tuple[int, int], dtype: Any) -> Head:
  """Makes `num` equal heads on a leading axis."""
  w = 0.01 * jax.random.normal(key, shape, dtype)
  return Head(jnp.broadcast_to(w, (num, *shape)), jnp.zeros((num, shape[1]), dtype))


def _scale(
  schedule: str, epoch: int, epochs: int, milestones: Sequence[float], factor: float
) -> float:
  """Factor of the learning rate in an epoch."""
  if schedule == 'cosine':
    return 0.5 * (1 + math.cos(math.pi * epoch / epochs))
  if schedule == 'tcl':
    return 1e-3 + (1 - 1e-3) * 0.5 * (1 + math.cos(math.pi * max(epoch - 1, 0) / epochs))
  if schedule == 'step':
    return factor ** sum(epoch >= milestone for milestone in milestones)
  return 1.0


def sgd_state(head: Head, momentum: float, nesterov: bool) -> optax.OptState:
  """State of SGD before the first epoch."""
  return _sgd(0.0, 0.0, momentum, nesterov).init(head)


def _sgd(rate: Any, decay: Any, momentum: Any, nesterov: bool) -> optax.GradientTransformation:
  return optax.chain(optax.add_decayed_weights(decay), optax.sgd(rate, momentum, nesterov))


@functools.partial(host_jit, static_argnums=(8, 9))
def sgd_epoch(
  h: Array,
  label: Array,
  head: Head,
  state: optax.OptState,
  rate: Array,
  decay: Array,
  key: Array,
  momentum: float,
  nesterov: bool,
  size: int,
) -> tuple[Head, optax.OptState]:
  """Program of one epoch of `fit_sgd` for heads on a leading axis, with minibatches of `size`."""
  num = len(label)  # h may have more rows, which fill it up
  steps = -(-num // size)
  order = jnp.pad(jax.random.permutation(key, num), (0, steps * size - num))
  real = jnp.arange(steps * size) < num

  def train(head: Head, state: Any, rate: Array, decay: Array) -> tuple[Head, Any]:
    optimizer = _sgd(rate, decay, momentum, nesterov)

    def step(carry: tuple[Head, Any], batch: tuple[Array, Array]) -> tuple[Any, None]:
      head, state = carry
      index, mask = batch

      def loss(head: Head) -> Array:
        return jnp.sum(_cross_entropy(head, h[index], label[index]) * mask) / jnp.sum(mask)

      updates, state = optimizer.update(jax.grad(loss)(head), state, head)
      return (optax.apply_updates(head, updates), state), None

    batches = (order.reshape(steps, size), real.reshape(steps, size).astype(h.dtype))
    return jax.lax.scan(step, (head, state), batches)[0]

  return jax.vmap(train)(head, state, rate, decay)


def score(head: Head, h: Any, label: Any) -> tuple[np.ndarray, np.ndarray]:
  """Top-1 accuracy in [0, 1] and mean cross-entropy on h [N, F], label [N].

  Both have the shape of the head's leading axes.
  """
  correct, loss = count_correct(head, *_as_arrays(h, label))
  return np.asarray(correct) / len(h), np.asarray(loss)


@host_jit
def count_correct(head: Head, h: Array, label: Array) -> tuple[Array, Array]:
  """Program of `score`: how many predictions are right, and the mean cross-entropy."""

  def one(head: Head) -> tuple[Array, Array]:
    logits = _logits(head, h)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, label)
    return jnp.sum(jnp.argmax(logits, axis=1) == label), jnp.mean(loss)

  return one(head) if head.b.ndim == 1 else jax.lax.map(one, head)


def _cross_entropy(head: Head, h: Array, label: Array) -> Array:
  return optax.softmax_cross_entropy_with_integer_labels(_logits(head, h), label)


def _mean_cross_entropy(head: Head, h: Array, label: Array, num: int) -> Array:
  """Mean over the `num` examples of h [K, R, F] with labels [K, R], block after block."""
  if label.size == num and len(h) == 1:
    return jnp.mean(_cross_entropy(head, h[0], label[0]))

  @functools.partial(jax.checkpoint, prevent_cse=False)  # keeps the logits of one block only
  def add(total: Array, block: tuple[Array, Array]) -> tuple[Array, None]:
    rows, classes = block
    return total + jnp.sum(_cross_entropy(head, rows, classes), where=classes >= 0), None

  total, _ = jax.lax.scan(add, jnp.zeros((), h.dtype), (h, label))
  return total / num


def _logits(head: Head, h: Array) -> Array:
  return jnp.matmul(h, head.w, precision='highest') + head.b[None, :]


def _as_arrays(h: Any, label: Any) -> tuple[Array, Array]:
  return at_least_float32(h), jnp.asarray(label, jnp.int32)
