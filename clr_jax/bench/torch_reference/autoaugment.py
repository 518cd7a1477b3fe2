"""AutoAugment in plain PyTorch, with separate operations per image; see `clr_jax.augment`.

All operations of a step are computed for the whole batch and selected by masks, so that the host
never waits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from torch.nn import functional  # pyright: ignore[reportMissingImports]

from clr_jax.augment import autoaugment as aa
from clr_jax.bench.torch_reference import pixels

WARPS = ('shear_x', 'shear_y', 'translate_x', 'translate_y', 'rotate')
BLENDS = ('brightness', 'color', 'contrast', 'sharpness')


def make(
  *, policy: aa.PolicyName, size: int, fill: float
) -> Callable[[torch.Tensor], torch.Tensor]:
  """Makes the two steps of the policy for images [B, C, size, size] in [0, 1]."""
  ops, probabilities, bins = aa.POLICIES[policy]
  ranged = policy == 'tcl'
  low = high = aa.magnitude_table(10, size, size)[ops, bins]
  if ranged:
    low, high = aa.ranges_of_tcl(size, size)
  signed = np.isin(aa.OPERATIONS, aa.SIGNED)[ops] & (not ranged)
  columns = [ops, probabilities, low, high - low, signed]
  table = torch.tensor(np.stack(columns, -1), dtype=torch.float32)
  kinds = [
    [aa.OPERATIONS[i] for i in np.unique(ops[probabilities[:, step] > 0, step])]
    for step in range(2)
  ]

  def augment(x: torch.Tensor) -> torch.Tensor:
    drawn = torch.randint(len(table), (len(x),), device=x.device)
    rows = table.to(x.device, non_blocking=True)[drawn]  # [B, 2, 5]
    for step in range(2):
      operation, p, magnitude, spread, has_sign = rows[:, step].unbind(1)
      chance, side = torch.rand(2, len(x), device=x.device)
      operation = torch.where(chance < p, operation, 0.0)
      if ranged:
        magnitude = magnitude + spread * side
        bits = operation == aa.OPERATIONS.index('posterize')
        magnitude = torch.where(bits, magnitude.round(), magnitude)
      magnitude = torch.where((has_sign > 0) & (side < 0.5), -magnitude, magnitude)
      x = apply_operations(x, operation, magnitude, kinds=kinds[step], fill=fill, centered=ranged)
    return x

  return augment


def apply_operations(
  x: torch.Tensor,
  operation: torch.Tensor,
  magnitude: torch.Tensor,
  *,
  kinds: Sequence[str] = aa.OPERATIONS,
  fill: float = 0.0,
  centered: bool = False,
) -> torch.Tensor:
  """`clr_jax.augment.autoaugment.apply_operations` for square images [B, C, H, H]."""
  result = x

  def drawn(name: str) -> torch.Tensor:
    return operation == aa.OPERATIONS.index(name)

  def select(name: str, changed: torch.Tensor) -> None:
    nonlocal result
    result = torch.where(_per_image(drawn(name)), changed, result)

  if warps := [name for name in WARPS if name in kinds]:
    of = {name: torch.where(drawn(name), magnitude, 0.0) for name in warps}
    maps = _maps(of, x, centered)
    moved = pixels.sample(x - fill, maps, x.shape[-1], 'nearest', 'zeros') + fill
    for name in warps:
      select(name, moved)
  others = {
    'brightness': torch.zeros_like,
    'color': pixels.luma,
    'contrast': _mean,
    'sharpness': _smooth,
  }
  factor = _per_image(1 + magnitude)
  for name in BLENDS:
    if name in kinds and not (name == 'color' and x.shape[1] == 1):
      select(name, (factor * x + (1 - factor) * others[name](x)).clamp(0, 1))
  if 'posterize' in kinds:
    step = torch.exp2(8 - _per_image(magnitude))
    select('posterize', ((x * 255).round() / step).floor() * step / 255)
  if 'solarize' in kinds:
    select('solarize', torch.where(x >= _per_image(magnitude), 1 - x, x))
  for name, function in (('autocontrast', _autocontrast), ('equalize', _equalize)):
    if name in kinds:
      select(name, function(x))
  if 'invert' in kinds:
    select('invert', 1 - x)
  return result


def _per_image(value: torch.Tensor) -> torch.Tensor:
  return value[:, None, None, None]


def _maps(of: dict[str, torch.Tensor], x: torch.Tensor, centered: bool) -> torch.Tensor:
  """Affine maps [B, 2, 3]: rotations about the center, shears about it or the corner (0, 0)."""
  zero = torch.zeros_like(x[:, 0, 0, 0])
  shear_x, shear_y, move_x, move_y, angle = (of.get(name, zero) for name in WARPS)
  angle, pixel = torch.deg2rad(angle), 2 / x.shape[-1]
  cos, sin = angle.cos(), angle.sin()
  corner = 0.0 if centered else 1.0
  rows = [cos, shear_x - sin, corner * shear_x - move_x * pixel]
  rows += [shear_y + sin, cos, corner * shear_y - move_y * pixel]
  return torch.stack(rows, 1).view(-1, 2, 3)


def _mean(x: torch.Tensor) -> torch.Tensor:
  return pixels.luma(x).mean((2, 3), keepdim=True)


def _smooth(x: torch.Tensor) -> torch.Tensor:
  if x.shape[-1] < 3:
    return x
  inner = (9 * functional.avg_pool2d(x, 3, 1) + 4 * x[:, :, 1:-1, 1:-1]) / 13
  smooth = x.clone()
  smooth[:, :, 1:-1, 1:-1] = inner
  return smooth


def _autocontrast(x: torch.Tensor) -> torch.Tensor:
  low = x.amin((2, 3), keepdim=True)
  span = x.amax((2, 3), keepdim=True) - low
  return torch.where(span > 0, (x - low) / torch.where(span > 0, span, 1.0), x)


def _equalize(x: torch.Tensor) -> torch.Tensor:
  """Flattens the histogram of each channel of each image, as PIL does."""
  levels = (x.flatten(2) * 255).round().long()  # [B, C, H * W]
  counts = torch.zeros(*levels.shape[:2], 256, dtype=torch.int64, device=x.device)
  counts = counts.scatter_add(2, levels, torch.ones_like(levels))
  last = counts.gather(2, levels.amax(2, keepdim=True))
  step = (levels.shape[2] - last) // 255
  below = counts.cumsum(2) - counts
  table = ((below + step // 2) // step.clamp(min=1)).clamp(max=255)
  chosen = torch.where(step > 0, table.gather(2, levels), levels)
  return (chosen / 255).to(x.dtype).view_as(x)
