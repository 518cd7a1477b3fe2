"""Data: sources (which images), order (which at which step), pipeline (resident or streamed)."""

from clr_jax.data.base import ArraySource, Source
from clr_jax.data.order import batch_indices, steps_per_epoch
from clr_jax.data.pipeline import Pipeline, make_pipeline
from clr_jax.data.sources import available, load_source
from clr_jax.data.subset import SubsetSource

__all__ = [
  'ArraySource',
  'Pipeline',
  'Source',
  'SubsetSource',
  'available',
  'batch_indices',
  'load_source',
  'make_pipeline',
  'steps_per_epoch',
]
