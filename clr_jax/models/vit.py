"""Vision transformers (Dosovitskiy et al., https://arxiv.org/abs/2010.11929), as timm has them.

Names of parameters follow timm (`blocks_0/attn_qkv` for `blocks.0.attn.qkv`), so that weights
translate by renaming.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import Ge, Le

from clr_jax.core.bounds import BelowOne, Dimension, Probability, Share
from clr_jax.core.errors import UserError
from clr_jax.core.option_texts import described_by
from clr_jax.core.options import NO_EFFECT_ON_TRAINING
from clr_jax.core.types import Array
from clr_jax.models.patches import PatchProjection, cut
from clr_jax.models.pixels import normalize_pixels
from clr_jax.models.positions import interpolate, sine_cosine
from clr_jax.models.resnet import compute_dtype
from clr_jax.models.transformer import Attention, Block, WeightInit, layer_norm

Pool = Literal['token', 'mean']
Positions = Literal['learned', 'sine_cosine']
Projection = Literal['learned', 'fixed']
Depth = Annotated[int, Ge(1), Le(128)]
Patch = Annotated[int, Ge(1), Le(128)]

_RematBlock = nn.remat(Block)


class ViT(nn.Module, kw_only=True):
  """A vision transformer without classifier. Parameters are float32.

  If the collection 'stages' is mutable, a call stores the pooled output of each block there, before
  the last normalization: {'stage1': [B, width], 'stage2': ...}. Stochastic depth acts in calls with
  `train` and a random stream 'drop_path'; target networks get none, as in DINO.

  Attributes:
    width: length D of a token.
    depth: number of blocks.
    heads: number of attention heads, a divisor of the width; MoCo v3's vit_small has 12.
    mlp_ratio: width of an MLP's hidden layer, divided by D.
    patch: side of a patch in pixels; images of any size that it divides are taken.
    pool: the feature: 'token' (the class token's output) or 'mean' (the mean of the patches').
    positions: 'learned', resampled for other image sizes (`positions.interpolate`), or
      'sine_cosine', fixed (`positions.sine_cosine`: MoCo v3).
    patch_projection: 'learned', or 'fixed' at its random initial values (MoCo v3, for stability).
    weight_init: 'truncated_normal_02' (standard deviation .02: timm, DINO) or 'xavier_uniform'
      (MoCo v3, where the class token has the standard deviation 1e-6). Biases start at 0.
    drop_path: probability of leaving out a branch of the last block for an image in training
      (stochastic depth, https://arxiv.org/abs/1603.09382); it rises linearly from 0 at the first.
    mean: per-channel pixel mean, one value for all channels or one each.
    std: per-channel pixel standard deviation, one value for all channels or one each.
    dtype: dtype of the products, such as bfloat16; None takes that of images and parameters.
      Softmax and normalizations are computed in float32 or wider.
    remat: keep only the inputs of the blocks for the backward pass, see `ResNet`.
    scan: compile one block and loop over all: compiles faster. Parameters are the same, and results
      agree up to rounding.
    attention: implementation of `jax.nn.dot_product_attention`. 'cudnn' stores no weights, but
      has no second derivatives.

  Example:
    >>> net = vit_tiny(width=8, depth=2, heads=2, patch=4, mean=(0.5,), std=(0.5,))
    >>> h, _ = jax.eval_shape(
    ...   lambda key: net.init_with_output(key, jnp.zeros([2, 8, 8, 1]), train=False),
    ...   jax.random.key(0),
    ... )
    >>> h.shape
    (2, 8)
  """

  width: int
  depth: int
  heads: int
  mlp_ratio: int
  patch: int
  pool: Pool
  positions: Positions
  patch_projection: Projection
  weight_init: WeightInit
  drop_path: float
  mean: tuple[float, ...]
  std: tuple[float, ...]
  dtype: Any
  remat: bool
  scan: bool
  attention: Attention

  @property
  def num_features(self) -> int:
    """Length F of the feature vector."""
    return self.width

  @property
  def frozen_parameters(self) -> tuple[str, ...]:
    """Names of parameters that no optimizer changes."""
    return ('patch_embed_proj',) if self.patch_projection == 'fixed' else ()

  def layer_factors(self, decay: float) -> dict[str, float]:
    """Factors of the learning rate by name: `decay` to the number of blocks above, as in BEiT.

    Example:
      >>> vit_tiny(depth=2).layer_factors(0.5)['blocks_0']
      0.25
    """
    names = [('patch_embed_proj', 'cls_token', 'pos_embed')]
    names += [(f'blocks_{i}',) for i in range(self.depth)]
    return {
      name: decay ** (self.depth + 1 - layer) for layer, group in enumerate(names) for name in group
    }

  def fixed_arrays(self, size: int) -> dict[str, np.ndarray]:
    """Constants that other libraries keep as parameters, for images with sides of `size` pixels."""
    if self.positions == 'learned':
      return {}
    codes = sine_cosine(size // self.patch, size // self.patch, self.width)
    return {'pos_embed': np.pad(codes, ((1, 0), (0, 0)))[None].astype(np.float32)}

  def timm_options(self, size: int, channels: int) -> dict[str, Any]:
    """Keywords of `timm.create_model('vit_..._patch16_224')` that build this network."""
    pool = {'token': {}, 'mean': {'global_pool': 'avg', 'fc_norm': False}}[self.pool]
    return {
      'img_size': size,
      'patch_size': self.patch,
      'embed_dim': self.width,
      'depth': self.depth,
      'num_heads': self.heads,
      'mlp_ratio': self.mlp_ratio,
      'in_chans': channels,
      **pool,
    }

  @nn.compact
  def __call__(
    self, images: Array, *, train: bool, groups: int = 1, last_blocks: int = 0
  ) -> Array | list[Array]:
    """Computes features of images.

    Args:
      images: [B, H, W, C] float in [0, 1].
      train: enables stochastic depth.
      groups: ignored: there are no batch statistics.
      last_blocks: n > 0 returns normalized tokens instead.

    Returns:
      h [B, F] in float32 or wider; with `last_blocks` a list of n arrays [B, 1 + patches, D], the
      outputs of the last n blocks after the last normalization, class token first.

    Raises:
      UserError: images that the patch does not divide, learned positions without square images,
        integer images, or a `mean` or `std` that does not fit the number of channels.
    """
    del groups
    x = self._embed(normalize_pixels(images, self.mean, self.std))
    outputs = self._run_blocks(x, self._kept(len(images), train))
    if self.is_mutable_collection('stages') and not self.is_initializing():
      for i, tokens in enumerate(outputs, 1):
        self.put_variable('stages', f'stage{i}', pooled(tokens, self.pool))
    norm = layer_norm('norm', self.dtype)
    if last_blocks:
      return [norm(tokens) for tokens in outputs[-last_blocks:]]
    return pooled(norm(outputs[-1]), self.pool)

  def _embed(self, x: Array) -> Array:
    """Tokens [B, 1 + patches, D]: class token and projected patches, with positions."""
    patches = cut(x, self.patch)
    batch, rows, columns = patches.shape[:3]
    x = PatchProjection(
      width=self.width,
      fixed=self.patch_projection == 'fixed',
      weight_init=self.weight_init,
      dtype=self.dtype,
      name='patch_embed_proj',
    )(patches)
    std = 1e-6 if self.weight_init == 'xavier_uniform' else 0.02
    token = self.param('cls_token', nn.initializers.normal(std), (1, 1, self.width))
    of_token, of_patches = self._positions(rows, columns)
    token = jnp.broadcast_to(token + of_token, (batch, 1, self.width)).astype(x.dtype)
    return jnp.concatenate([token, x + of_patches.astype(x.dtype)], 1)

  def _positions(self, rows: int, columns: int) -> tuple[Array, Array]:
    """Positions [1, 1, D] of the class token and [1, patches, D] of the patches."""
    if self.positions == 'sine_cosine':
      fixed = jnp.asarray(sine_cosine(rows, columns, self.width), float)
      return jnp.zeros([1, 1, self.width]), fixed[None]
    if self.is_initializing():
      if rows != columns:
        raise UserError(
          f'learned positions need square images, and these have {rows}x{columns} patches: set '
          f"model.positions='sine_cosine'"
        )
      init = nn.initializers.normal(0.02)
      learned = self.param('pos_embed', init, (1, 1 + rows * columns, self.width))
    else:  # of the images at initialization
      learned = jnp.asarray(self.get_variable('params', 'pos_embed'))
    return learned[:, :1], interpolate(learned[:, 1:], rows, columns)

  def _kept(self, batch: int, train: bool) -> Array | None:
    """Factors [depth, 2, batch] of the branches: 0, or the inverse of the probability to stay."""
    if not (train and self.drop_path and self.has_rng('drop_path')):
      return None
    stays = 1 - jnp.linspace(0, self.drop_path, self.depth)[:, None, None]
    drawn = jax.random.bernoulli(self.make_rng('drop_path'), stays, (self.depth, 2, batch))
    return drawn / stays

  def _run_blocks(self, x: Array, kept: Array | None) -> list[Array]:
    """Outputs of all blocks [B, T, D]."""
    shared = {
      'heads': self.heads,
      'hidden': self.mlp_ratio * self.width,
      'weight_init': self.weight_init,
      'attention': self.attention,
      'dtype': self.dtype,
    }
    names = [f'blocks_{i}' for i in range(self.depth)]
    if self.scan and not self.is_initializing() and not self.is_mutable_collection('attention'):
      params = [self.variables['params'][name] for name in names]
      stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params)
      block = Block(**shared, parent=None)

      def step(x: Array, given: tuple[Any, Array | None]) -> tuple[Any, Array]:
        return (block.apply({'params': given[0]}, x, given[1]), x)

      step = jax.checkpoint(step) if self.remat else step
      last, inputs = jax.lax.scan(step, x, (stacked, kept))
      return [*inputs[1:], last]
    make_block, outputs = _RematBlock if self.remat else Block, []
    for i, name in enumerate(names):
      x = make_block(**shared, name=name)(x, None if kept is None else kept[i])
      outputs.append(x)
    return outputs


def pooled(tokens: Array, pool: Pool) -> Array:
  """Reduces tokens [B, 1 + patches, D], class token first, to [B, D] in float32 or wider."""
  tokens = tokens.astype(jnp.promote_types(tokens.dtype, jnp.float32))
  return tokens[:, 0] if pool == 'token' else tokens[:, 1:].mean(1)


def architecture(width: Dimension, depth: Depth, heads: Dimension) -> Callable[..., ViT]:
  """Makes the factory of one architecture; the arguments are its defaults."""

  @described_by(ViT)
  def build(
    *,
    width: Dimension = width,
    depth: Depth = depth,
    heads: Dimension = heads,
    mlp_ratio: Annotated[int, Ge(1), Le(64)] = 4,
    patch: Patch = 16,
    pool: Pool = 'token',
    positions: Positions = 'learned',
    patch_projection: Projection = 'learned',
    weight_init: WeightInit = 'truncated_normal_02',
    drop_path: BelowOne = 0.0,
    mean: tuple[Probability, ...] = (0.0,),
    std: tuple[Share, ...] = (1.0,),
    dtype: Any = None,
    remat: Annotated[bool, NO_EFFECT_ON_TRAINING] = False,
    scan: Annotated[bool, NO_EFFECT_ON_TRAINING] = False,
    attention: Attention = 'xla',
  ) -> ViT:
    """Builds a `ViT`; the keywords are its attributes.

    Raises UserError for heads that do not divide the width, and for a width that is not a multiple
    of 4 with sine-cosine positions.

    Example:
      >>> vit_small().num_features
      384
    """
    if width % heads:
      raise UserError(
        f'model.heads={heads} does not divide model.width={width}: change one of them'
      )
    if positions == 'sine_cosine' and width % 4:
      raise UserError(
        f"model.width={width} is not a multiple of 4, as model.positions='sine_cosine' needs it: "
        f'change one of them'
      )
    return ViT(
      width=width,
      depth=depth,
      heads=heads,
      mlp_ratio=mlp_ratio,
      patch=patch,
      pool=pool,
      positions=positions,
      patch_projection=patch_projection,
      weight_init=weight_init,
      drop_path=drop_path,
      mean=tuple(mean),
      std=tuple(std),
      dtype=compute_dtype(dtype),
      remat=remat,
      scan=scan,
      attention=attention,
    )

  return build


vit_tiny = architecture(192, 12, 3)
vit_small = architecture(384, 12, 6)
vit_base = architecture(768, 12, 12)

BACKBONES = {'vit_tiny': vit_tiny, 'vit_small': vit_small, 'vit_base': vit_base}
TORCH_NAMES = {
  'patch_embed_proj': 'patch_embed.proj',
  r'blocks_(\d+)': r'blocks.\1',
  'attn_qkv': 'attn.qkv',
  'attn_proj': 'attn.proj',
  'mlp_fc1': 'mlp.fc1',
  'mlp_fc2': 'mlp.fc2',
}
