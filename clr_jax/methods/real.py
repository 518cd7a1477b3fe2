"""REAL: Dynamic MoCo with retrieved negatives (the report, section on retrieval augmentation)."""

from typing import Annotated, Literal

import flax.linen as nn
import jax.numpy as jnp
from annotated_types import Gt, Le

from clr_jax.core.bounds import Rows, Share
from clr_jax.core.errors import UserError
from clr_jax.core.options import OnlyWith, takes_options_of
from clr_jax.core.types import Method, RunInfo
from clr_jax.losses.retrieval import (
  Distance,
  hardest_negatives,
  select_hardest,
  select_in_radius,
)
from clr_jax.ops import queue as ring
from clr_jax.skeletons.dynamic_contrast import Retrieval, dynamic


@takes_options_of(dynamic)
def real(
  backbone: nn.Module,
  info: RunInfo,
  *,
  retrieval: Literal['top_p', 'radius', 'top_k'] = 'top_p',
  top_p: Annotated[Share, OnlyWith(retrieval='top_p')] = 0.5,
  radius: Annotated[float, Gt(0), Le(2), OnlyWith(retrieval='radius')] = 0.5,
  distance: Annotated[Distance, OnlyWith(retrieval=('top_p', 'radius'))] = 'euclidean',
  as_published: Annotated[bool, OnlyWith(retrieval='radius')] = False,
  top_k: Annotated[Rows, OnlyWith(retrieval='top_k')] = 1024,
  queue_length: Rows = 65536,
  **options,
) -> Method:
  """Dynamic MoCo that stores, or compares with, only negatives that are hard for some query.

  Keys are selected from one view at a time. options: as in Dynamic MoCo, see
  `clr_jax.skeletons.dynamic_contrast.dynamic`.

  Args:
    retrieval: 'top_p' (the fraction top_p of the keys that are most similar to another image's
      query enters the queue), 'radius' (keys within twice the radius of another image's query
      enter; the radius follows half the mean distance, so that few keys are left out with many
      queries), 'top_k' (all keys enter; a query's negatives and its u are the top_k queue rows most
      similar to it).
    top_p: 1 is Dynamic MoCo. No published value.
    radius: initial distance between unit vectors, .5 (the report's code).
    distance: distance by which keys are selected: 'euclidean' (the report's code), 'cosine' (1 -
      cosine) or 'manhattan'; the report proposes others without naming them.
    as_published: follow the report's code: an image's own key counts as near its query, and the
      radius is divided by out_dim instead of the number of queries.
    top_k: at most queue_length, which is Dynamic MoCo. No published value.
    queue_length: rows of the queue; 65536 (the report's code); at most two keys per image enter it.

  Raises:
    UserError: a batch of one image, or top_k greater than queue_length.
  """
  if info.batch_size < 2:
    raise UserError('real compares keys with queries of other images: set batch_size >= 2')
  if retrieval == 'top_k' and top_k > queue_length:
    raise UserError(
      f'method.top_k={top_k} exceeds the queue: set it to at most '
      f'method.queue_length={queue_length}'
    )

  def admit_near(state, queries, keys):
    queue, now = state['queue'], state['radius']
    for query, key in zip(queries, keys, strict=True):  # one view after the other
      order, count, now = select_in_radius(
        query, key, now, distance=distance, as_published=as_published
      )
      queue = ring.enqueue(queue, key[order], count)
    return {**state, 'queue': queue, 'radius': now}

  def admit_fraction(state, queries, keys):
    queue = state['queue']
    for query, key in zip(queries, keys, strict=True):
      queue = ring.enqueue(queue, key[select_hardest(query, key, top_p, distance=distance)])
    return {**state, 'queue': queue}

  forms = {
    'top_p': Retrieval(admit=admit_fraction),
    'radius': Retrieval(
      admit=admit_near, first_state=lambda: {'radius': jnp.asarray(radius, jnp.float32)}
    ),
    'top_k': Retrieval(negatives=lambda scores: hardest_negatives(scores, top_k)),
  }
  return dynamic('real', backbone, info, forms[retrieval], queue_length=queue_length, **options)
