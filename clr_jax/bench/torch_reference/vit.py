"""The vision transformers of `clr_jax.models` in plain PyTorch, as timm computes them."""

from __future__ import annotations

import torch  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]
from torch.nn import functional  # pyright: ignore[reportMissingImports]

from clr_jax.models import vit


class Attention(nn.Module):
  """Attention of tokens [B, T, D] by PyTorch's fused operation."""

  def __init__(self, like: vit.ViT):
    super().__init__()
    self.heads = like.heads
    self.qkv = nn.Linear(like.width, 3 * like.width)
    self.proj = nn.Linear(like.width, like.width)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """Maps [B, T, D] to [B, T, D]."""
    q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
    return self.proj(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
  """Two Linear layers with an exact GELU between."""

  def __init__(self, like: vit.ViT):
    super().__init__()
    self.fc1 = nn.Linear(like.width, like.mlp_ratio * like.width)
    self.fc2 = nn.Linear(like.mlp_ratio * like.width, like.width)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """Maps [B, T, D] to [B, T, D]."""
    return self.fc2(functional.gelu(self.fc1(x)))


class Block(nn.Module):
  """`clr_jax.models.transformer.Block` with the attributes of `like`."""

  def __init__(self, like: vit.ViT, drop: float):
    super().__init__()
    self.norm1, self.attn = nn.LayerNorm(like.width, eps=1e-6), Attention(like)
    self.norm2, self.mlp = nn.LayerNorm(like.width, eps=1e-6), Mlp(like)
    self._drop = drop

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """Maps [B, T, D] to [B, T, D]."""
    x = x + self._kept(self.attn(self.norm1(x)))
    return x + self._kept(self.mlp(self.norm2(x)))

  def _kept(self, y: torch.Tensor) -> torch.Tensor:
    """Stochastic depth: each image keeps its branch with probability 1 - drop."""
    if not (self.training and self._drop):
      return y
    stays = 1 - self._drop
    return y * y.new_empty(len(y), 1, 1).bernoulli_(stays).div_(stays)


class PatchEmbed(nn.Module):
  """Projections of patches as a convolution [B, C, H, W] -> [B, patches, D]."""

  def __init__(self, like: vit.ViT, channels: int):
    super().__init__()
    self.proj = nn.Conv2d(channels, like.width, like.patch, like.patch)
    self.proj.requires_grad_(like.patch_projection == 'learned')

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """Maps images to tokens."""
    return self.proj(x).flatten(2).transpose(1, 2)


class ViT(nn.Module):
  """A `clr_jax.models.vit.ViT` in PyTorch, with timm's names, for square images of one size.

  Pixel statistics are float64 until the module is moved `.to` the dtype of the images.
  """

  mean: torch.Tensor
  std: torch.Tensor

  def __init__(self, like: vit.ViT, channels: int, size: int):
    super().__init__()
    self.num_features, self._pool = like.num_features, like.pool
    self.patch_embed = PatchEmbed(like, channels)
    self.cls_token = nn.Parameter(torch.randn(1, 1, like.width) * 0.02)
    if fixed := like.fixed_arrays(size):
      self.register_buffer('pos_embed', torch.tensor(fixed['pos_embed']))
    else:
      tokens = 1 + (size // like.patch) ** 2
      self.pos_embed = nn.Parameter(torch.randn(1, tokens, like.width) * 0.02)
    drops = torch.linspace(0, like.drop_path, like.depth).tolist()
    self.blocks = nn.Sequential(*(Block(like, drop) for drop in drops))
    self.norm = nn.LayerNorm(like.width, eps=1e-6)
    for module in self.modules():
      if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    for name in ('mean', 'std'):
      values = torch.tensor(getattr(like, name), dtype=torch.float64)[:, None, None]
      self.register_buffer(name, values, persistent=False)

  def forward(self, images: torch.Tensor) -> torch.Tensor:
    """Features [B, D] in float32 or wider; images are [B, C, H, W] in [0, 1]."""
    patches = self.patch_embed((images - self.mean) / self.std)
    tokens = torch.cat([self.cls_token.expand(len(images), -1, -1), patches], 1) + self.pos_embed
    x = self.norm(self.blocks(tokens))
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    return x[:, 0] if self._pool == 'token' else x[:, 1:].mean(1)
