"""Multinomial logistic regression on cached features: full-batch L-BFGS and the report's SGD."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from clr_jax.ops.similarity import widen
from clr_jax.types import Array


class Head(NamedTuple):
  """A linear classifier, logits = h @ w + b; leading axes are the values of a sweep.

  Attributes:
    w: [..., F, C].
    b: [..., C].
  """

  w: Array
  b: Array


def fit_lbfgs(
  h: Any,
  label: Any,
  *,
  num_classes: int,
  l2: Any = 1.0,
  max_iter: int = 1000,
  tol: float = 1e-6,
) -> tuple[Head, dict[str, Array]]:
  """The minimum of 0.5 * l2 * ||w||^2 + sum of cross-entropies; the bias is not penalised.

  scikit-learn's objective with l2 = 1 / C (default C = 1), so features should be standardised.
  All features lie on the device at once, in float32 or wider.

  Args:
    h: [N, F].
    label: [N] integers in [0, num_classes).
    l2: the penalty, or [S] penalties that are solved side by side.
    tol: stops where the largest gradient of the objective / N is below it, or where rounding lets
      the objective fall no further.

  Returns:
    The head (leading axis S for a sweep) and {'loss': objective / N, 'iterations', 'gradient'}.
  """
  h, label = _as_arrays(h, label)
  return _lbfgs(h, label, jnp.asarray(l2, h.dtype), num_classes, max_iter, tol)


@functools.partial(jax.jit, static_argnums=(3,))
def _lbfgs(
  h: Array, label: Array, l2: Array, num_classes: int, max_iter: Any, tol: Any
) -> tuple[Head, dict[str, Array]]:
  optimizer = optax.lbfgs()

  def solve(l2: Array) -> tuple[Head, dict[str, Array]]:
    def objective(head: Head) -> Array:
      penalty = 0.5 * l2 * jnp.sum(head.w**2) / len(h)
      return jnp.mean(_cross_entropy(head, h, label)) + penalty

    value_and_grad = optax.value_and_grad_from_state(objective)

    def unfinished(carry: Any) -> Array:
      _, _, step, loss, before, gradient = carry
      # One rounding of the loss: below that the line search only chases noise.
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

    head = Head(jnp.zeros((h.shape[1], num_classes), h.dtype), jnp.zeros((num_classes,), h.dtype))
    far = jnp.asarray(jnp.inf, h.dtype)
    head, _, steps, loss, _, gradient = jax.lax.while_loop(
      unfinished, iterate, (head, optimizer.init(head), jnp.int32(0), far, far, far)
    )
    return head, {'loss': loss, 'iterations': steps, 'gradient': gradient}

  return solve(l2) if l2.ndim == 0 else jax.vmap(solve)(l2)


def fit_sgd(
  h: Any,
  label: Any,
  *,
  num_classes: int,
  epochs: int = 90,
  batch_size: int = 1024,
  base_lr: Any = 0.1,
  momentum: float = 0.9,
  weight_decay: float = 0.0,
  seed: int = 0,
  watch: tuple[Any, Any] | None = None,
) -> tuple[Head, np.ndarray | None]:
  """Minibatch SGD, the linear evaluation of the SogCLR report ("lincls") on cached features.

  w ~ N(0, .01), b = 0; lr = base_lr * batch_size / 256, a cosine per epoch to 0 without warm-up;
  momentum as in PyTorch; the last batch of an epoch may be short. The report augments the training
  images (crop and flip), which cached features cannot. A batch larger than N becomes N, and the
  learning rate follows. Defaults: the report's (MoCo's main_lincls with SogCLR's lr).

  Args:
    h: [N, F].
    label: [N] integers in [0, num_classes).
    base_lr: the learning rate per 256 images, or [S] of them, trained side by side from the same
      initial weights on the same batches.
    weight_decay: adds weight_decay * (w, b) to the gradient.
    watch: (h, label) of the examples whose accuracy is taken after every epoch.

  Returns:
    The head after the last epoch (leading axis S for a sweep), and the accuracies of `watch`
    [..., epochs] in [0, 1], or None.
  """
  h, label = _as_arrays(h, label)
  size = min(batch_size, len(h))
  key, init_key = jax.random.split(jax.random.key(seed))
  peak = jnp.asarray(base_lr, h.dtype) * size / 256
  rates = jnp.atleast_1d(peak)
  w = 0.01 * jax.random.normal(init_key, (h.shape[1], num_classes), h.dtype)
  head = Head(
    jnp.broadcast_to(w, (len(rates), *w.shape)), jnp.zeros((len(rates), num_classes), h.dtype)
  )
  velocity = jax.tree.map(jnp.zeros_like, head)
  watched = None if watch is None else _as_arrays(*watch)
  curve = []
  for epoch in range(epochs):
    rate = rates * 0.5 * (1 + np.cos(np.pi * epoch / epochs))
    head, velocity = _sgd_epoch(
      h, label, head, velocity, rate, jax.random.fold_in(key, epoch), momentum, weight_decay, size
    )
    if watched is not None:
      curve.append(score(head, *watched)[0])
  if peak.ndim == 0:
    head = jax.tree.map(lambda x: x[0], head)
    curve = [point[0] for point in curve]
  return head, np.stack(curve, axis=-1) if curve else None


@functools.partial(jax.jit, static_argnums=(8,))
def _sgd_epoch(
  h: Array,
  label: Array,
  head: Head,
  velocity: Head,
  rate: Array,
  key: Array,
  momentum: float,
  weight_decay: float,
  size: int,
) -> tuple[Head, Head]:
  steps = -(-len(h) // size)
  order = jnp.pad(jax.random.permutation(key, len(h)), (0, steps * size - len(h)))
  real = jnp.arange(steps * size) < len(h)

  def train(head: Head, velocity: Head, rate: Array) -> tuple[Head, Head]:
    def step(carry: tuple[Head, Head], batch: tuple[Array, Array]) -> tuple[Any, None]:
      head, velocity = carry
      index, mask = batch

      def loss(head: Head) -> Array:
        return jnp.sum(_cross_entropy(head, h[index], label[index]) * mask) / jnp.sum(mask)

      velocity = jax.tree.map(
        lambda v, g, p: momentum * v + g + weight_decay * p, velocity, jax.grad(loss)(head), head
      )
      return (jax.tree.map(lambda p, v: p - rate * v, head, velocity), velocity), None

    batches = (order.reshape(steps, size), real.reshape(steps, size).astype(h.dtype))
    return jax.lax.scan(step, (head, velocity), batches)[0]

  return jax.vmap(train)(head, velocity, rate)


def score(head: Head, h: Any, label: Any) -> tuple[np.ndarray, np.ndarray]:
  """Top-1 accuracy in [0, 1] and mean cross-entropy on h [N, F], label [N].

  Both have the shape of the head's leading axes.
  """
  correct, loss = _score(head, *_as_arrays(h, label))
  return np.asarray(correct) / len(h), np.asarray(loss)


@jax.jit
def _score(head: Head, h: Array, label: Array) -> tuple[Array, Array]:
  def one(head: Head) -> tuple[Array, Array]:
    logits = _logits(head, h)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, label)
    return jnp.sum(jnp.argmax(logits, axis=1) == label), jnp.mean(loss)

  return one(head) if head.b.ndim == 1 else jax.lax.map(one, head)


def _cross_entropy(head: Head, h: Array, label: Array) -> Array:
  return optax.softmax_cross_entropy_with_integer_labels(_logits(head, h), label)


def _logits(head: Head, h: Array) -> Array:
  return jnp.matmul(h, head.w, precision='highest') + head.b[None, :]


def _as_arrays(h: Any, label: Any) -> tuple[Array, Array]:
  return widen(h), jnp.asarray(label, jnp.int32)
