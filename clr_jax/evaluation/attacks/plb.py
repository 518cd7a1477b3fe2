"""ProxLogBarrier: the smallest perturbation that is misclassified, approached from outside."""

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
  correct,
  last,
  logits_of,
)
from clr_jax.evaluation.attacks.losses import margin
from clr_jax.evaluation.attacks.norms import distance, spread
from clr_jax.evaluation.attacks.prox import PROX
from clr_jax.evaluation.attacks.starts import gaussian_start

BARRIERS = ('logits', 'probs')


class PlbState(NamedTuple):
  """After one inner step.

  Attributes:
    point: [B, ...] where each image is; misclassified, unless it had no misclassified start.
    best: [B, ...] the closest such point so far; the image itself before there is one.
    best_distance: [B] its distance; +inf before there is one.
    backtracks: [B] int, how often the step was shortened.
  """

  point: Array
  best: Array
  best_distance: Array
  backtracks: Array


def plb(
  classifier: Classifier,
  images: Any,
  labels: Any,
  *,
  norm: Literal['l2', 'linf', 'l1', 'l0', 'linf_source'],
  start: Any = None,
  barrier: Literal['logits', 'probs'] = 'logits',
  prox_weight: float = 1.0,
  dt: float = 0.1,
  alpha: float = 0.1,
  beta: float = 0.75,
  gamma: float = 0.05,
  outer: int = 30,
  inner: int = 30,
  max_backtracks: int = 30,
  key: Array | None = None,
) -> Attacked:
  """The closest misclassified point that proximal descent on a logarithmic barrier meets.

  Pooladian et al., "A principled approach for generating adversarial images under non-smooth
  dissimilarity metrics", AISTATS 2020; defaults are its code's. From a misclassified start each
  inner step goes down -alpha beta^k log(margin), k the outer iteration, then through the proximal
  map of prox_weight * |point - image| and to the box; a step that ends correctly classified goes
  back towards the point before it until it is misclassified. The start itself is no candidate.

  Args:
    images: [B, H, W, C] floats in [0, 1].
    labels: [B] integers.
    norm: of the distance; 'linf_source' is 'linf' with the proximal map of the published code.
    start: [B, H, W, C] misclassified points (an image without one is returned as failed); default
      `gaussian_start` with `key`, whose last resort knows the images of this batch only.
    barrier: margin of the 'logits' (paper), or of the probabilities (robustness project).
    prox_weight: 1 in the paper, where on small images the proximal map returns the image itself
      and all progress is made by going back; .05 to .1 descends along the boundary.
    dt: step size. gamma: the share of a step that remains after going back.
    outer, inner: iterations, each inner one a gradient and at least one more forward pass.
    max_backtracks: then the step is undone. (.05^30 is nothing in any precision.)
    key: of the random start: one, or one for each image.

  Raises:
    UserError: an unknown norm or barrier, parameters out of range, no start and no key.
  """
  images, labels = as_arrays(images, labels)
  if start is None:
    check_name(PROX, norm, 'norm')
    start = gaussian_start(classifier, images, labels, key=key)
  run = plb_steps(
    classifier,
    images,
    labels,
    start=start,
    norm=norm,
    barrier=barrier,
    prox_weight=prox_weight,
    dt=dt,
    alpha=alpha,
    beta=beta,
    gamma=gamma,
    outer=outer,
    inner=inner,
    max_backtracks=max_backtracks,
  )
  state = last(run)
  return Attacked(state.best, jnp.isfinite(state.best_distance), state.best_distance)


