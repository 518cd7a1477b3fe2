"""Projected gradient descent at a fixed budget, in the usual form and the robustness project's."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, Literal

import jax
import jax.numpy as jnp

from clr_jax.core.bounds import Iterations, Positive, Repeats
from clr_jax.core.errors import UserError
from clr_jax.core.options import checked, takes_options_of
from clr_jax.core.programs import host_jit
from clr_jax.core.types import Array
from clr_jax.evaluation.attacks.base import (
  AttackResult,
  Problem,
  as_arrays,
  closest,
  evaluate_candidates,
  image_keys,
  last,
  logits_of,
)
from clr_jax.evaluation.attacks.losses import Loss, image_loss
from clr_jax.evaluation.attacks.norms import distance, expand_like, project, steepest

_STEP = {'standard': 2.5, 'early_stop': 2.0}  # step size in units of epsilon / steps


@checked
def pgd_steps(
  problem: Problem,
  *,
  steps: Iterations = 20,
  step_size: Positive | None = None,
  loss: Loss = 'cross_entropy',
  targets: Any = None,
  protocol: Literal['standard', 'early_stop'] = 'standard',
  start: Any = None,
) -> Iterator[Array]:
  """Yields the 1 + steps points [B, H, W, C] of one run of `pgd`, starting with the first.

  Args:
    problem: problem with a budget in 'l2' or 'linf'.
    steps: number of steps; 20 in Madry's evaluation on CIFAR-10 and in the robustness project.
    step_size: default 2.5 epsilon / steps (Madry), or 2 epsilon / steps for 'early_stop'.
    loss: 'cross_entropy', or 'margin', the largest other probability minus the label's.
    targets: [B] classes to move towards instead of away from the label; success still means
      misclassification.
    protocol: see `pgd`.
    start: [B, H, W, C] first perturbation; None = the image itself.

  Raises:
    UserError: no budget, other norms, targets that do not fit.
  """
  problem.check_budget()
  images, labels = problem.images, problem.labels
  if step_size is None:
    step_size = _STEP[protocol] * problem.epsilon / steps
  goal, sign = (labels, 1.0) if targets is None else (as_arrays(images, targets)[1], -1.0)
  point = images if start is None else jnp.clip(images + jnp.asarray(start, images.dtype), 0, 1)
  yield point
  for _ in range(steps):
    point = _step(problem, point, goal, sign, step_size, loss, protocol)
    yield point


@checked
@takes_options_of(pgd_steps)
def pgd(
  problem: Problem,
  *,
  random_start: bool = False,
  restarts: Repeats = 1,
  key: Any = None,
  **options: Any,
) -> AttackResult:
  """Raises each image's loss by projected gradient ascent in a ball around it and the box [0, 1].

  'standard' (Madry et al., "Towards deep learning models resistant to adversarial attacks", 2018)
  takes all steps and evaluates the last point: a larger budget is another call. 'early_stop' (the
  robustness project, in l2 from the image itself) moves an image only while it is correctly
  classified, so that the distance shows when it was fooled, on a grid of about `step_size`.

  Args:
    problem: problem with a budget in 'l2' or 'linf'.
    random_start: True starts uniformly in the ball.
    restarts: number of runs from different random starts; the closest misclassified point counts.
    key: random key of the starts, or one per image.
    options: steps, step_size, loss, targets, protocol and start, see `pgd_steps`.

  Raises:
    UserError: see `pgd_steps`; restarts without random starts, or two kinds of start.
  """
  if restarts > 1 and not random_start:
    raise UserError(f'restarts={restarts} with random_start=False: set random_start=True, too')
  if random_start and options.get('start') is not None:
    raise UserError('start and random_start exclude each other; give one of them')
  keys = image_keys(key, len(problem.images)) if random_start else None

  def run(restart: int) -> AttackResult:
    if keys is not None:
      options['start'] = random_delta(keys, restart, problem.images, problem.epsilon, problem.norm)
    return evaluate_candidates(problem, last(pgd_steps(problem, **options)))

  return functools.reduce(closest, map(run, range(restarts)))


@functools.partial(host_jit, static_argnames=('loss', 'protocol'))
def _step(
  problem: Problem,
  point: Array,
  goal: Array,
  sign: Any,
  step_size: Any,
  loss: Loss,
  protocol: str,
) -> Array:
  images, norm = problem.images, problem.norm

  def total(point: Array) -> tuple[Array, Array]:
    logits = logits_of(problem.classifier, point)
    return jnp.sum(image_loss(loss, logits, goal)), jnp.argmax(logits, axis=1)

  gradient, predicted = jax.grad(total, has_aux=True)(point)
  moved = point + sign * step_size * steepest(gradient, norm)
  if protocol == 'standard':  # to the ball, then to the box
    return jnp.clip(images + project(moved - images, norm, problem.epsilon), 0, 1)
  moved = images + project(jnp.clip(moved, 0, 1) - images, norm, problem.epsilon)
  return jnp.where(expand_like(predicted == problem.labels, point), moved, point)


@functools.partial(host_jit, static_argnames='norm')
def random_delta(keys: Array, run: Any, images: Array, epsilon: Any, norm: str) -> Array:
  """Uniform draws [B, ...] in the ball 'linf' or 'l2' of radius epsilon, from [B] keys."""

  def one(key: Array, image: Array) -> Array:
    direction_key, radius_key = jax.random.split(jax.random.fold_in(key, run))
    if norm == 'linf':
      return jax.random.uniform(direction_key, image.shape, image.dtype, -1, 1)
    direction = jax.random.normal(direction_key, image.shape, image.dtype)
    radius = jax.random.uniform(radius_key, (), image.dtype) ** (1 / image.size)
    return direction * (radius / distance(direction[None], 'l2')[0])

  return epsilon * jax.vmap(one)(keys, images)
