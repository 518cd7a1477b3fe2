"""Shared test images and the way to PIL and back."""

import functools

import jax
import numpy as np
from PIL import Image


def levels(batch: int = 4, height: int = 20, width: int = 14, channels: int = 3) -> np.ndarray:
  """Smooth images with some noise, uint8, no two alike."""
  rng = np.random.default_rng(0)
  y, x = np.mgrid[:height, :width]
  phase = rng.uniform(0, 6, (batch, 1, 1, channels))
  wave = np.sin(x[None, ..., None] / 3 + phase) * np.cos(y[None, ..., None] / 4 + 2 * phase)
  noisy = 128 + 100 * wave + rng.normal(0, 20, wave.shape)
  return np.clip(noisy, 0, 255).astype(np.uint8)


def unit(images: np.ndarray) -> np.ndarray:
  return images.astype(np.float32) / np.float32(255)


def pil(image: np.ndarray) -> Image.Image:
  return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def through_pil(images: np.ndarray, op) -> np.ndarray:
  """op(PIL image, i) of each image, float in [0, 1], [B, H, W, C]."""
  out = [np.asarray(op(pil(image), i)) for i, image in enumerate(images)]
  return unit(np.stack([o.reshape(*o.shape[:2], images.shape[-1]) for o in out]))


def run(op, *args, **static):
  """op(*args, **static), compiled as one program: quicker than operation by operation."""
  return jax.jit(functools.partial(op, **static))(*args)


def assert_levels(got, want, *, off: float = 1.0):
  """Equal up to `off` of the 255 levels (PIL truncates where we keep floats)."""
  np.testing.assert_allclose(np.asarray(got), want, rtol=0, atol=(off + 0.01) / 255)
