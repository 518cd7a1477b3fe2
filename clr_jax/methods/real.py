"""REAL: Dynamic MoCo with retrieved negatives (the report, section on retrieval augmentation)."""

import flax.linen as nn
import jax.numpy as jnp

from clr_jax.core.errors import UserError
from clr_jax.core.names import check_name
from clr_jax.core.options import takes_options_of
from clr_jax.core.registry import refuse_changed
from clr_jax.core.types import Method, RunInfo
from clr_jax.losses.retrieval import hardest_negatives, select_hardest, select_in_radius
from clr_jax.ops import queue as ring
from clr_jax.skeletons.dynamic_contrast import Retrieval, dynamic

# Each form of retrieval with the options that it reads.
RETRIEVAL = {'top_p': ('top_p',), 'radius': ('radius', 'as_published'), 'top_k': ('top_k',)}


@takes_options_of(dynamic)
def real(
  backbone: nn.Module,
  info: RunInfo,
  *,
  retrieval: str = 'top_p',
  top_p: float = 0.5,
  radius: float = 0.5,
  as_published: bool = False,
  top_k: int = 1024,
  queue_length: int = 65536,
  **options,
) -> Method:
  """Dynamic MoCo that keeps, or compares with, only negatives that are hard for some query.

  The views are selected from one after the other. options: as in Dynamic MoCo, see
  `clr_jax.skeletons.dynamic_contrast.dynamic`.

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
    queue_length: 65536 (the report's code); at most two keys an image enter it.

  Raises:
    UserError: a changed option of another `retrieval`; values out of range.
  """
  check_name(RETRIEVAL, retrieval, 'method.retrieval')
  own = {'top_p': top_p, 'radius': radius, 'as_published': as_published, 'top_k': top_k}
  refuse_changed(
    real,
    {key: value for key, value in own.items() if key not in RETRIEVAL[retrieval]},
    prefix='method',
    reason=f'with method.retrieval={retrieval!r}: set another method.retrieval, or leave it',
  )
  _check(info, retrieval, radius, top_p, top_k, queue_length)

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

  forms = {
    'top_p': Retrieval(admit=admit_fraction),
    'radius': Retrieval(
      admit=admit_near, first_state=lambda: {'radius': jnp.asarray(radius, jnp.float32)}
    ),
    'top_k': Retrieval(negatives=lambda scores: hardest_negatives(scores, top_k)),
  }
  return dynamic('real', backbone, info, forms[retrieval], queue_length=queue_length, **options)


def _check(info, retrieval, radius, top_p, top_k, queue_length) -> None:
  if info.batch_size < 2:
    raise UserError('real compares keys with queries of other images: set batch_size >= 2')
  if radius <= 0:
    raise UserError(f'method.radius is a distance between unit vectors: > 0, not {radius}')
  if not 0 < top_p <= 1:
    raise UserError(f'method.top_p is the fraction of keys that is kept, in (0, 1], not {top_p}')
  if retrieval == 'top_k' and not 1 <= top_k <= queue_length:
    raise UserError(
      f'method.top_k is a number of queue rows, from 1 to method.queue_length={queue_length}, '
      f'not {top_k}'
    )
