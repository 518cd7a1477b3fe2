"""The points at which plug-ins act on an InfoNCE-shaped loss, and the `Pipeline` that runs them.

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
  """Facts about a comparison, by which plug-ins reject meaningless combinations.

  Attributes:
    method: name, for messages.
    negatives: True if it has negatives.
    softmax: True if its gradients have the factor 1 - p of a softmax over positive and negatives.
    free_anchor: True if the anchors carry gradient, so that constant negatives can push them away.
    no_angle: '', or the start of a message: why a pair has no angle, and how to change that.
  """

  method: str
  negatives: bool
  softmax: bool
  free_anchor: bool
  no_angle: str = ''


class Comparison(NamedTuple):
  """Inputs of a plug-in.

  Attributes:
    query, key: [B, V, D], as `Plugin.move_pair` leaves them.
    raw: [B, V, D], the query before that.
    rows: [M, D] unit vectors, the negatives of a queue or all rows of a batch.
    own: number of rows from the query's own image, which are not negatives.
    where: [B, V, M] bool, False for these rows; None = all are negatives.
    temperature: temperature of the loss.
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
    order: rank among plug-ins that act at the same point; the lowest acts first.
  """

  order: ClassVar[int]

  def check(self, facts: Facts) -> Facts:
    """Returns the facts for the next plug-ins; raises UserError for a meaningless combination."""
    return facts

  def move_pair(self, rng: Array, query: Array, key: Array, step: Array) -> tuple[Array, Array]:
    """First point: changes the query and the key, unit vectors [B, ..., D]."""
    del rng, step
    return query, key

  def change_negatives(self, scores: Scores, compared: Comparison) -> Scores:
    """Second point: replaces or adds negatives."""
    del compared
    return scores

  def change_positive(self, positive: Array, query: Array, key: Array) -> Array:
    """Third point: changes the scores [B, V] of the positives, of query and key as moved."""
    del query, key
    return positive

  def scale_gradients(self, scores: Scores, plain: Scores, temperature: float | Array) -> Scores:
    """Last point: changes gradients only; `plain` are the scores before `change_positive`."""
    del plain, temperature
    return scores


Plugins = Mapping[str, Plugin]
"""The active plug-ins of a run, by name."""

NONE: Plugins = types.MappingProxyType({})


class Pipeline:
  """Runs plug-ins at their points in a method's loss.

  Args:
    plugins: active plug-ins of the run.
    method: name, for messages.
    negatives, softmax, free_anchor: facts about the loss, see `Facts`.

  Raises:
    UserError: a plug-in is meaningless for the method or together with another plug-in.
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
    """Scores of queries against their keys and the rows from other images.

    Args:
      query, key: [B, V, D] unit vectors; detach those that carry no gradient.
      rows: [M, D] unit vectors.
      own: 0 for a queue; else the rows are view-major and `own` of them are from the query's image
        (see `batch_scores`).
      temperature: temperature of the loss, > 0.
      rng: key of the loss.
      step: number of the step.
    """
    raw = query
    query, key = self.move_pair(query, key, rng=rng, step=step)
    scores = batch_scores(query, key, rows, own=own) if own else queue_scores(query, key, rows)
    compared = Comparison(query, key, raw, rows, own, scores.where, temperature, rng, step)
    for plugin in self._plugins:
      scores = plugin.change_negatives(scores, compared)
    return self._finish(scores, query, key, temperature)

  def move_pair(self, query: Array, key: Array, *, rng: Array, step: Array) -> tuple[Array, Array]:
    """The first point alone, for losses that compare unit vectors [B, ..., D] in another way."""
    for plugin in self._plugins:
      query, key = plugin.move_pair(stream(rng, Stream.MOVED_PAIR), query, key, step)
    return query, key

  def two_view_scores(
    self, z: Array, *, temperature: float | Array, rng: Array, step: Array
  ) -> Scores:
    """`scores` of NT-Xent: unit vectors [B, 2, D], where each view is the key of the other."""
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
  """First step in which the plug-in `name` acts; UserError if the run ends before it."""
  start = start_epoch * info.steps_per_epoch
  if start >= info.total_steps:
    raise UserError(
      f'plugins.{name}.start_epoch={start_epoch} is not within the run '
      f'({info.total_steps / info.steps_per_epoch:g} epochs): lower it'
    )
  return start
