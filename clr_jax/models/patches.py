"""The first layer of a vision transformer: patches of an image, projected to tokens."""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
from flax.linen.dtypes import promote_dtype

from clr_jax.core.errors import UserError
from clr_jax.core.types import Array
from clr_jax.models.initializers import uniform
from clr_jax.models.transformer import WeightInit


def cut(images: Array, side: int) -> Array:
  """Cuts images [B, H, W, C] into patches [B, H / side, W / side, side, side, C].

  Raises:
    UserError: `side` does not divide the height or the width.
  """
  batch, height, width, channels = images.shape
  if height % side or width % side:
    raise UserError(
      f'patches of {side} pixels do not tile images of {height}x{width}: change model.patch, '
      f'augment.size or data.image_size'
    )
  return images.reshape(batch, height // side, side, width // side, side, channels).swapaxes(2, 3)


class PatchProjection(nn.Module, kw_only=True):
  """A convolution whose stride is its kernel, as a product of matrices.

  Attributes:
    width: length D of a token.
    fixed: stop the gradient to the parameters.
    weight_init: see `clr_jax.models.vit.ViT`; U(-a, a) with a = 1 / sqrt(p p C), PyTorch's default
      for convolutions, or Xavier's for the flattened kernel, with a bias of 0.
    dtype: dtype of the product; None takes that of patches and parameters.
  """

  width: int
  fixed: bool
  weight_init: WeightInit
  dtype: Any

  @nn.compact
  def __call__(self, patches: Array) -> Array:
    """Maps [B, h, w, p, p, C] to [B, h * w, D]."""
    shape = patches.shape[3:]
    inputs = math.prod(shape)
    if self.weight_init == 'xavier_uniform':
      kernel_init, bias_init = uniform((6 / (inputs + self.width)) ** 0.5), nn.initializers.zeros
    else:
      kernel_init = bias_init = uniform(inputs**-0.5)
    kernel = self.param('kernel', kernel_init, (*shape, self.width))
    bias = self.param('bias', bias_init, (self.width,))
    if self.fixed:
      kernel, bias = jax.lax.stop_gradient((kernel, bias))
    flat = patches.reshape(len(patches), -1, inputs)
    flat, kernel, bias = promote_dtype(flat, kernel, bias, dtype=self.dtype)
    return flat @ kernel.reshape(inputs, self.width) + bias[None, None]
