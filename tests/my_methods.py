"""A module as a user writes one: a method, views, a data source and a protocol."""

import time

import jax.numpy as jnp
import numpy as np

from clr_jax import augment, data, methods
from clr_jax.core.bounds import Dimension, Pixels, Positive
from clr_jax.evaluation import protocols
from clr_jax.models import heads
from clr_jax.ops.similarity import l2_normalize, similarity
from clr_jax.rundir.results import Measurement
from clr_jax.skeletons.joint_embedding import joint_embedding, mean_loss


@methods.register
def mine(backbone, info, *, t: Positive = 2.0, out_dim: Dimension = 64):
  """Mine: alignment and uniformity (Wang & Isola, https://arxiv.org/abs/2005.10242)."""

  def loss(out, state, batch, rng, step):  # out.online: [B, V, D], the global batch
    z = l2_normalize(out.online)
    align = jnp.sum((z[:, 0] - z[:, 1]) ** 2, -1)
    uniform = jnp.log(jnp.mean(jnp.exp(-t * (2 - 2 * similarity(z[:, 0], z[:, 0])))))
    return mean_loss({'uniform': uniform}, align + uniform)

  head = heads.make('simclr', hidden_dim=backbone.num_features, out_dim=out_dim)
  return joint_embedding('mine', {'backbone': backbone, 'projector': head}, loss, pairs='batch')


@augment.register
def resized(*, size: Pixels):
  """The image itself, twice."""
  return augment.pair(lambda key, images: augment.resize(images, size))


@data.register
def stripes(path, *, name, split, **options):
  """Stripes, across or along."""
  rng = np.random.default_rng(split == 'test')
  label = np.arange(64) % 2
  image = rng.integers(0, 60, (64, 8, 8, 1)).astype(np.uint8)
  image[label == 0, ::2] += 150
  image[label == 1, :, ::2] += 150
  return data.ArraySource(image, label, name=name, split=split, origin=f'stripes {split}')


@protocols.register(NEEDS_NETWORK=True)
def length(subject, *, order: Positive = 2.0):
  """The mean norm of the test features."""
  start = time.perf_counter()
  norms = np.linalg.norm(subject.features[1].h, order, -1)
  seconds = time.perf_counter() - start
  yield Measurement('norm', float(norms.mean()), 'length', {'order': order}, subject.kind, seconds)
