"""REAL: Dynamic MoCo with retrieved negatives (the report, section on retrieval augmentation)."""

import flax.linen as nn
import jax.numpy as jnp

from clr_jax.lookup import check_name
from clr_jax.losses.retrieval import hardest_negatives, select_hardest, select_in_radius
from clr_jax.methods._dynamic import admit_all, dynamic
from clr_jax.methods._plugins import NONE, Plugins
from clr_jax.ops import queue as ring
from clr_jax.types import Method, RunInfo, UserError

RETRIEVAL = ('top_p', 'radius', 'top_k')


def real(
  backbone: nn.Module,
  info: RunInfo,
  *,
  retrieval: str = 'top_p',
  top_p: float = 0.5,
  radius: float = 0.5,
  as_published: bool = False,
  top_k: int = 1024,
  temperature: float = 0.3,
  gamma: float = 0.9,
  first_visit: str = 'per_index',
  combine: str = 'mean',
  temperature_twice: bool = False,
  queue_length: int = 65536,
  momentum: float = 0.999,
  final_momentum: float | None = None,
  ema_index: str = 'next',
  projector: str = 'sogclr',
  hidden_dim: int = 2048,
  out_dim: int = 128,
  per_view_bn: bool = True,
  represent: str = 'online',
  plugins: Plugins = NONE,
) -> Method:
  """Dynamic MoCo that keeps, or compares with, only negatives that are hard for some query.

  The views are selected from one after the other. temperature to plugins: see `dynamic_moco`.

  Args:
    retrieval: 'top_p' (the fraction top_p of the keys that are most similar to another image's
      query enters the queue), 'radius' (keys within twice the radius of another image's query
      enter; the radius follows half the mean distance, so that few are left out when there are
      many queries), 'top_k' (all keys enter, and a query's negatives and its u are over the top_k
      queue rows most similar to it).
    top_p: of 'top_p', in (0, 1]; 1 is Dynamic MoCo. No published value.
    radius: of 'radius', at the start, .5 (the report's code).
    as_published: of 'radius', the report's code: an image's own key counts as near its query, and
      the radius is divided by out_dim instead of the number of queries.
    top_k: of 'top_k', at most queue_length, which is Dynamic MoCo. No published value.
  """
  check_name(RETRIEVAL, retrieval, 'method.retrieval')
  _check(info, retrieval, radius, as_published, top_p, top_k, queue_length)

  def admit_near(state, queries, keys):
    queue, now = state['queue'], state['radius']
    for query, key in zip(queries, keys, strict=True):  # each view has its turn
      order, count, now = select_in_radius(query, key, now, as_published=as_published)
      queue = ring.enqueue(queue, key[order], count)
    return {**state, 'queue': queue, 'radius': now}

  def admit_fraction(state, queries, keys):
    queue = state['queue']
    for query, key in zip(queries, keys, strict=True):
      queue = ring.enqueue(queue, key[select_hardest(query, key, top_p)])
    return {**state, 'queue': queue}

  choice = {
    'radius': {
      'admit': admit_near,
      'first_state': lambda: {'radius': jnp.asarray(radius, jnp.float32)},
    },
    'top_p': {'admit': admit_fraction},
    'top_k': {'admit': admit_all, 'negatives': lambda scores: hardest_negatives(scores, top_k)},
  }[retrieval]
  return dynamic(
    'real',
    backbone,
    info,
    temperature=temperature,
    gamma=gamma,
    first_visit=first_visit,
    combine=combine,
    temperature_twice=temperature_twice,
    queue_length=queue_length,
    momentum=momentum,
    final_momentum=final_momentum,
    ema_index=ema_index,
    projector=projector,
    hidden_dim=hidden_dim,
    out_dim=out_dim,
    per_view_bn=per_view_bn,
    represent=represent,
    plugins=plugins,
    **choice,
  )


def _check(info, retrieval, radius, as_published, top_p, top_k, queue_length) -> None:
  if info.batch_size < 2:
    raise UserError('real compares keys with queries of other images: set batch_size >= 2')
  if as_published and retrieval != 'radius':
    raise UserError(
      f"method.as_published is a form of method.retrieval='radius', which is {retrieval!r}: "
      'set one of the two'
    )
  if radius <= 0:
    raise UserError(f'method.radius is a distance between unit vectors: > 0, not {radius}')
  if not 0 < top_p <= 1:
    raise UserError(f'method.top_p is the fraction of keys that is kept, in (0, 1], not {top_p}')
  if top_k < 1 or (retrieval == 'top_k' and top_k > queue_length):
    raise UserError(
      f'method.top_k is a number of queue rows, from 1 to method.queue_length={queue_length}, '
      f'not {top_k}'
    )
