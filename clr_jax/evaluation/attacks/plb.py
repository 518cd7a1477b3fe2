"""ProxLogBarrier: approaches the smallest adversarial perturbation from misclassified points."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from annotated_types import Gt, Lt

from clr_jax.core.bounds import Iterations, Positive
from clr_jax.core.options import checked, takes_options_of
from clr_jax.core.programs import host_jit
from clr_jax.core.types import Array
from clr_jax.evaluation.attacks.base import (
  AttackResult,
  Problem,
  correct,
  last,
  logits_of,
)
from clr_jax.evaluation.attacks.losses import margin
from clr_jax.evaluation.attacks.norms import distance, expand_like
from clr_jax.evaluation.attacks.prox import PROX
from clr_jax.evaluation.attacks.starts import gaussian_start

Barrier = Literal['logits', 'probs']


class PlbState(NamedTuple):
  """State after one inner step.

  Attributes:
    point: [B, ...] current points; misclassified, unless an image had no misclassified start.
    best: [B, ...] the closest such point so far; the image itself before there is one.
    best_distance: [B] its distance; +inf before there is one.
    backtracks: [B] int, number of times the step was shortened.
  """

  point: Array
  best: Array
  best_distance: Array
  backtracks: Array


@checked
def plb_steps(
  problem: Problem,
  start: Any,
  *,
  barrier: Barrier = 'logits',
  prox_weight: Positive = 1.0,
  dt: Positive = 0.1,
  alpha: Positive = 0.1,
  beta: Positive = 0.75,
  gamma: Annotated[float, Gt(0), Lt(1)] = 0.05,
  outer: Iterations = 30,
  inner: Iterations = 30,
  max_backtracks: Iterations = 30,
) -> Iterator[PlbState]:
  """Yields the state after each of the outer * inner steps of `plb`.

  Args:
    problem: problem with any norm; the budget is not used.
    start: [B, H, W, C] misclassified points (an image without one is returned as failed).
    barrier: 'logits' (paper) or 'probs' (robustness project), whose margin forms the barrier.
    prox_weight: 1 in the paper, where on small images the proximal map returns the image itself
      and all progress is made by backtracking; .05 to .1 descends along the boundary.
    dt: step size.
    alpha, beta: weight of the barrier in the first outer iteration, and its factor for each next.
    gamma: share of a step that remains after each backtrack.
    outer, inner: numbers of iterations; an inner one takes a gradient and at least one more forward
      pass.
    max_backtracks: number of backtracks after which the step is undone (.05^30 underflows).
  """
  state, active = _begin(problem, jnp.asarray(start, problem.images.dtype))
  for k in range(outer):
    movable = _movable(problem, state.point, active)
    for _ in range(inner):
      trial, infeasible = _move(
        problem, state.point, movable, alpha * beta**k, dt, prox_weight, barrier
      )
      backtracks = jnp.zeros_like(state.backtracks)
      while infeasible.any():
        trial, infeasible, backtracks = _backtrack(
          problem, trial, state.point, infeasible, backtracks, gamma, max_backtracks
        )
      state = _record(problem, state, trial, active, backtracks)
      yield state


@checked
@takes_options_of(plb_steps)
def plb(problem: Problem, *, start: Any = None, key: Any = None, **options: Any) -> AttackResult:
  """Finds the closest misclassified point on a path of proximal descent with a logarithmic barrier.

  Pooladian et al., "A principled approach for generating adversarial images under non-smooth
  dissimilarity metrics", AISTATS 2020; defaults are its code's. From a misclassified start each
  inner step descends on -alpha beta^k log(margin), k the outer iteration, then applies the proximal
  map of prox_weight * |point - image| and clips to the box; a step that ends correctly classified
  moves back towards the previous point until it is misclassified. The start is not a candidate.

  Args:
    problem: any norm; 'linf_source' is 'linf' with the proximal map of the published code.
    start: see `plb_steps`; default `gaussian_start` with `key`, which may fall back on images of
      this batch.
    key: random key of the start, or one per image.
    options: options of `plb_steps`.

  Raises:
    UserError: options out of range, or neither start nor key.
  """
  if start is None:
    start = gaussian_start(problem, key=key)
  state = last(plb_steps(problem, start, **options))
  return AttackResult(state.best, jnp.isfinite(state.best_distance), state.best_distance)


def _distance(problem: Problem, point: Array) -> Array:
  return distance(point - problem.images, problem.norm.removesuffix('_source'))


@host_jit
def _begin(problem: Problem, start: Array) -> tuple[PlbState, Array]:
  """Initial state, and the images [B] to attack."""
  images, labels = problem.images, problem.labels
  right = correct(problem.classifier, images, labels)
  active = right & ~correct(problem.classifier, start, labels)
  point = jnp.where(expand_like(active, images), start, images)
  best_distance = jnp.where(right, jnp.inf, jnp.zeros(len(images), images.dtype))
  return PlbState(point, images, best_distance, jnp.zeros(len(images), jnp.int32)), active


@host_jit
def _movable(problem: Problem, point: Array, active: Array) -> Array:
  return active & (_distance(problem, point) > 0)


@functools.partial(host_jit, static_argnames='barrier')
def _move(
  problem: Problem,
  point: Array,
  movable: Array,
  alpha: Any,
  dt: Any,
  prox_weight: Any,
  barrier: Barrier,
) -> tuple[Array, Array]:
  """Points after a gradient and a proximal step, and images that are infeasible there."""

  def log_barrier(point: Array) -> Array:
    scores = logits_of(problem.classifier, point)
    if barrier == 'probs':
      scores = jax.nn.softmax(scores)
    room = margin(scores, problem.labels)
    # Below the floor rounding determines the margin: use no gradient rather than an infinite one.
    floor = jnp.finfo(room.dtype).tiny ** 0.5
    return -alpha * jnp.sum(jnp.log(jnp.maximum(room, floor)))

  u = point - dt * jax.grad(log_barrier)(point)
  moved = jnp.clip(PROX[problem.norm](u, problem.images, prox_weight), 0, 1)
  point = jnp.where(expand_like(movable, point), moved, point)
  return point, movable & correct(problem.classifier, point, problem.labels)


@host_jit
def _backtrack(
  problem: Problem,
  trial: Array,
  before: Array,
  infeasible: Array,
  backtracks: Array,
  gamma: Any,
  max_backtracks: Any,
) -> tuple[Array, Array, Array]:
  backtracks = backtracks + infeasible
  share = jnp.where(backtracks < max_backtracks, gamma, 0.0).astype(trial.dtype)
  nearer = before + expand_like(share, trial) * (trial - before)
  trial = jnp.where(expand_like(infeasible, trial), nearer, trial)
  # `before` is misclassified by induction, so it is not evaluated again where a step is undone.
  infeasible = infeasible & correct(problem.classifier, trial, problem.labels) & (share > 0)
  return trial, infeasible, backtracks


@host_jit
def _record(
  problem: Problem, state: PlbState, point: Array, active: Array, backtracks: Array
) -> PlbState:
  away = _distance(problem, point)
  better = active & (away <= state.best_distance)
  return PlbState(
    point,
    jnp.where(expand_like(better, point), point, state.best),
    jnp.where(better, away, state.best_distance),
    backtracks,
  )
