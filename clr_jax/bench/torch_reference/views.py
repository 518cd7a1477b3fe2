"""Random views on the device in plain PyTorch, as in its image libraries.

The work is at most that of `clr_jax.augment`: crops are sampled with `grid_sample`, without
antialiasing, together with the flip, and the jitter has one order for all images.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch  # pyright: ignore[reportMissingImports]
from torch.nn import functional  # pyright: ignore[reportMissingImports]

from clr_jax.augment import policies, presets
from clr_jax.bench.torch_reference import autoaugment, pixels
from clr_jax.core.options import keyword_only

Step = Callable[[torch.Tensor], torch.Tensor]  # [B, C, H, W] in [0, 1] -> same shape and range


def make(
  options: Mapping[str, Any], num_views: int, *, together: bool
) -> tuple[Callable[[torch.Tensor], Sequence[torch.Tensor]], list[str]]:
  """Returns (function from float images to views, their steps) for a supported policy or preset.

  Args:
    options: options of `config.augment`; missing options have the policy's defaults.
    num_views: number of views per image.
    together: True makes views of one policy by joint operations, for accelerators.
  """
  own = {k: v for k, v in options.items() if k not in ('name', 'num_views', 'recipe')}
  if options['name'] in presets.SOLO:
    different = presets.solo_options(options['name'], options['recipe'])
    made = [_view('simclr_family', {**view, **own}) for view in different]
    names = list(dict.fromkeys(name for _, steps in made for name in steps))
    return lambda images: [view(images) for view, _ in made], names
  view, names = _view(options['name'], own)
  if together:
    return lambda images: view(images.repeat(num_views, 1, 1, 1)).chunk(num_views), names
  return lambda images: [view(images) for _ in range(num_views)], names


def _view(name: str, given: Mapping[str, Any]) -> tuple[Step, list[str]]:
  """Returns (function from float images to a view, its steps) for a policy."""
  defaults = {k: p.default for k, p in keyword_only(policies.factory(name)).items()}
  options = {**defaults, **given}
  size = options['size']
  steps: dict[str, Step] = {}
  if name in ('affine', 'none', 'crop_flip', 'autoaugment'):
    steps['resize'] = functools.partial(_resize, size=size)
  if name == 'affine':
    keys = ('degrees', 'translate', 'scale', 'shear')
    steps['affine map'] = functools.partial(_affine, **{k: options[k] for k in keys})
    strength = (options['brightness'], options['contrast'], 0.0, 0.0)
    steps['brightness and contrast'] = functools.partial(_jitter, strength=strength, p=1.0)
    steps['noise'] = functools.partial(_noise, sigma=options['noise_sigma'], p=options['noise_p'])
  elif name in ('crop_flip', 'autoaugment'):
    mode = options.get('mode', 'constant')
    steps['shift and flip'] = functools.partial(_shift_flip, padding=options['padding'], mode=mode)
    if name == 'autoaugment':
      own = {k: options[k] for k in ('policy', 'fill')}
      steps['AutoAugment'] = autoaugment.make(**own, size=size)
  elif name != 'none':
    steps |= _of_family(options, size)

  def view(images: torch.Tensor) -> torch.Tensor:
    for step in steps.values():
      images = step(images)
    return images

  return view, list(steps)


def _of_family(options: Mapping[str, Any], size: int) -> dict[str, Step]:
  part = functools.partial
  steps: dict[str, Step] = {
    'random resized crop and flip': part(
      _crop_flip,
      size=size,
      scale=options['crop_scale'],
      ratio=options['crop_ratio'],
      mode=options['method'],
      flip_p=options['flip_p'],
    )
  }
  strength = tuple(options['jitter_strength'] * v for v in options['jitter'])
  if options['jitter_p'] > 0 and any(strength):
    steps['color jitter'] = part(_jitter, strength=strength, p=options['jitter_p'])
  if options['gray_p'] > 0:
    steps['grayscale'] = part(_gray, p=options['gray_p'])
  if options['blur_p'] > 0:
    blur = part(_blur, sigma=options['blur_sigma'], kernel=options['blur_kernel'])
    steps['blur'] = part(blur, p=options['blur_p'])
  if options['solarize_p'] > 0:
    threshold, p = options['solarize_threshold'], options['solarize_p']
    steps['solarize'] = part(_solarize, threshold=threshold, p=p)
  return steps


def _crop_flip(x: torch.Tensor, *, size, scale, ratio, mode, flip_p) -> torch.Tensor:
  """Crops the first of ten boxes that fits, like torchvision's RandomResizedCrop, else all."""
  height, width = x.shape[2:]
  area = height * width * pixels.uniform(x, *scale, 10)
  aspect = torch.exp(pixels.uniform(x, math.log(ratio[0]), math.log(ratio[1]), 10))
  w, h = (area * aspect).sqrt() / width, (area / aspect).sqrt() / height
  fits = (w <= 1) & (h <= 1)
  first = fits.int().argmax(1, keepdim=True)
  w, h = (torch.where(fits.any(1), s.gather(1, first)[:, 0], 1.0) for s in (w, h))
  sign = torch.where(pixels.uniform(x, 0, 1) < flip_p, -1.0, 1.0)
  zero = torch.zeros_like(w)
  left, top = pixels.uniform(x, -1, 1, 2).unbind(1)
  theta = torch.stack([w * sign, zero, (1 - w) * left, zero, h, (1 - h) * top], 1)
  return pixels.sample(x, theta.view(-1, 2, 3), size, mode, 'border').clamp(0, 1)


