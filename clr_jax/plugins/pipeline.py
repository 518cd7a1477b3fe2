"""The points at which plug-ins act on an InfoNCE-shaped loss, and what runs them there.

A method's factory makes a `Pipeline` of the plug-ins that it is given and calls `Pipeline.scores`
(or `pair_scores`, without negatives) where its loss compares embeddings. Un-Mix and the
layer-by-layer loss, which need more than embeddings, wrap a method.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import jax.numpy as jnp

from clr_jax.core.errors import UserError
from clr_jax.core.types import Array, RunInfo
from clr_jax.losses.scores import Scores, batch_scores, pair_scores, queue_scores, view_major
from clr_jax.ops.random import Stream, stream


class Facts(NamedTuple):
  """Facts about a comparison, by which plug-ins refuse what has no meaning for it.

  Attributes:
    method: name, for messages.
    negatives: it has negatives.
    softmax: its gradients have the factor 1 - p of a softmax over positive and negatives.
    free_anchor: the anchors carry gradient, so that constant negatives can push them away.
    no_angle: '', or the start of a message: why a pair has no angle, and how to change that.
  """

  method: str
  negatives: bool
  softmax: bool
  free_anchor: bool
  no_angle: str = ''


class Comparison(NamedTuple):
  """What a plug-in may read.

  Attributes:
    query, key: [B, V, D], as `Plugin.move_pair` leaves them.
    raw: [B, V, D], the query before that.
    rows: [M, D] unit vectors, the negatives of a queue or all rows of a batch.
    own: how many of the rows are of the query's own image, and so no negatives.
    where: [B, V, M] bool, False for these rows; None = all are negatives.
    temperature: of the loss.
    rng: key of the loss, for streams of `clr_jax.ops.random`.
    step: number of the step.
  """

  query: Array
  key: Array
  raw: Array
  rows: Array
  own: int
  where: Array | None
  temperature: float | Array
  rng: Array
  step: Array


class Plugin:
  """A plug-in that is switched on. A subclass overrides the points at which it acts.

  Attributes:
    order: of plug-ins that act at the same point, the one with the lower order acts first.
  """

  order: ClassVar[int]

  def check(self, facts: Facts) -> Facts:
    """Raises UserError for what has no meaning; returns the facts for the plug-ins after it."""
    return facts

  def move_pair(self, rng: Array, query: Array, key: Array, step: Array) -> tuple[Array, Array]:
    """First, the query and the key, unit vectors [B, ..., D]."""
    del rng, step
    return query, key

  def change_negatives(self, scores: Scores, compared: Comparison) -> Scores:
    """Second, the negatives: other ones, or more of them."""
    del compared
    return scores

  def change_positive(self, positive: Array, query: Array, key: Array) -> Array:
    """Third, the scores [B, V] of the positives, of query and key as moved."""
    del query, key
    return positive

  def scale_gradients(self, scores: Scores, plain: Scores, temperature: float | Array) -> Scores:
    """Last, gradients, not values; `plain` are the scores before `change_positive`."""
    del plain, temperature
    return scores


Plugins = Mapping[str, Plugin]
"""The plug-ins of a run that are on, by name."""

NONE: Plugins = types.MappingProxyType({})


class Pipeline:
  """Plug-ins in a method's loss, each at its points.

  Args:
    plugins: of the run.
    method: name, for messages.
    negatives, softmax, free_anchor: facts about the loss, see `Facts`.

  Raises:
    UserError: a plug-in has no meaning for the method, or beside another one.
  """

  def __init__(
    self, plugins: Plugins, method: str, *, negatives: bool, softmax: bool, free_anchor: bool
  ):
    facts = Facts(method, negatives, softmax, free_anchor)
    self._plugins = sorted(plugins.values(), key=lambda plugin: plugin.order)
    for plugin in self._plugins:
      facts = plugin.check(facts)

  def scores(
    self,
    query: Array,
    key: Array,
    rows: Array,
    *,
    own: int,
    temperature: float | Array,
    rng: Array,
    step: Array,
  ) -> Scores:
    """Scores of queries with their keys and the rows that are no views of the same image.

    Args:
      query, key: [B, V, D] unit vectors; detach what carries no gradient.
      rows: [M, D] unit vectors.
      own: 0 for a queue; else the rows are view-major and `own` of them are of the query's image
        (see `batch_scores`).
      temperature: of the loss, > 0.
      rng: key of the loss; `step` its number.
    """
    raw = query
    for plugin in self._plugins:
      query, key = plugin.move_pair(stream(rng, Stream.MOVED_PAIR), query, key, step)
    scores = batch_scores(query, key, rows, own=own) if own else queue_scores(query, key, rows)
    compared = Comparison(query, key, raw, rows, own, scores.where, temperature, rng, step)
    for plugin in self._plugins:
      scores = plugin.change_negatives(scores, compared)
    return self._finish(scores, query, key, temperature)

  def two_view_scores(
    self, z: Array, *, temperature: float | Array, rng: Array, step: Array
  ) -> Scores:
    """`scores` of NT-Xent: unit vectors [B, 2, D], each view the key of the other."""
    return self.scores(
      z, z[:, ::-1], view_major(z), own=2, temperature=temperature, rng=rng, step=step
    )

  def pair_scores(self, query: Array, key: Array, *, rng: Array, step: Array) -> Array:
    """Cosines of unit vectors [B, ..., D] for methods without negatives; shapes broadcast."""
    for plugin in self._plugins:
      query, key = plugin.move_pair(rng, query, key, step)
    query, key = jnp.broadcast_arrays(query, key)
    cosine = pair_scores(query, key)
    scores = Scores(cosine, jnp.zeros((*cosine.shape, 0), cosine.dtype))
    return self._finish(scores, query, key, 1.0).positive

  def _finish(self, plain: Scores, query: Array, key: Array, temperature: float | Array) -> Scores:
    scores = plain
    for plugin in self._plugins:
      positive = plugin.change_positive(scores.positive, query, key)
      scores = scores._replace(positive=positive)
    for plugin in self._plugins:
      scores = plugin.scale_gradients(scores, plain, temperature)
    return scores


def start_step(name: str, start_epoch: float, info: RunInfo) -> float:
  """The first step in which the plug-in `name` acts; UserError if the run is over before."""
  start = start_epoch * info.steps_per_epoch
  if start >= info.total_steps:
    raise UserError(
      f'plugins.{name}.start_epoch={start_epoch} is not within the run '
      f'({info.total_steps / info.steps_per_epoch:g} epochs): lower it'
    )
  return start
