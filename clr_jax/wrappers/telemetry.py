"""Telemetry: statistics of a method's scores, embeddings and parameters while it trains."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
import optax

from clr_jax.core.bounds import Bins, Count, Score
from clr_jax.core.errors import UserError
from clr_jax.core.metrics import Mean, Sum
from clr_jax.core.options import NO_EFFECT_ON_TRAINING, OnlyWith
from clr_jax.core.types import Array, Batch, Method, Metrics, Out, Params, RunInfo, State
from clr_jax.losses import score_statistics
from clr_jax.losses.scores import ScoreSets
from clr_jax.ops.gradient_statistics import group_norms
from clr_jax.ops.similarity import at_least_float32, l2_normalize

PREFIX = 'telemetry/'  # prefix of the metric names
STEPS = PREFIX + 'steps'  # the number of measured steps
_ENABLED = OnlyWith(enabled=True)


def telemetry(
  method: Method,
  info: RunInfo,
  *,
  enabled: Annotated[bool, NO_EFFECT_ON_TRAINING] = False,
  every: Annotated[Count, NO_EFFECT_ON_TRAINING, _ENABLED] = 50,
  bins: Annotated[Bins, NO_EFFECT_ON_TRAINING, _ENABLED] = 40,
  lowest: Annotated[Score, NO_EFFECT_ON_TRAINING, _ENABLED] = -1.0,
  highest: Annotated[Score, NO_EFFECT_ON_TRAINING, _ENABLED] = 1.0,
) -> Method:
  """Adds metrics `telemetry/...` to the loss of every `every`-th step; nothing else changes.

  They are computed inside the compiled step from the embeddings of the loss, in a branch that the
  other steps skip; those steps return zeros that do not count. A row of the log has means over its
  measured steps, sums of histograms, and the number of these steps, `telemetry/steps`. Apply the
  wrapper directly to a method, inside all others, so that its random draws are those of the loss.

  Methods with negatives (`Method.scores`), from the scores that the loss uses, after plug-ins: the
  `series` of `clr_jax.losses.score_statistics`, the histograms neg_hist and pos_hist [bins + 2]
  (below, bins, above), positive_response and negative_response with SupCon's denominators, also
  with TCL's (..._tcl) if the loss has them, and the mean temperature.
  All methods: alignment (of views 0 and 1 of the online embeddings, or of view 0 and its target)
  and uniformity (of each of these views); ema_distance ||online - target|| / ||online||; mean and
  standard deviation over the batch of the rows written to tables, such as SogCLR's log u;
  grad_norm/GROUP of each group of parameters.

  Args:
    method: method with or without `scores`.
    enabled: True measures scores, gradients and tables inside the step.
    every: steps from one measured step to the next; step 0 is one. At 50 the cost is below 2 % of
      a step's FLOPs and bytes.
    bins: number of bins of the histograms.
    lowest, highest: outer edges of the histograms.

  Raises:
    UserError: edges that do not increase.
  """
  del info
  if not enabled:
    return method
  if lowest >= highest:
    raise UserError(
      f'telemetry.lowest={lowest} is not below telemetry.highest={highest}: change one of them'
    )
  edges = np.linspace(lowest, highest, bins + 1)

  def is_measured(step: Array) -> Array:
    return step % every == 0

  def record(step: Array, measure: Callable[[], dict[str, Array]]) -> Metrics:
    """Runs `measure` in a measured step; metrics with means of scalars and sums of histograms."""
    found, count = only_if(is_measured(step), measure), is_measured(step).astype(jnp.float32)
    return {PREFIX + k: Sum(x, count) if x.ndim else Mean(x, count) for k, x in found.items()}

  def embed(params: Params, state: State, batch: Batch, rng: Array, step: Array):
    out, carry = method.embed(params, state, batch, rng, step)
    if 'target' not in state:
      return out, carry
    online = jax.lax.stop_gradient(params)
    found = record(step, lambda: {'ema_distance': ema_distance(online, state['target']['params'])})
    return out._replace(extra={**out.extra, 'telemetry': found}), carry

  def loss(out: Out, state: State, batch: Batch, rng: Array, step: Array):
    value, carry, metrics = method.loss(out, state, batch, rng, step)
    fixed, rows = jax.lax.stop_gradient((out, carry.get('per_example', {})))

    def measure() -> dict[str, Array]:
      found = {**of_embeddings(fixed), **of_tables(rows)}
      if method.scores is not None:
        found |= of_scores(method.scores(fixed, state, batch, rng, step), edges)
      return found

    measured = is_measured(step).astype(jnp.float32)
    found = {**fixed.extra.get('telemetry', {}), **record(step, measure)}
    return value, carry, {**metrics, **found, STEPS: Sum(measured, measured)}

  def gradient_metrics(grads: Params, step: Array) -> Metrics:
    def measure() -> dict[str, Array]:
      return {f'grad_norm/{name}': norm for name, norm in group_norms(grads).items()}

    others = method.gradient_metrics
    return {**(others(grads, step) if others else {}), **record(step, measure)}

  return method._replace(embed=embed, loss=loss, gradient_metrics=gradient_metrics)


def only_if(condition: Array, measure: Callable[[], dict[str, Array]]) -> dict[str, Array]:
  """Returns `measure()`, or zeros of its shapes without its work."""
  shapes = jax.eval_shape(measure)
  zeros = lambda: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)  # noqa: E731
  return jax.lax.cond(condition, measure, zeros)


def of_scores(sets: ScoreSets, edges: np.ndarray) -> dict[str, Array]:
  """Metrics of methods with negatives, see `telemetry`."""
  plain = sets._replace(k1=0.0, k2=1.0)
  positive, negative = score_statistics.responses(plain)
  found = {
    **score_statistics.series(score_statistics.score_rows(sets)),
    'pos_hist': score_statistics.histogram(sets.positive, edges, sets.positive_where),
    'neg_hist': score_statistics.histogram(sets.negative, edges, sets.negative_where),
    'positive_response': positive,
    'negative_response': negative,
    'temperature': jnp.mean(at_least_float32(sets.temperature)),
  }
  if (sets.k1, sets.k2) == (0.0, 1.0):
    return found
  positive, negative = score_statistics.responses(sets)
  return {**found, 'positive_response_tcl': positive, 'negative_response_tcl': negative}


def of_embeddings(out: Out) -> dict[str, Array]:
  """Alignment, if there is a pair, and uniformity of the online embeddings [B, V, D]."""
  views = l2_normalize(out.online[:, :2])
  found = {}
  if views.shape[1] == 2:
    found['alignment'] = score_statistics.alignment(views[:, 0], views[:, 1])
  elif out.target is not None and out.target.shape[-1] == views.shape[-1]:
    found['alignment'] = score_statistics.alignment(views[:, 0], l2_normalize(out.target[:, 0]))
  each = [score_statistics.uniformity(views[:, v]) for v in range(views.shape[1])]
  return {**found, 'uniformity': jnp.mean(jnp.stack(each))}


def of_tables(rows: dict[str, Array]) -> dict[str, Array]:
  """Mean and standard deviation over the batch of the tables' new rows [B, ...]."""
  found = {}
  for name, value in rows.items():
    found |= {f'{name}_mean': jnp.mean(value), f'{name}_std': jnp.std(value)}
  return found


def ema_distance(online: Params, target: Params) -> Array:
  """||online - target|| / ||online|| over the parameters that both have."""
  online = {name: online[name] for name in target}
  difference = jax.tree.map(lambda a, b: at_least_float32(a) - at_least_float32(b), online, target)
  return optax.tree.norm(difference) / optax.tree.norm(jax.tree.map(at_least_float32, online))
