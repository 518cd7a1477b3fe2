"""ResNets (He et al., https://arxiv.org/abs/1512.03385) in the layout of torchvision (v1.5).

Names of parameters follow torchvision (`layer1_0` for `layer1.0`, `downsample_conv` for
`downsample.0`), so that weights translate by renaming.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from annotated_types import Ge, Le

from clr_jax.core.bounds import Probability, Share
from clr_jax.core.errors import UserError
from clr_jax.core.option_texts import described_by
from clr_jax.core.options import NO_EFFECT_ON_TRAINING
from clr_jax.core.types import Array
from clr_jax.models.norm import BatchNorm
from clr_jax.models.pixels import normalize_pixels
from clr_jax.ops.convolution import convolve

# torchvision: normal with variance 2 / (kernel area * output channels).
kaiming_normal = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')
# torch's default for convolutions and Linear layers: U(-a, a) with a = 1 / sqrt(fan_in).
torch_default = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')

StemName = Literal['imagenet', 'cifar', 'cifar_pad2']
StemInit = Literal['kaiming_normal', 'torch_default']
Downsample = Literal['conv', 'avgpool']
Width = Annotated[int, Ge(1), Le(1024)]

STEM_INITS: dict[StemInit, Callable] = {
  'kaiming_normal': kaiming_normal,
  'torch_default': torch_default,
}


class Stem(NamedTuple):
  """The first convolution and an optional 3x3 max-pool with stride 2."""

  kernel: int
  stride: int
  padding: int
  max_pool: bool


STEMS: dict[StemName, Stem] = {
  'imagenet': Stem(7, 2, 3, True),
  'cifar': Stem(3, 1, 1, False),
  'cifar_pad2': Stem(3, 1, 2, False),  # solo-learn: 32x32 images become 34x34
}


def compute_dtype(name: str | None) -> jnp.dtype | None:
  """Returns the floating dtype `name`, or None for None; raises UserError for other names."""
  if name is None:
    return None
  try:
    dtype = jnp.dtype(name)
  except TypeError:
    dtype = None
  if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
    raise UserError(f'unknown dtype {name!r}: choose float32, bfloat16 or another floating type')
  return dtype


def _conv(features: int, kernel: int, stride: int = 1, padding: int | None = None, **kwargs: Any):
  pad = kernel // 2 if padding is None else padding
  kwargs = {'kernel_init': kaiming_normal, **kwargs}
  return nn.Conv(
    features,
    (kernel, kernel),
    (stride, stride),
    ((pad, pad),) * 2,
    use_bias=False,
    conv_general_dilated=_convolve,
    **kwargs,
  )


def _convolve(x: Array, kernel: Array, stride: Any, padding: Any, **defaults: Any) -> Array:
  """`convolve`, as `nn.Conv` calls it: without dilation or groups, at JAX's precision."""
  del defaults
  return convolve(x, kernel, stride, padding)


def relu(x: Array) -> Array:
  """max(x, 0) with derivative 0 at 0, as `jax.nn.relu`; NaN stays NaN.

  Uses a select instead of a maximum: XLA's fusion on CPUs recomputes a maximum, with everything
  fused into it, in the transpose that starts the next convolution's weight gradient.
  """
  return jnp.where(x <= 0, jnp.zeros((), x.dtype), x)


def _pool(x: Array) -> Array:
  """Global average pool of [B, H, W, C] to [B, C], in float32 or wider."""
  return x.astype(jnp.promote_types(x.dtype, jnp.float32)).mean((1, 2))


