"""Projected gradient descent at a fixed budget: the usual form and the robustness project's."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, Literal

import jax
import jax.numpy as jnp

from clr_jax.core.errors import UserError
from clr_jax.core.names import check_name
from clr_jax.core.types import Array, PyTree
from clr_jax.evaluation.attacks.base import (
  Apply,
  Attacked,
  Classifier,
  as_arrays,
  check_budget,
  closest,
  image_keys,
  last,
  logits_of,
  verdict,
)
from clr_jax.evaluation.attacks.losses import LOSSES, image_loss
from clr_jax.evaluation.attacks.norms import distance, project, spread, steepest

PROTOCOLS = {'standard': 2.5, 'early_stop': 2.0}  # step size in units of epsilon / steps


def pgd(
  classifier: Classifier,
  images: Any,
  labels: Any,
  *,
  norm: Literal['l2', 'linf'],
  epsilon: float,
  steps: int = 20,
  step_size: float | None = None,
  random_start: bool = False,
  restarts: int = 1,
  loss: Literal['cross_entropy', 'margin'] = 'cross_entropy',
  targets: Any = None,
  protocol: Literal['standard', 'early_stop'] = 'standard',
  start: Any = None,
  key: Array | None = None,
) -> Attacked:
  """Projected gradient ascent on each image's loss within a ball around it and the box [0, 1].

  'standard' (Madry et al., "Towards deep learning models resistant to adversarial attacks", 2018)
  takes all steps and looks at the last point: a larger budget is another call. 'early_stop' (the
  robustness project, there in l2 from the image itself) moves an image only while it is correctly
  classified, so that the distance says how soon it fell, on a grid of about `step_size`.

  Args:
    images: [B, H, W, C] floats in [0, 1].
    labels: [B] integers.
    norm, epsilon: of the ball; pixel units of [0, 1].
    steps: 20, as Madry's evaluation on CIFAR-10 and the project.
    step_size: default 2.5 epsilon / steps (Madry), or 2 epsilon / steps for 'early_stop'.
    random_start: 'linf' uniform in the ball, 'l2' uniform in the ball.
    restarts: runs from different random starts; the closest misclassified point counts.
    loss: 'cross_entropy', or 'margin', the largest other probability minus the label's.
    targets: [B] classes to move towards instead of away from the label; success remains
      misclassification.
    start: [B, H, W, C] first perturbation, in place of a random one.
    key: for random starts: one, or one for each image.

  Raises:
    UserError: no positive budget, no step, an unknown norm, loss or protocol, restarts without
      random starts.
  """
  images, labels = as_arrays(images, labels)
  check_budget(norm, epsilon, steps)
  if restarts < 1 or (restarts > 1 and not random_start):
    raise UserError(
      f'restarts={restarts} with random_start={random_start}: give at least 1, and random starts '
      'for more'
    )
  if random_start and start is not None:
    raise UserError('start and random_start exclude each other; give one of them')
  keys = image_keys(key, len(images)) if random_start else None
  best = None
  for restart in range(restarts):
    if keys is not None:
      start = random_delta(keys, restart, images, epsilon, norm)
    run = pgd_steps(
      classifier,
      images,
      labels,
      norm=norm,
      epsilon=epsilon,
      steps=steps,
      step_size=step_size,
      loss=loss,
      targets=targets,
      protocol=protocol,
      start=start,
    )
    result = verdict(*classifier, last(run), images, labels, norm)
    best = result if best is None else closest(best, result)
  assert best is not None
  return best


def pgd_steps(
  classifier: Classifier,
  images: Any,
  labels: Any,
  *,
  norm: str,
  epsilon: float,
  steps: int,
  step_size: float | None = None,
  loss: str = 'cross_entropy',
  targets: Any = None,
  protocol: str = 'standard',
  start: Any = None,
) -> Iterator[Array]:
  """The 1 + steps points [B, H, W, C] of one run of `pgd`, the start first. Arguments as there."""
  images, labels = as_arrays(images, labels)
  check_budget(norm, epsilon, steps)
  check_name(LOSSES, loss, 'attack loss')
  check_name(PROTOCOLS, protocol, 'PGD protocol')
  if step_size is None:
    step_size = PROTOCOLS[protocol] * epsilon / steps
  goal, sign = (labels, 1.0) if targets is None else (as_arrays(images, targets)[1], -1.0)

  def run() -> Iterator[Array]:
    point = images if start is None else jnp.clip(images + jnp.asarray(start, images.dtype), 0, 1)
    yield point
    for _ in range(steps):
      point = _step(
        *classifier, point, images, labels, goal, sign, epsilon, step_size, norm, loss, protocol
      )
      yield point

  return run()


@functools.partial(jax.jit, static_argnames=('apply', 'norm', 'loss', 'protocol'))
def _step(
  apply: Apply,
  params: PyTree,
  point: Array,
  images: Array,
  labels: Array,
  goal: Array,
  sign: Any,
  epsilon: Any,
  step_size: Any,
  norm: str,
  loss: str,
  protocol: str,
) -> Array:
  def total(point: Array) -> tuple[Array, Array]:
    logits = logits_of(apply, params, point)
    return jnp.sum(image_loss(loss, logits, goal)), jnp.argmax(logits, axis=1)

  gradient, predicted = jax.grad(total, has_aux=True)(point)
  moved = point + sign * step_size * steepest(gradient, norm)
  if protocol == 'standard':  # to the ball, then to the box
    return jnp.clip(images + project(moved - images, norm, epsilon), 0, 1)
  moved = images + project(jnp.clip(moved, 0, 1) - images, norm, epsilon)
  return jnp.where(spread(predicted == labels, point), moved, point)


@functools.partial(jax.jit, static_argnames='norm')
def random_delta(keys: Array, run: Any, images: Array, epsilon: Any, norm: str) -> Array:
  """[B, ...] uniform in the ball 'linf' or 'l2' of radius epsilon, from [B] keys."""

  def one(key: Array, image: Array) -> Array:
    direction_key, radius_key = jax.random.split(jax.random.fold_in(key, run))
    if norm == 'linf':
      return jax.random.uniform(direction_key, image.shape, image.dtype, -1, 1)
    direction = jax.random.normal(direction_key, image.shape, image.dtype)
    radius = jax.random.uniform(radius_key, (), image.dtype) ** (1 / image.size)
    return direction * (radius / distance(direction[None], 'l2')[0])

  return epsilon * jax.vmap(one)(keys, images)
