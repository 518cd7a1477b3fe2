"""Parts of random views: draws, sampling, brightness; images are [B, C, H, W] in [0, 1]."""

from __future__ import annotations

import torch  # pyright: ignore[reportMissingImports]
from torch.nn import functional  # pyright: ignore[reportMissingImports]

_LUMA = (0.299, 0.587, 0.114)


def uniform(x: torch.Tensor, low: float, high: float, *more: int) -> torch.Tensor:
  """Uniform draws [B, *more] on the device of x."""
  return low + (high - low) * torch.rand(len(x), *more, device=x.device)


def where_drawn(p: float, changed: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
  """Selects `changed` for each image with probability p, else x."""
  return changed if p >= 1 else torch.where(uniform(x, 0, 1, 1, 1, 1) < p, changed, x)


def sample(
  x: torch.Tensor, theta: torch.Tensor, size: int, mode: str, padding: str
) -> torch.Tensor:
  """Samples views [B, C, size, size] of x by affine maps [B, 2, 3]; see torch's `affine_grid`."""
  grid = functional.affine_grid(theta, [*x.shape[:2], size, size], align_corners=False)
  return functional.grid_sample(x, grid, mode, padding, align_corners=False)


def luma(x: torch.Tensor) -> torch.Tensor:
  """Brightness [B, 1, H, W] of each pixel."""
  if x.shape[1] == 1:
    return x
  r, g, b = x.unbind(1)
  return (_LUMA[0] * r + _LUMA[1] * g + _LUMA[2] * b)[:, None]
