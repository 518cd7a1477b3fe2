"""APGD: projected gradient ascent with momentum whose step size halves by itself."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

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
  fold,
  image_keys,
  last,
  logits_of,
  num_classes,
  verdict,
)
from clr_jax.evaluation.attacks.losses import cross_entropy, dlr
from clr_jax.evaluation.attacks.norms import distance, project, spread, steepest

LOSSES = {'cross_entropy': 2, 'dlr': 3}  # loss -> the fewest classes it is defined for
_RHO = 0.75  # share of the steps between two checkpoints that must raise the loss
_MOMENTUM = 0.75  # weight of the new step against the one before


class ApgdState(NamedTuple):
  """After one step: [B, ...] arrays and [B] vectors.

  Attributes:
    point, before: this and the point before it, in the ball and the box.
    gradient, loss: at `point`.
    best, best_gradient, best_loss: the point of the highest loss so far.
    step_size: of the next step.
    rises: steps since the last checkpoint that raised the loss.
    reduced: whether the step size was halved at the last checkpoint.
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
  found: Attacked


def apgd(
  classifier: Classifier,
  images: Any,
  labels: Any,
  *,
  norm: Literal['l2', 'linf'],
  epsilon: float,
  steps: int = 100,
  loss: Literal['cross_entropy', 'dlr'] = 'cross_entropy',
  targets: Any = None,
  restarts: int = 1,
  key: Array,
) -> Attacked:
  """Auto-PGD of Croce and Hein, "Reliable evaluation of adversarial robustness", ICML 2020.

  Unlike `pgd`, any misclassified point on the way counts. Constants (first step 2 epsilon,
  momentum .75, rho .75, checkpoints) and `steps` are those of the paper and its code.

  Args:
    images: [B, H, W, C] floats in [0, 1].
    labels: [B] integers.
    loss: 'cross_entropy', or 'dlr', the difference of logits ratio (3 classes or more).
    targets: [B] classes to move towards: 'dlr' becomes its targeted form (4 classes or more).
    restarts: runs from different random starts; the closest misclassified point counts.
    key: of the random starts: one, or one for each image.

  Raises:
    UserError: no positive budget, no step, an unknown norm or loss, too few classes.
  """
  keys = image_keys(key, len(images))
  if restarts < 1:
    raise UserError(f'restarts={restarts} is no attack; give at least 1')
  best = None
  for restart in range(restarts):
    run = apgd_steps(
      classifier,
      images,
      labels,
      norm=norm,
      epsilon=epsilon,
      steps=steps,
      loss=loss,
      targets=targets,
      key=fold(keys, restart),
    )
    found = last(run).found
    best = found if best is None else closest(best, found)
  assert best is not None
  return best


def apgd_targeted(
  classifier: Classifier,
  images: Any,
  labels: Any,
  *,
  norm: Literal['l2', 'linf'],
  epsilon: float,
  steps: int = 100,
  targets: int = 9,
  key: Array,
) -> Attacked:
  """`apgd` with the targeted DLR loss towards each of the likeliest wrong classes in turn.

  The first class that an image falls to counts, so that it does not matter with which images it
  shares a batch; stops when nothing stands. The other arguments and errors are those of `apgd`.

  Args:
    targets: how many classes, at most K - 1; 9 in AutoAttack.
  """
  images, labels = as_arrays(images, labels)
  if targets < 1:
    raise UserError(f'targets={targets} is no attack; give at least 1 class to move towards')
  logits = logits_of(*classifier, images)
  own = jnp.arange(logits.shape[1])[None] == labels[:, None]
  order = jnp.argsort(jnp.where(own, jnp.inf, -logits), axis=1)  # the label comes last
  keys = image_keys(key, len(images))
  best = None
  for rank in range(min(targets, logits.shape[1] - 1)):
    result = apgd(
      classifier,
      images,
      labels,
      norm=norm,
      epsilon=epsilon,
      steps=steps,
      loss='dlr',
      targets=order[:, rank],
      key=fold(keys, rank),
    )
    best = result if best is None else _first(best, result)
    if best.success.all():
      break
  if best is None:
    raise UserError('one class leaves nothing to attack; give a classifier of at least 4 classes')
  return best


@jax.jit
def _first(first: Attacked, second: Attacked) -> Attacked:
  """The second result where the first one failed."""
  wide = spread(first.success, first.images)
  return Attacked(
    jnp.where(wide, first.images, second.images),
    first.success | second.success,
    jnp.where(first.success, first.distance, second.distance),
  )


def checkpoints(steps: int) -> list[int]:
  """After how many steps the step size is reconsidered: .22 of all, then shorter and shorter."""
  length, shrink, least = (max(int(share * steps), 1) for share in (0.22, 0.03, 0.06))
  points, at = [], length
  while at <= steps:
    points.append(at)
    length = max(length - shrink, least)
    at += length
  return points


