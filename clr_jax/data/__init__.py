"""Images: sources (which), order (which at which step), pipeline (from a source to the devices).

Only `clr_jax.data.pipeline` imports JAX, so that processes that read images do without it.
"""

from clr_jax.data.arrays import ArraySource
from clr_jax.data.base import Source
from clr_jax.data.order import batch_indices, steps_per_epoch
from clr_jax.data.sources import (
  absolute_name,
  available,
  load_source,
  may_differ_in_size,
  path_of,
  register,
  sizes_of,
  splits_of,
)
from clr_jax.data.subset import SubsetSource
from clr_jax.data.whole import Loaded, Whole

__all__ = [
  'ArraySource',
  'Loaded',
  'Source',
  'SubsetSource',
  'Whole',
  'absolute_name',
  'available',
  'batch_indices',
  'load_source',
  'may_differ_in_size',
  'path_of',
  'register',
  'sizes_of',
  'splits_of',
  'steps_per_epoch',
]
