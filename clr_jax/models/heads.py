"""Projectors, predictors and prototype layers.

Every MLP head of the methods is an `MLPHead` with other attributes; `RECIPES` names them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Annotated, Any, Literal

import flax.linen as nn

from clr_jax.core.bounds import Dimension
from clr_jax.core.errors import UserError
from clr_jax.core.options import OneOf
from clr_jax.core.registry import Registry
from clr_jax.core.types import Array
from clr_jax.models.initializers import uniform
from clr_jax.models.norm import BatchNorm
from clr_jax.models.resnet import compute_dtype, torch_default
from clr_jax.ops.similarity import l2_normalize, similarity

Norm = Literal['none', 'batch', 'batch_no_bias', 'batch_no_affine']
ACTIVATIONS = {'relu': nn.relu, 'gelu': functools.partial(nn.gelu, approximate=False)}
NORMS: dict[Norm, dict[str, bool] | None] = {
  'none': None,
  'batch': {},
  'batch_no_bias': {'use_bias': False},
  'batch_no_affine': {'use_bias': False, 'use_scale': False},
}


class MLPHead(nn.Module, kw_only=True):
  """(Linear - norm - activation) for each hidden width, then Linear - last norm.

  Parameters are float32, named linear0, norm0, linear1, ... Defaults are torch's.

  Attributes:
    hidden_dims: widths of the hidden layers; empty for a single Linear.
    out_dim: width of the output.
    use_bias: biases in the hidden Linear layers.
    last_bias: a bias in the last Linear layer.
    norm: normalization after the hidden Linear layers.
    last_norm: normalization after the last Linear layer.
    activation: 'relu', or 'gelu' in its exact (erf) form.
    linear_init: 'torch_default' (kernels and biases uniform within 1/sqrt(fan_in)) or
      'truncated_normal_02' (standard deviation .02, biases 0; DINO).
    dtype: dtype of the matrix products; None = that of input and parameters.
    norm_terms: see `BatchNorm.terms`.
  """

  hidden_dims: tuple[int, ...] = ()
  out_dim: int
  use_bias: bool = True
  last_bias: bool = True
  norm: Norm = 'none'
  last_norm: Norm = 'none'
  activation: Literal['relu', 'gelu'] = 'relu'
  linear_init: Literal['torch_default', 'truncated_normal_02'] = 'torch_default'
  dtype: Any = None
  norm_terms: int = 0

  @nn.compact
  def __call__(self, x: Array, *, train: bool, groups: int = 1) -> Array:
    """Maps [R, F] to [R, out_dim]; `train` and `groups` as in `BatchNorm`."""
    for i, width in enumerate(self.hidden_dims):
      x = self._layer(i, x, width, self.use_bias, NORMS[self.norm], train, groups)
      x = ACTIVATIONS[self.activation](x)
    last = len(self.hidden_dims)
    return self._layer(last, x, self.out_dim, self.last_bias, NORMS[self.last_norm], train, groups)

  def _layer(self, i, x, width, use_bias, norm, train, groups) -> Array:
    kernel_init, bias_init = {
      'torch_default': (torch_default, uniform(x.shape[-1] ** -0.5)),
      # The official bounds of +-2 are a hundred standard deviations, so a plain normal is equal.
      'truncated_normal_02': (nn.initializers.normal(0.02), nn.initializers.zeros),
    }[self.linear_init]
    x = nn.Dense(
      width,
      use_bias=use_bias,
      dtype=self.dtype,
      kernel_init=kernel_init,
      bias_init=bias_init,
      name=f'linear{i}',
    )(x)
    if norm is not None:
      x = BatchNorm(**norm, terms=self.norm_terms, name=f'norm{i}')(x, train=train, groups=groups)
    return x


class Prototypes(nn.Module, kw_only=True):
  """Scores of normalized embeddings against K prototypes, without bias.

  The last layer of DINO (https://arxiv.org/abs/2104.14294; `weight_norm` makes the scores cosines,
  the official `norm_last_layer`) and of SwAV (https://arxiv.org/abs/2006.09882), which normalizes
  the rows of 'weight' after every step.

  Attributes:
    num: number of prototypes, K.
    weight_norm: divide each prototype by its length inside the layer, with gradient.
  """

  num: int
  weight_norm: bool = False

  @nn.compact
  def __call__(self, x: Array, *, train: bool = False, groups: int = 1) -> Array:
    """Maps [R, D] to unit rows x weight^T [R, K], float32 or wider; ignores `train`, `groups`."""
    del train, groups
    weight = self.param('weight', uniform(x.shape[-1] ** -0.5), (self.num, x.shape[-1]))
    return similarity(l2_normalize(x), l2_normalize(weight) if self.weight_norm else weight)


class JigsawHead(nn.Module, kw_only=True):
  """A head for every patch of an image, then one Linear layer over all patches in order.

  From InfoMin (https://arxiv.org/abs/2005.10243, PyContrast), which shuffles the patches here; in
  clr_jax the augmentation shuffles them.

  Attributes:
    num_patches: number P of patches per image.
    patch: head of a patch.
    join: head of the P concatenated outputs.
  """

  num_patches: int
  patch: MLPHead
  join: MLPHead

  def __call__(self, x: Array, *, train: bool, groups: int = 1) -> Array:
    """Maps [B * P, F], with an image's patches in a row, to [B, D]; for `train` see `BatchNorm`."""
    x = self.patch(x, train=train, groups=groups)
    x = x.reshape(-1, self.num_patches * x.shape[-1])
    return self.join(x, train=train, groups=groups)


_NO_BIAS = {'use_bias': False, 'last_bias': False}

# name -> number of hidden layers, attributes of MLPHead.
RECIPES: dict[str, tuple[int, dict[str, Any]]] = {
  'linear': (0, {}),  # MoCo v1, classifiers
  # SupContrast, TCL; hidden width = feature width. Same: MoCo v2, ReSSL, InfoMin, FlatNCE.
  'supcon': (1, {}),
  'solo_simclr': (1, {}),  # solo-learn 2048/256
  'mocov2': (1, {}),
  # google-research/simclr: BatchNorm everywhere, the last without offset; also RPC 512-512-128.
  'simclr': (2, {'norm': 'batch', 'last_norm': 'batch_no_bias', **_NO_BIAS}),
  # Report and repository of SogCLR on CIFAR: 2048/128.
  'sogclr': (1, {'norm': 'batch', 'last_norm': 'batch_no_affine', **_NO_BIAS}),
  'debiased': (1, {'norm': 'batch', 'use_bias': False}),  # 512/128; also HCL and DCL
  # solo-learn 4096/256, projector and predictor; also W-MSE 1024/64, SwAV 2048/128 and the
  # predictor of NNCLR 4096/256.
  'byol': (1, {'norm': 'batch'}),
  'byol_deepmind': (1, {'norm': 'batch', 'last_bias': False}),
  # facebookresearch/simsiam 2048/2048, predictor 512/2048. The projector's last bias (frozen there)
  # has no effect before BatchNorm and is left out.
  'simsiam_projector': (2, {'norm': 'batch', 'last_norm': 'batch_no_affine', **_NO_BIAS}),
  'simsiam_predictor': (1, {'norm': 'batch', 'use_bias': False}),
  # facebookresearch/moco-v3 with a ResNet, 4096/256 both.
  'mocov3_projector': (1, {'norm': 'batch', 'last_norm': 'batch_no_affine', **_NO_BIAS}),
  'mocov3_predictor': (1, {'norm': 'batch', **_NO_BIAS}),
  # facebookresearch/moco-v3 with a ViT, 4096/256 both: a layer more, and a normalized prediction.
  'mocov3_vit_projector': (2, {'norm': 'batch', 'last_norm': 'batch_no_affine', **_NO_BIAS}),
  'mocov3_vit_predictor': (1, {'norm': 'batch', 'last_norm': 'batch_no_affine', **_NO_BIAS}),
  # facebookresearch/dino 2048/256, before `Prototypes(weight_norm=True)`.
  'dino': (2, {'activation': 'gelu', 'linear_init': 'truncated_normal_02'}),
  'dino_bn': (2, {'activation': 'gelu', 'linear_init': 'truncated_normal_02', 'norm': 'batch'}),
  'vicreg': (2, {'norm': 'batch', 'last_bias': False}),  # facebookresearch/vicreg 8192/8192
  'solo_vicreg': (2, {'norm': 'batch'}),  # solo-learn 2048/2048; also its Barlow Twins
  # facebookresearch/barlowtwins 8192/8192; also ARB 2048/D.
  'barlow': (2, {'norm': 'batch', **_NO_BIAS}),
  'nnclr_projector': (2, {'norm': 'batch', 'last_norm': 'batch'}),  # solo-learn 2048/256
}
Recipe = Annotated[str, OneOf(tuple(RECIPES))]
"""Option of a method that names a head."""


def recipe(
  name: str,
  *,
  out_dim: Dimension,
  hidden_dim: Dimension | None = None,
  dtype: Any = None,
) -> MLPHead:
  """Builds the head `name` of `RECIPES`; all hidden layers have width `hidden_dim`.

  A recipe without hidden layers ('linear') ignores `hidden_dim`.

  Raises:
    UserError: `hidden_dim` is missing.
  """
  layers, attributes = RECIPES[name]
  hidden_dims = () if hidden_dim is None else (hidden_dim,) * layers
  if len(hidden_dims) < layers:
    raise UserError(f'the head {name!r} has hidden layers: set hidden_dim')
  return MLPHead(
    hidden_dims=hidden_dims,
    out_dim=out_dim,
    dtype=compute_dtype(dtype),
    **attributes,
  )


REGISTRY: Registry[Callable[..., MLPHead]] = Registry(
  'head', {name: functools.partial(recipe, name) for name in RECIPES}
)
names, factory, make = REGISTRY.names, REGISTRY.factory, REGISTRY.make
