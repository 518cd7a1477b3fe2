"""The ResNets and heads of `clr_jax.models` in plain PyTorch, with torchvision's names."""

from __future__ import annotations

import torch  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]

from clr_jax.models import heads, resnet


class Block(nn.Module):
  """`clr_jax.models.resnet.Block` for maps with `inputs` channels and the attributes of `like`."""

  def __init__(self, like: resnet.ResNet, inputs: int, features: int, stride: int):
    super().__init__()
    f, s = features, stride
    layers = [(f, 1, 1), (f, 3, s), (4 * f, 1, 1)] if like.bottleneck else [(f, 3, s), (f, 3, 1)]
    outputs, previous = layers[-1][0], inputs
    for i, (channels, kernel, step) in enumerate(layers, 1):
      conv = nn.Conv2d(previous, channels, kernel, step, kernel // 2, bias=False)
      setattr(self, f'conv{i}', conv)
      setattr(self, f'bn{i}', nn.BatchNorm2d(channels))
      previous = channels
    self.depth, self.downsample = len(layers), None
    if stride != 1 or inputs != outputs:
      self.pool = nn.Identity()
      if like.downsample == 'avgpool':
        self.pool = nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False)
        stride = 1
      conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
      self.downsample = nn.Sequential(conv, nn.BatchNorm2d(outputs))

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """Maps [B, C, H, W] to [B, C', H', W']."""
    shortcut = x if self.downsample is None else self.downsample(self.pool(x))
    for i in range(1, self.depth + 1):
      x = getattr(self, f'bn{i}')(getattr(self, f'conv{i}')(x))
      x = torch.relu(x + shortcut if i == self.depth else x)
    return x


class ResNet(nn.Module):
  """A `clr_jax.models.resnet.ResNet` in PyTorch, with torch's initial weights.

  Pixel statistics are float64 until the module is moved `.to` the dtype of the images.
  """

  mean: torch.Tensor
  std: torch.Tensor

  def __init__(self, like: resnet.ResNet, channels: int = 3):
    super().__init__()
    kernel, stride, padding, self.max_pool = resnet.STEMS[like.stem]
    self.conv1 = nn.Conv2d(channels, like.width, kernel, stride, padding, bias=False)
    self.bn1 = nn.BatchNorm2d(like.width)
    self.num_features = like.num_features
    self.num_stages, inputs = len(like.blocks), like.width
    for i, count in enumerate(like.blocks):
      stage = []
      for j in range(count):
        stage.append(Block(like, inputs, like.width * 2**i, 2 if i and not j else 1))
        inputs = like.width * 2**i * (4 if like.bottleneck else 1)
      setattr(self, f'layer{i + 1}', nn.Sequential(*stage))
    for name in ('mean', 'std'):
      values = torch.tensor(getattr(like, name), dtype=torch.float64)[:, None, None]
      self.register_buffer(name, values, persistent=False)

  def stages(self, images: torch.Tensor) -> list[torch.Tensor]:
    """Feature maps of the stem and of each stage; images are [B, C, H, W] in [0, 1]."""
    x = torch.relu(self.bn1(self.conv1((images - self.mean) / self.std)))
    if self.max_pool:
      x = nn.functional.max_pool2d(x, 3, 2, 1)
    maps = [x]
    for i in range(self.num_stages):
      maps.append(getattr(self, f'layer{i + 1}')(maps[-1]))
    return maps

  def forward(self, images: torch.Tensor) -> torch.Tensor:
    """Features [B, F], the global average pool in float32 or wider."""
    x = self.stages(images)[-1]
    return x.to(torch.promote_types(x.dtype, torch.float32)).mean((2, 3))


def head(like: heads.MLPHead, inputs: int) -> nn.Sequential:
  """Makes the MLP of `like` for features [B, inputs]."""
  activations = {'relu': nn.ReLU, 'gelu': nn.GELU}
  layers: list[nn.Module] = []
  for width in like.hidden_dims:
    layers += [nn.Linear(inputs, width, bias=like.use_bias), *_norm(like.norm, width)]
    layers.append(activations[like.activation]())
    inputs = width
  layers += [nn.Linear(inputs, like.out_dim, bias=like.last_bias)]
  return nn.Sequential(*layers, *_norm(like.last_norm, like.out_dim))


def _norm(name: heads.Norm, width: int) -> list[nn.Module]:
  options = heads.NORMS[name]
  if options is None:
    return []
  norm = nn.BatchNorm1d(width, affine=options.get('use_scale', True))
  if norm.affine and not options.get('use_bias', True):
    norm.bias.requires_grad_(False)  # stays 0
  return [norm]
