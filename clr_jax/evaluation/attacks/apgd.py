"""APGD: projected gradient ascent with momentum and an adaptive step size."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from clr_jax.core.bounds import Count, Iterations, Repeats
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
  fold,
  image_keys,
  last,
  logits_of,
  num_classes,
)
from clr_jax.evaluation.attacks.losses import cross_entropy, dlr
from clr_jax.evaluation.attacks.norms import distance, expand_like, project, steepest

_FEWEST_CLASSES = {'cross_entropy': 2, 'dlr': 3}  # for which a loss is defined
_RHO = 0.75  # share of the steps between two checkpoints that must raise the loss
_MOMENTUM = 0.75  # weight of the new step against the previous one


class ApgdState(NamedTuple):
  """State after one step: [B, ...] arrays and [B] vectors.

  Attributes:
    point, before: this and the point before it, in the ball and the box.
    gradient, loss: at `point`.
    best, best_gradient, best_loss: the point of the highest loss so far.
    step_size: size of the next step.
    rises: number of steps since the last checkpoint that raised the loss.
    reduced: True if the step size was halved at the last checkpoint.
    checked_loss: best_loss at the last checkpoint.
    found: the closest misclassified point so far.
  """

  point: Array
  before: Array
  gradient: Array
  loss: Array
  best: Array
  best_gradient: Array
  best_loss: Array
  step_size: Array
  rises: Array
  reduced: Array
  checked_loss: Array
  found: AttackResult


class _Goal(NamedTuple):
  """Classes [B], and the sign with which their cross-entropy is raised."""

  labels: Array
  sign: Any


@checked
def apgd_steps(
  problem: Problem,
  key: Any,
  *,
  steps: Iterations = 100,
  loss: Literal['cross_entropy', 'dlr'] = 'cross_entropy',
  targets: Any = None,
) -> Iterator[ApgdState]:
  """Yields the 1 + steps states of one run of `apgd`, starting with the initial state."""
  problem.check_budget()
  targeted = targets is not None
  classes = num_classes(problem.classifier, problem.images)
  if classes < (needed := _FEWEST_CLASSES[loss] + (loss == 'dlr' and targeted)):
    raise UserError(f'the loss {loss!r} needs {needed} classes, not {classes}; use cross_entropy')
  goal = _Goal(problem.labels, 1.0)
  if targeted:
    goal = _Goal(as_arrays(problem.images, targets)[1], -1.0)
  state = _begin(problem, image_keys(key, len(problem.images)), goal, loss, targeted)
  yield state
  checks, before = checkpoints(steps), 0
  for i in range(1, steps + 1):
    state = _ascend(problem, state, goal, 1.0 if i == 1 else _MOMENTUM, loss, targeted)
    if i in checks:
      state, before = _adapt_step_size(state, i - before), i
    yield state


@checked
@takes_options_of(apgd_steps)
def apgd(problem: Problem, *, restarts: Repeats = 1, key: Any, **options: Any) -> AttackResult:
  """Auto-PGD (Croce and Hein, "Reliable evaluation of adversarial robustness", ICML 2020).

  Unlike `pgd`, any misclassified point on the way counts. Constants (first step 2 epsilon,
  momentum .75, rho .75, checkpoints) and `steps` are those of the paper and its code.

  Args:
    problem: problem with a budget in 'l2' or 'linf'.
    restarts: number of runs from different random starts; the closest misclassified point counts.
    key: random key of the starts, or one per image.
    options: steps; loss, 'cross_entropy' or 'dlr', the difference of logits ratio (3 classes or
      more); targets, [B] classes to move towards, with which 'dlr' becomes its targeted form (4
      classes or more).

  Raises:
    UserError: no budget, other norms, too few classes.
  """
  keys = image_keys(key, len(problem.images))
  runs = (apgd_steps(problem, fold(keys, restart), **options) for restart in range(restarts))
  return functools.reduce(closest, (last(run).found for run in runs))


@checked
def apgd_targeted(
  problem: Problem,
  *,
  steps: Iterations = 100,
  targets: Count = 9,
  key: Any,
) -> AttackResult:
  """Runs `apgd` with the targeted DLR loss towards each of the likeliest wrong classes in turn.

  The first successful class of an image counts, so that results do not depend on the other images
  in the batch; stops when all images are misclassified.

  Args:
    problem: problem with a budget in 'l2' or 'linf', for a classifier of at least 4 classes.
    steps: number of steps of each `apgd`.
    targets: number of classes, at most K - 1; 9 in AutoAttack.
    key: random key of the starts, or one per image.

  Raises:
    UserError: see `apgd`.
  """
  logits = logits_of(problem.classifier, problem.images)
  own = jnp.arange(logits.shape[1])[None] == problem.labels[:, None]
  order = jnp.argsort(jnp.where(own, jnp.inf, -logits), axis=1)  # the label comes last
  keys = image_keys(key, len(problem.images))
  best = None
  for rank in range(min(targets, logits.shape[1] - 1)):
    result = apgd(problem, steps=steps, loss='dlr', targets=order[:, rank], key=fold(keys, rank))
    best = result if best is None else _first(best, result)
    if best.success.all():
      break
  if best is None:
    raise UserError('one class leaves nothing to attack; give a classifier of at least 4 classes')
  return best


@host_jit
def _first(first: AttackResult, second: AttackResult) -> AttackResult:
  """Selects the second result where the first one failed."""
  wide = expand_like(first.success, first.images)
  return AttackResult(
    jnp.where(wide, first.images, second.images),
    first.success | second.success,
    jnp.where(first.success, first.distance, second.distance),
  )


def checkpoints(steps: int) -> list[int]:
  """Steps after which the step size is adapted: .22 of all, then ever shorter intervals."""
  length, shrink, least = (max(int(share * steps), 1) for share in (0.22, 0.03, 0.06))
  points, at = [], length
  while at <= steps:
    points.append(at)
    length = max(length - shrink, least)
    at += length
  return points


def _evaluate(
  problem: Problem, point: Array, goal: _Goal, loss: str, targeted: bool
) -> tuple[Array, Array, Array]:
  """Returns gradient [B, ...], loss [B] to be raised, and misclassification [B]."""

  def total(point: Array) -> tuple[Array, tuple[Array, Array]]:
    logits = logits_of(problem.classifier, point)
    wrong = jnp.argmax(logits, axis=1) != problem.labels
    if loss == 'dlr':
      each = dlr(logits, problem.labels, goal.labels, targeted)
    else:
      each = goal.sign * cross_entropy(logits, goal.labels)
    return jnp.sum(each), (each, wrong)

  gradient, (each, wrong) = jax.grad(total, has_aux=True)(point)
  return gradient, each, wrong


@functools.partial(host_jit, static_argnames=('loss', 'targeted'))
def _begin(problem: Problem, keys: Array, goal: _Goal, loss: str, targeted: bool) -> ApgdState:
  images, norm, epsilon = problem.images, problem.norm, problem.epsilon

  def direction(key: Array, image: Array) -> Array:
    if norm == 'linf':
      return jax.random.uniform(key, image.shape, image.dtype, -1, 1)
    return jax.random.normal(key, image.shape, image.dtype)

  noise = jax.vmap(direction)(keys, images)
  noise = noise / expand_like(distance(noise, norm), noise)  # on the sphere, as in the paper's code
  point = jnp.clip(images + epsilon * noise, 0, 1)
  gradient, loss_here, wrong = _evaluate(problem, point, goal, loss, targeted)
  return ApgdState(
    point=point,
    before=point,
    gradient=gradient,
    loss=loss_here,
    best=point,
    best_gradient=gradient,
    best_loss=loss_here,
    step_size=2.0 * epsilon * jnp.ones(len(images), images.dtype),
    rises=jnp.zeros(len(images), jnp.int32),
    reduced=jnp.ones(len(images), bool),  # so that the first checkpoint checks only rises
    checked_loss=loss_here,
    found=_add(problem, evaluate_candidates(problem, images), point, wrong),
  )


def _add(problem: Problem, found: AttackResult, point: Array, wrong: Array) -> AttackResult:
  away = jnp.where(wrong, distance(point - problem.images, problem.norm), jnp.inf)
  return closest(found, AttackResult(point, wrong, away))


@functools.partial(host_jit, static_argnames=('loss', 'targeted'))
def _ascend(
  problem: Problem, state: ApgdState, goal: _Goal, share: Any, loss: str, targeted: bool
) -> ApgdState:
  """Takes a projected step, mixes `share` of it with the previous step, and projects again."""
  images, norm = problem.images, problem.norm

  def allowed(point: Array) -> Array:
    return jnp.clip(images + project(point - images, norm, problem.epsilon), 0, 1)

  x = state.point
  moved = allowed(x + expand_like(state.step_size, x) * steepest(state.gradient, norm))
  moved = allowed(x + share * (moved - x) + (1 - share) * (x - state.before))
  gradient, here, wrong = _evaluate(problem, moved, goal, loss, targeted)
  better = here > state.best_loss
  wide = expand_like(better, x)
  return state._replace(
    point=moved,
    before=x,
    gradient=gradient,
    loss=here,
    best=jnp.where(wide, moved, state.best),
    best_gradient=jnp.where(wide, gradient, state.best_gradient),
    best_loss=jnp.where(better, here, state.best_loss),
    rises=state.rises + (here > state.loss),
    found=_add(problem, state.found, moved, wrong),
  )


@host_jit
def _adapt_step_size(state: ApgdState, length: Any) -> ApgdState:
  """Halves the step and returns to the best point if the last `length` steps did not help."""
  wandering = state.rises <= _RHO * length
  stuck = ~state.reduced & (state.checked_loss >= state.best_loss)
  halve = wandering | stuck
  wide = expand_like(halve, state.point)
  return state._replace(
    point=jnp.where(wide, state.best, state.point),
    gradient=jnp.where(wide, state.best_gradient, state.gradient),
    step_size=jnp.where(halve, state.step_size / 2, state.step_size),
    rises=jnp.zeros_like(state.rises),
    reduced=halve,
    checked_loss=state.best_loss,
  )