def apgd_steps(
  classifier: Classifier,
  images: Any,
  labels: Any,
  *,
  norm: str,
  epsilon: float,
  steps: int,
  loss: str,
  targets: Any = None,
  key: Array,
) -> Iterator[ApgdState]:
  """The 1 + steps states of one run of `apgd`, the start first. Arguments as there."""
  images, labels = as_arrays(images, labels)
  check_budget(norm, epsilon, steps)
  check_name(LOSSES, loss, 'APGD loss')
  classes = num_classes(classifier, images)
  if classes < (needed := LOSSES[loss] + (loss == 'dlr' and targets is not None)):
    raise UserError(f'the loss {loss!r} needs {needed} classes, not {classes}; use cross_entropy')
  goal, sign = (labels, 1.0) if targets is None else (as_arrays(images, targets)[1], -1.0)
  keys = image_keys(key, len(images))
  targeted = targets is not None

  def run() -> Iterator[ApgdState]:
    state = _begin(*classifier, keys, images, labels, goal, sign, epsilon, norm, loss, targeted)
    yield state
    checks, before = checkpoints(steps), 0
    for i in range(1, steps + 1):
      share = 1.0 if i == 1 else _MOMENTUM
      state = _ascend(
        *classifier, state, images, labels, goal, sign, epsilon, share, norm, loss, targeted
      )
      if i in checks:
        state, before = _reconsider(state, i - before), i
      yield state

  return run()


def _evaluate(
  apply: Apply,
  params: PyTree,
  point: Array,
  labels: Array,
  goal: Array,
  sign: Any,
  loss: str,
  targeted: bool,
) -> tuple[Array, Array, Array]:
  """Gradient [B, ...], loss [B] to be raised, and whether misclassified [B]."""

  def total(point: Array) -> tuple[Array, tuple[Array, Array]]:
    logits = logits_of(apply, params, point)
    wrong = jnp.argmax(logits, axis=1) != labels
    if loss == 'dlr':
      each = dlr(logits, labels, goal, targeted)
    else:
      each = sign * cross_entropy(logits, goal)
    return jnp.sum(each), (each, wrong)

  gradient, (each, wrong) = jax.grad(total, has_aux=True)(point)
  return gradient, each, wrong


_STATIC = ('apply', 'norm', 'loss', 'targeted')


@functools.partial(jax.jit, static_argnames=_STATIC)
def _begin(
  apply: Apply,
  params: PyTree,
  keys: Array,
  images: Array,
  labels: Array,
  goal: Array,
  sign: Any,
  epsilon: Any,
  norm: str,
  loss: str,
  targeted: bool,
) -> ApgdState:
  def direction(key: Array, image: Array) -> Array:
    if norm == 'linf':
      return jax.random.uniform(key, image.shape, image.dtype, -1, 1)
    return jax.random.normal(key, image.shape, image.dtype)

  noise = jax.vmap(direction)(keys, images)
  noise = noise / spread(distance(noise, norm), noise)  # on the sphere, as in the paper's code
  point = jnp.clip(images + epsilon * noise, 0, 1)
  gradient, loss_here, wrong = _evaluate(apply, params, point, labels, goal, sign, loss, targeted)
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
    reduced=jnp.ones(len(images), bool),  # so that the first checkpoint asks for rises only
    checked_loss=loss_here,
    found=_add(verdict(apply, params, images, images, labels, norm), point, wrong, images, norm),
  )


def _add(found: Attacked, point: Array, wrong: Array, images: Array, norm: str) -> Attacked:
  away = jnp.where(wrong, distance(point - images, norm), jnp.inf)
  return closest(found, Attacked(point, wrong, away))


@functools.partial(jax.jit, static_argnames=_STATIC)
def _ascend(
  apply: Apply,
  params: PyTree,
  state: ApgdState,
  images: Array,
  labels: Array,
  goal: Array,
  sign: Any,
  epsilon: Any,
  share: Any,
  norm: str,
  loss: str,
  targeted: bool,
) -> ApgdState:
  """A projected step, then `share` of it plus the rest of the step before, projected again."""

  def allowed(point: Array) -> Array:
    return jnp.clip(images + project(point - images, norm, epsilon), 0, 1)

  x = state.point
  moved = allowed(x + spread(state.step_size, x) * steepest(state.gradient, norm))
  moved = allowed(x + share * (moved - x) + (1 - share) * (x - state.before))
  gradient, here, wrong = _evaluate(apply, params, moved, labels, goal, sign, loss, targeted)
  better = here > state.best_loss
  wide = spread(better, x)
  return state._replace(
    point=moved,
    before=x,
    gradient=gradient,
    loss=here,
    best=jnp.where(wide, moved, state.best),
    best_gradient=jnp.where(wide, gradient, state.best_gradient),
    best_loss=jnp.where(better, here, state.best_loss),
    rises=state.rises + (here > state.loss),
    found=_add(state.found, moved, wrong, images, norm),
  )


@jax.jit
def _reconsider(state: ApgdState, length: Any) -> ApgdState:
  """Halves the step and returns to the best point where the last `length` steps did not help."""
  wandering = state.rises <= _RHO * length
  stuck = ~state.reduced & (state.checked_loss >= state.best_loss)
  halve = wandering | stuck
  wide = spread(halve, state.point)
  return state._replace(
    point=jnp.where(wide, state.best, state.point),
    gradient=jnp.where(wide, state.best_gradient, state.gradient),
    step_size=jnp.where(halve, state.step_size / 2, state.step_size),
    rises=jnp.zeros_like(state.rises),
    reduced=halve,
    checked_loss=state.best_loss,
  )