class Block(nn.Module, kw_only=True):
  """Residual block: 3x3-3x3, or 1x1-3x3-1x1 with four times `features` outputs (bottleneck).

  The stride is on the (first) 3x3 convolution. Other attributes as in `ResNet`.
  """

  features: int
  stride: int
  bottleneck: bool
  zero_init_residual: bool
  downsample: Downsample
  dtype: Any
  norm_terms: int

  @nn.compact
  def __call__(self, x: Array, train: bool, groups: int) -> Array:
    norm = functools.partial(BatchNorm, terms=self.norm_terms)
    f, s = self.features, self.stride
    layers = [(f, 1, 1), (f, 3, s), (4 * f, 1, 1)] if self.bottleneck else [(f, 3, s), (f, 3, 1)]
    out_features = layers[-1][0]
    shortcut = x
    if s != 1 or x.shape[-1] != out_features:
      if self.downsample == 'avgpool':
        # SAME, not counting the padding, gives odd sizes the output size of the strided 3x3.
        shortcut = nn.avg_pool(x, (s, s), (s, s), 'SAME', count_include_pad=False)
        s = 1
      conv = _conv(out_features, 1, s, dtype=self.dtype, name='downsample_conv')
      shortcut = norm(name='downsample_bn')(conv(shortcut), train=train, groups=groups)
    for i, (features, kernel, stride) in enumerate(layers, 1):
      x = _conv(features, kernel, stride, dtype=self.dtype, name=f'conv{i}')(x)
      last = i == len(layers)
      zero = last and self.zero_init_residual
      scale_init = nn.initializers.zeros if zero else nn.initializers.ones
      x = norm(scale_init=scale_init, name=f'bn{i}')(x, train=train, groups=groups)
      x = relu(x + shortcut) if last else relu(x)
    return x


# The backward pass recomputes everything inside a block from its input (Chen et al.,
# https://arxiv.org/abs/1604.06174). `train` and `groups` are positional because Flax can make only
# positional arguments static.
_RematBlock = nn.remat(Block, static_argnums=(2, 3))


class ResNet(nn.Module, kw_only=True):
  """A ResNet without classifier. Parameters are float32.

  If the collection 'stages' is mutable, a call stores the global average pool of each stage there,
  {'stage1': [B, width], 'stage2': ...}; the last is the feature.

  Attributes:
    blocks: number of blocks in each stage.
    bottleneck: bottleneck instead of basic blocks.
    width: channels of the stem and of the first stage's 3x3 convolutions; 64 times the width
      multiplier.
    stem: first convolution: 'imagenet' (7x7 with stride 2, then a max-pool), 'cifar' (3x3) or
      'cifar_pad2' (3x3, padding 2: solo-learn).
    stem_init: initializer of the first convolution: 'kaiming_normal' (torchvision) or
      'torch_default' (PyTorch's for convolutions).
    zero_init_residual: start every block as the identity (last BatchNorm scale 0).
    downsample: shortcut of strided blocks, 'conv' (1x1 with the stride) or 'avgpool' (average
      pool, then 1x1 without stride).
    mean: per-channel pixel mean, one value for all channels or one each.
    std: per-channel pixel standard deviation, one value for all channels or one each.
    dtype: dtype of the convolutions, such as bfloat16; None takes that of images and parameters.
    remat: keep only the inputs of the blocks for the backward pass, which computes the rest again:
      less memory for about one more forward pass. Parameters and numbers are the same. On CPUs it
      saves nothing, because XLA merges the two forward passes.
    norm_terms: see `BatchNorm.terms`.

  Example:
    >>> import jax
    >>> net = resnet_tiny(width=8, mean=(0.5,), std=(0.5,))
    >>> images = jnp.zeros([2, 8, 8, 1])
    >>> h, _ = jax.eval_shape(
    ...   lambda key: net.init_with_output(key, images, train=False), jax.random.key(0)
    ... )
    >>> h.shape
    (2, 32)
  """

  blocks: tuple[int, ...]
  bottleneck: bool
  width: int
  stem: StemName
  stem_init: StemInit
  zero_init_residual: bool
  downsample: Downsample
  mean: tuple[float, ...]
  std: tuple[float, ...]
  dtype: Any
  remat: bool
  norm_terms: int

  @property
  def num_features(self) -> int:
    """Length F of the feature vector."""
    return self.width * 2 ** (len(self.blocks) - 1) * (4 if self.bottleneck else 1)

  def timm_options(self, size: int, channels: int) -> dict[str, Any] | None:
    """{} if torchvision and timm have this network under the name of its factory, else None."""
    del size
    usual = (self.width, self.stem, self.downsample, channels) == (64, 'imagenet', 'conv', 3)
    return {} if usual and len(self.blocks) == 4 else None

  @nn.compact
  def __call__(
    self, images: Array, *, train: bool, groups: int = 1, stages: bool = False
  ) -> Array | tuple[Array, dict[str, Array]]:
    """Computes features of images.

    Args:
      images: [B, H, W, C] float in [0, 1].
      train: see `BatchNorm`.
      groups: see `BatchNorm`.
      stages: also return the feature maps.

    Returns:
      h [B, F], the global average pool in float32 or wider; with `stages` the pair of h and
      {'stem': [B, H', W', width], 'stage1': ..., ...}, each map being the next one's input.

    Raises:
      UserError: integer images, or a `mean` or `std` that does not fit the number of channels.
    """
    x = normalize_pixels(images, self.mean, self.std)
    kernel, stride, padding, max_pool = STEMS[self.stem]
    x = _conv(
      self.width,
      kernel,
      stride,
      padding,
      dtype=self.dtype,
      kernel_init=STEM_INITS[self.stem_init],
      name='conv1',
    )(x)
    x = relu(BatchNorm(name='bn1', terms=self.norm_terms)(x, train=train, groups=groups))
    if max_pool:
      pads: Any = ((1, 1), (1, 1))  # Flax annotates str only
      x = nn.max_pool(x, (3, 3), (2, 2), pads)
    maps = {'stem': x}
    make_block = _RematBlock if self.remat else Block
    for i, count in enumerate(self.blocks):
      for j in range(count):
        x = make_block(
          features=self.width * 2**i,
          stride=2 if i > 0 and j == 0 else 1,
          bottleneck=self.bottleneck,
          zero_init_residual=self.zero_init_residual,
          downsample=self.downsample,
          dtype=self.dtype,
          norm_terms=self.norm_terms,
          name=f'layer{i + 1}_{j}',
        )(x, train, groups)
      maps[f'stage{i + 1}'] = x
      if self.is_mutable_collection('stages') and not self.is_initializing():
        self.put_variable('stages', f'stage{i + 1}', _pool(x))
    h = _pool(x)
    return (h, maps) if stages else h


