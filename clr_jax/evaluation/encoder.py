"""Trained backbone of a run as a function of images, without the run's data."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from clr_jax.core.config_tree import Config
from clr_jax.core.errors import UserError
from clr_jax.core.programs import host_jit
from clr_jax.core.storage import read_file
from clr_jax.core.types import Array
from clr_jax.experiment.build import make_backbone
from clr_jax.experiment.recorded import read_recorded
from clr_jax.models.tokens import check_tokens
from clr_jax.models.torch_names import Backbone
from clr_jax.ops import sharding
from clr_jax.ops.batches import batches
from clr_jax.rundir.codec import read_object
from clr_jax.rundir.weights import restore_subtrees
from clr_jax.rundir.workdir import Workdir


class Encoder:
  """A frozen backbone.

  Attributes:
    config: config of the run, locked.
    step: step of the checkpoint.
    image_shape: (H, W, C) of the training images.
    target: True for the EMA target of the method.
    num_features: length F of a feature.
    module: Flax module; `module.apply(variables, images, train=False)` is one pass.
    variables: {'params': ..., 'batch_stats': ...} of the module.
  """

  def __init__(
    self, config: Config, step: int, backbone: Backbone, image_shape: tuple[int, int, int]
  ):
    self.config, self.step, self.image_shape = config, step, image_shape
    self.target = represents_target(config)
    self.module: Any = make_backbone(config, image_shape[-1], 'the run')
    self.variables = backbone._asdict()
    self._forward, self._patches = host_jit(self._features), host_jit(self._patch_tokens)

  @property
  def num_features(self) -> int:
    return self.module.num_features

  def represent(self, images: Any, *, batch_size: int = 512, tokens: bool = False) -> np.ndarray:
    """Computes features [N, F] float32 of images on all devices.

    Compiles once per image shape, for any N.

    Args:
      images: [N, H, W, C], or [N, H, W] for gray images: uint8, or float in [0, 1]. H and W may
        differ from the training images.
      batch_size: images per pass.
      tokens: True returns the outputs [N, patches, width] of a vision transformer's patches, row by
        row, after its last normalization, instead.

    Raises:
      UserError: another number of dimensions or channels, another dtype, or floats beyond [0, 1];
        tokens of a backbone that has none.
    """
    if tokens:
      check_tokens(self.module, self.config.model.name)
    images = self._checked(np.asarray(images))
    mesh = sharding.make_mesh()
    size = min(batch_size, max(len(images), 1))
    size = -(-size // mesh.size) * mesh.size
    variables = jax.device_put(self.variables, sharding.replicated(mesh))
    compute = self._patches if tokens else self._forward
    wanted = jax.eval_shape(compute, variables, jax.ShapeDtypeStruct(images.shape, images.dtype))
    features = [np.empty([0, *wanted.shape[1:]], np.float32)]
    for rows, count in batches(np.arange(len(images)), size):
      placed = jax.device_put(images[rows], sharding.by_rows(mesh))
      features.append(np.asarray(compute(variables, placed))[:count])
    return np.concatenate(features)

  def _features(self, variables: Any, images: Array) -> Array:
    return self.module.apply(variables, _to_float(images), train=False).astype(jnp.float32)

  def _patch_tokens(self, variables: Any, images: Array) -> Array:
    (last,) = self.module.apply(variables, _to_float(images), train=False, last_blocks=1)
    return last[:, 1:].astype(jnp.float32)

  def _checked(self, images: np.ndarray) -> np.ndarray:
    channels = self.image_shape[-1]
    if images.ndim == 3 and channels == 1:
      images = images[..., None]
    if images.ndim != 4 or images.shape[-1] != channels:
      raise UserError(
        f'images have the shape {list(images.shape)}: give [N, H, W, {channels}], as the run was '
        f'trained on {channels} channel(s)'
      )
    if images.dtype == np.uint8:
      return images
    if not np.issubdtype(images.dtype, np.floating):
      raise UserError(f'images are {images.dtype}: give uint8, or floats in [0, 1]')
    if images.size and not (images.min() >= 0 and images.max() <= 1):
      raise UserError(
        f'float images must lie in [0, 1] and these go from {images.min():g} to '
        f'{images.max():g}: divide them by 255, and leave the normalization to the backbone'
      )
    return images.astype(np.float32)


def _to_float(images: Array) -> Array:
  return images / jnp.float32(255) if images.dtype == jnp.uint8 else images.astype(jnp.float32)


def load(workdir: epath.PathLike, step: int | None = None) -> Encoder:
  """Loads the trained backbone of a run, without its training data.

  If the method is evaluated by its target network (`method.represent='target'`), loads the target.

  Args:
    workdir: directory of the run.
    step: step of the checkpoint; None = the newest good one.

  Raises:
    UserError: no run, no checkpoint of this step, or a damaged config.

  Example:
    >>> encoder = load(workdir)
    >>> encoder.represent(np.zeros([3, 16, 16, 1], np.uint8)).shape
    (3, 16)
  """
  run = Workdir(workdir)
  config = read_recorded(run.path)
  names = ('params/backbone', 'state/batch_stats/backbone')
  if represents_target(config):
    names = ('state/target/params/backbone', 'state/target/batch_stats/backbone')
  found, trees = restore_subtrees(run, names, step)
  return Encoder(config, found, Backbone(*trees), image_shape(run))


def represents_target(config: Config) -> bool:
  """True if the method of a config is evaluated by its EMA target."""
  return config.method.get('represent') == 'target'


def image_shape(run: Workdir) -> tuple[int, int, int]:
  """(H, W, C) of a run's training images.

  Raises:
    UserError: the run has not recorded the shape.
  """
  path = run.path / 'data.json'
  try:
    height, width, channels = read_object(read_file(path))['image shape']
    if not all(type(size) is int for size in (height, width, channels)):
      raise TypeError
  except (OSError, ValueError, KeyError, TypeError):
    raise UserError(f'{path} does not say the shape of the images: train the run first') from None
  return height, width, channels