def _shift_flip(x: torch.Tensor, *, padding: int, mode: str) -> torch.Tensor:
  """Crops a random window of the padded image and flips it, by one gather."""
  size = x.shape[-1]
  padded = functional.pad(x, (padding,) * 4, mode)
  places = torch.arange(size, device=x.device)
  top, left = torch.randint(2 * padding + 1, (2, len(x), 1), device=x.device)
  columns = torch.where(pixels.uniform(x, 0, 1, 1) < 0.5, places, places.flip(0))
  image = torch.arange(len(x), device=x.device)[:, None, None]
  made = padded[image, :, (top + places)[:, :, None], (left + columns)[:, None, :]]
  return made.permute(0, 3, 1, 2)


def _resize(x: torch.Tensor, *, size: int) -> torch.Tensor:
  if x.shape[2:] == (size, size):
    return x
  return functional.interpolate(x, (size, size), mode='bilinear', antialias=True)


def _affine(x: torch.Tensor, *, degrees, translate, scale, shear) -> torch.Tensor:
  """Random rotation, shear, scale and shift, sampled by the inverse map."""
  angle, shear_x, shear_y = (
    pixels.uniform(x, -math.radians(v), math.radians(v)) for v in (degrees, shear, shear)
  )
  factor = 1 / pixels.uniform(x, *scale)
  cos, sin = angle.cos() * factor, angle.sin() * factor
  xx, xy = cos, sin + shear_x.tan() * cos
  yx, yy = shear_y.tan() * cos - sin, cos
  x0, y0 = pixels.uniform(x, -2 * translate, 2 * translate, 2).unbind(1)
  theta = torch.stack([xx, xy, x0, yx, yy, y0], 1).view(-1, 2, 3)
  return pixels.sample(x, theta, x.shape[-1], 'bilinear', 'zeros')


def _jitter(x: torch.Tensor, *, strength, p: float) -> torch.Tensor:
  """Random brightness, contrast, saturation and hue as in torchvision, in this order."""
  changed = x
  for i, value in enumerate(strength[:3]):
    if not value or (i == 2 and x.shape[1] == 1):
      continue
    factor = pixels.uniform(x, max(0.0, 1 - value), 1 + value, 1, 1, 1)
    if i == 0:
      changed = (factor * changed).clamp(0, 1)
      continue
    gray = pixels.luma(changed)
    other = gray.mean((2, 3), keepdim=True) if i == 1 else gray
    changed = (factor * changed + (1 - factor) * other).clamp(0, 1)
  if strength[3] and x.shape[1] == 3:
    changed = _turn_hue(changed, pixels.uniform(x, -strength[3], strength[3], 1, 1))
  return pixels.where_drawn(p, changed, x)


def _turn_hue(x: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
  """Rotates the hue in closed form, as in `clr_jax.augment.color.adjust_hue`."""
  r, g, b = x.unbind(1)
  top = x.amax(1)
  chroma = top - x.amin(1)
  scale = 1 / torch.where(chroma > 0, chroma, 1.0)
  rest = torch.where(g >= b, 2 + (b - r) * scale, 4 + (r - g) * scale)
  sector = torch.where((r >= g) & (r >= b), (g - b) * scale, rest) + 6 * shift

  def channel(n: float) -> torch.Tensor:
    k = (n + sector) % 6
    return top - chroma * torch.minimum(k, 4 - k).clamp(0, 1)

  return torch.stack([channel(5.0), channel(3.0), channel(1.0)], 1)


def _gray(x: torch.Tensor, *, p: float) -> torch.Tensor:
  return pixels.where_drawn(p, pixels.luma(x).expand_as(x), x)


def _blur(x: torch.Tensor, *, sigma, kernel: int | None, p: float) -> torch.Tensor:
  """Blurs by two depthwise convolutions, with a sigma per image."""
  size, channels, height, width = x.shape
  radius = kernel // 2 if kernel else height // 20
  offset = torch.arange(-radius, radius + 1, device=x.device)
  taps = torch.exp(-0.5 * (offset / pixels.uniform(x, *sigma, 1)) ** 2)
  taps = (taps / taps.sum(1, keepdim=True)).repeat_interleave(channels, 0)[:, None]
  padded = functional.pad(x, (radius,) * 4, mode='reflect')
  padded = padded.reshape(1, size * channels, *padded.shape[2:])
  for weight in (taps[:, :, :, None], taps[:, :, None, :]):
    padded = functional.conv2d(padded, weight, groups=size * channels)
  return pixels.where_drawn(p, padded.view(size, channels, height, width), x)


def _solarize(x: torch.Tensor, *, threshold: float, p: float) -> torch.Tensor:
  return pixels.where_drawn(p, torch.where(x >= threshold, 1 - x, x), x)


def _noise(x: torch.Tensor, *, sigma: float, p: float) -> torch.Tensor:
  return pixels.where_drawn(p, (x + sigma * torch.randn_like(x)).clamp(0, 1), x)