def architecture(
  blocks: tuple[int, ...],
  *,
  bottleneck: bool = False,
  width: Width = 64,
  stem: StemName = 'imagenet',
) -> Callable[..., ResNet]:
  """Makes the factory of one architecture; `width` and `stem` are its defaults."""

  @described_by(ResNet)
  def build(
    *,
    width: Width = width,
    stem: StemName = stem,
    stem_init: StemInit = 'kaiming_normal',
    zero_init_residual: bool = False,
    downsample: Downsample = 'conv',
    mean: tuple[Probability, ...] = (0.0,),
    std: tuple[Share, ...] = (1.0,),
    dtype: Any = None,
    remat: Annotated[bool, NO_EFFECT_ON_TRAINING] = False,
    norm_terms: int = 0,
  ) -> ResNet:
    """Builds a `ResNet`; the keywords are its attributes.

    Defaults are torchvision's. Pixels are not normalized unless asked for, as in the official
    SimCLR. Raises UserError for a `dtype` that is not a floating type.

    Example:
      >>> resnet18().num_features
      512
      >>> resnet50(width=128).num_features
      4096
    """
    return ResNet(
      blocks=blocks,
      bottleneck=bottleneck,
      width=width,
      stem=stem,
      stem_init=stem_init,
      zero_init_residual=zero_init_residual,
      downsample=downsample,
      mean=tuple(mean),
      std=tuple(std),
      dtype=compute_dtype(dtype),
      remat=remat,
      norm_terms=norm_terms,
    )

  return build


# One basic block per stage, for images of 8x8 to 32x32 on a laptop's CPU.
resnet_tiny = architecture((1, 1, 1), width=32, stem='cifar')
resnet18 = architecture((2, 2, 2, 2))
resnet34 = architecture((3, 4, 6, 3))
resnet50 = architecture((3, 4, 6, 3), bottleneck=True)
resnet101 = architecture((3, 4, 23, 3), bottleneck=True)

BACKBONES = {
  'resnet_tiny': resnet_tiny,
  'resnet18': resnet18,
  'resnet34': resnet34,
  'resnet50': resnet50,
  'resnet101': resnet101,
}
TORCH_NAMES = {
  'downsample_conv': 'downsample.0',
  'downsample_bn': 'downsample.1',
  r'(layer\d+)_(\d+)': r'\1.\2',
}
