"""Common entry point of all families, with checks, one generator per image, and integer output."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np

from clr_jax.core.errors import UserError
from clr_jax.evaluation.corruptions import blur, digital, noise, weather
from clr_jax.evaluation.corruptions._tables import constants

SEVERITIES = (1, 2, 3, 4, 5)
LEAST_SIDE = 8  # pixels

FAMILIES: dict[str, Callable[..., np.ndarray]] = {
  function.__name__: function
  for function in (
    noise.gaussian_noise,
    noise.shot_noise,
    noise.impulse_noise,
    noise.speckle_noise,
    blur.defocus_blur,
    blur.glass_blur,
    blur.motion_blur,
    blur.zoom_blur,
    blur.gaussian_blur,
    weather.fog,
    weather.snow,
    weather.spatter,
    digital.brightness,
    digital.contrast,
    digital.saturate,
    digital.elastic_transform,
    digital.pixelate,
    digital.jpeg_compression,
  )
}
NAMES = tuple(FAMILIES)
# Used for validation by the paper, and excluded from its mean.
VALIDATION = ('speckle_noise', 'gaussian_blur', 'spatter', 'saturate')

_CHUNK = 1 << 22  # values per call of a family: some tens of MB of temporaries


def names_for(channels: int) -> tuple[str, ...]:
  """Families for images with 1 or 3 channels: gray images have no saturation.

  Raises:
    UserError: another number of channels.
  """
  if channels not in (1, 3):
    raise UserError(f'corruptions are for images of 1 or 3 channels, not {channels}')
  return tuple(name for name in NAMES if channels == 3 or name != 'saturate')


def corrupt(
  name: str,
  images: np.ndarray,
  *,
  severity: int,
  seed: int,
  indices: np.ndarray | None = None,
) -> np.ndarray:
  """Corrupts images on the host.

  The randomness of an image is a function of (seed, index, name, severity), independent of batch
  size and order. The constants are those of CIFAR-10-C, or of ImageNet-C if the shorter side has 64
  pixels or more; values are truncated to integers as in the published sets.

  Args:
    name: one of `NAMES`.
    images: [N, H, W, C] uint8, H and W at least 8, C 1 or 3.
    severity: 1 to 5.
    seed: at least 0.
    indices: [N] integers >= 0, each image's place in its data set; 0..N-1 if None.

  Returns:
    [N, H, W, C] uint8, a new array.

  Raises:
    UserError: an unknown name or severity, `saturate` of gray images, or images of another form.

  Source: Hendrycks and Dietterich (ICLR 2019, arXiv:1903.12261), make_cifar_c.py and
  make_imagenet_c.py of https://github.com/hendrycks/robustness.
  """
  images = np.asarray(images)
  indices = np.arange(len(images)) if indices is None else np.asarray(indices)
  _check(name, images, severity, seed, indices)
  severity = int(severity)
  n, height, width, channels = images.shape
  arguments = constants(name, severity, min(height, width))
  digest = hashlib.blake2b(f'{seed}/{name}/{severity}'.encode(), digest_size=8).digest()
  stream = int.from_bytes(digest, 'little')
  size = max(1, _CHUNK // (height * width * channels))
  out = np.empty_like(images)
  for start in range(0, n, size):
    part = slice(start, start + size)
    # Philox is counter-based: every key is a separate stream.
    keys = [stream << 64 | int(index) for index in indices[part]]
    rngs = [np.random.Generator(np.random.Philox(key=key)) for key in keys]
    changed = FAMILIES[name](images[part] / 255, rngs, *arguments)
    # The published sets truncate; the small number keeps 3 from becoming 2.9999999 and then 2.
    out[part] = np.floor(255 * np.clip(changed, 0, 1) + 1e-6)
  return out


def _check(name, images, severity, seed, indices):
  if name not in NAMES:
    raise UserError(f'there is no corruption {name!r}; choose from {", ".join(NAMES)}')
  if severity not in SEVERITIES:
    raise UserError(f'severity {severity!r} does not exist; choose 1, 2, 3, 4 or 5')
  if seed < 0:
    raise UserError(f'the seed of corruptions is {seed}; choose 0 or more')
  if images.ndim != 4 or images.dtype != np.uint8 or min(images.shape[1:3]) < LEAST_SIDE:
    raise UserError(
      'corruptions are for uint8 images [N, H, W, C] of at least '
      f'{LEAST_SIDE}x{LEAST_SIDE} pixels, not {images.dtype} {list(images.shape)}'
    )
  if name not in names_for(images.shape[-1]):
    raise UserError(f'{name} needs images with colors; leave it out for those of one channel')
  if indices.shape != (len(images),) or (len(indices) and indices.min() < 0):
    raise UserError(
      f'{len(images)} images need as many indices of 0 or more, not {list(indices.shape)}'
    )