def plb_steps(
  classifier: Classifier,
  images: Any,
  labels: Any,
  *,
  start: Any,
  norm: str,
  barrier: str,
  prox_weight: float,
  dt: float,
  alpha: float,
  beta: float,
  gamma: float,
  outer: int,
  inner: int,
  max_backtracks: int,
) -> Iterator[PlbState]:
  """The state after each of the outer * inner steps of `plb`. Arguments as there."""
  images, labels = as_arrays(images, labels)
  check_name(PROX, norm, 'norm')
  check_name(BARRIERS, barrier, 'barrier')
  for name, value in {'prox_weight': prox_weight, 'dt': dt, 'alpha': alpha, 'beta': beta}.items():
    if not value > 0:
      raise UserError(f'{name}={value} must be positive')
  if not 0 < gamma < 1:
    raise UserError(f'gamma={gamma} is not in (0, 1); give the share of a step that remains')
  if min(outer, inner, max_backtracks) < 1:
    raise UserError(
      f'outer={outer}, inner={inner}, max_backtracks={max_backtracks}: give at least 1 of each'
    )
  metric = norm.removesuffix('_source')

  def run() -> Iterator[PlbState]:
    state, standing = _begin(*classifier, images, labels, jnp.asarray(start, images.dtype))
    for k in range(outer):
      movable = _movable(state.point, images, standing, metric)
      for _ in range(inner):
        trial, infeasible = _move(
          *classifier, state.point, images, labels, movable,
          alpha * beta**k, dt, prox_weight, norm, barrier,
        )  # fmt: skip
        backtracks = jnp.zeros_like(state.backtracks)
        while infeasible.any():
          trial, infeasible, backtracks = _go_back(
            *classifier, trial, state.point, labels, infeasible, backtracks, gamma, max_backtracks
          )
        state = _record(state, trial, images, standing, backtracks, metric)
        yield state

  return run()


@functools.partial(jax.jit, static_argnames='apply')
def _begin(
  apply: Apply, params: PyTree, images: Array, labels: Array, start: Array
) -> tuple[PlbState, Array]:
  """The first state, and which images [B] the attack works on."""
  right = correct(apply, params, images, labels)
  standing = right & ~correct(apply, params, start, labels)
  point = jnp.where(spread(standing, images), start, images)
  best_distance = jnp.where(right, jnp.inf, jnp.zeros(len(images), images.dtype))
  state = PlbState(point, images, best_distance, jnp.zeros(len(images), jnp.int32))
  return state, standing


@functools.partial(jax.jit, static_argnames='metric')
def _movable(point: Array, images: Array, standing: Array, metric: str) -> Array:
  return standing & (distance(point - images, metric) > 0)


@functools.partial(jax.jit, static_argnames=('apply', 'norm', 'barrier'))
def _move(
  apply: Apply,
  params: PyTree,
  point: Array,
  images: Array,
  labels: Array,
  movable: Array,
  alpha: Any,
  dt: Any,
  prox_weight: Any,
  norm: str,
  barrier: str,
) -> tuple[Array, Array]:
  """The point after a gradient and a proximal step, and which images are infeasible there."""

  def log_barrier(point: Array) -> Array:
    scores = logits_of(apply, params, point)
    if barrier == 'probs':
      scores = jax.nn.softmax(scores)
    room = margin(scores, labels)
    # Below the floor rounding decides the margin: no gradient rather than an infinite one.
    floor = jnp.finfo(room.dtype).tiny ** 0.5
    return -alpha * jnp.sum(jnp.log(jnp.maximum(room, floor)))

  u = point - dt * jax.grad(log_barrier)(point)
  moved = jnp.clip(PROX[norm](u, images, prox_weight), 0, 1)
  point = jnp.where(spread(movable, point), moved, point)
  return point, movable & correct(apply, params, point, labels)


@functools.partial(jax.jit, static_argnames='apply')
def _go_back(
  apply: Apply,
  params: PyTree,
  trial: Array,
  before: Array,
  labels: Array,
  infeasible: Array,
  backtracks: Array,
  gamma: Any,
  max_backtracks: Any,
) -> tuple[Array, Array, Array]:
  backtracks = backtracks + infeasible
  share = jnp.where(backtracks < max_backtracks, gamma, 0.0).astype(trial.dtype)
  nearer = before + spread(share, trial) * (trial - before)
  trial = jnp.where(spread(infeasible, trial), nearer, trial)
  # `before` is misclassified by induction, and not asked again where the step is undone.
  infeasible = infeasible & correct(apply, params, trial, labels) & (share > 0)
  return trial, infeasible, backtracks


@functools.partial(jax.jit, static_argnames='metric')
def _record(
  state: PlbState, point: Array, images: Array, standing: Array, backtracks: Array, metric: str
) -> PlbState:
  away = distance(point - images, metric)
  better = standing & (away <= state.best_distance)
  return PlbState(
    point,
    jnp.where(spread(better, point), point, state.best),
    jnp.where(better, away, state.best_distance),
    backtracks,
  )
