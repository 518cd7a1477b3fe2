"""Independent noise per value: Gaussian, shot, impulse, speckle.

Functions of (x, rngs, constants of `_tables`): x [N, H, W, C] in [0, 1], one generator per image;
they return the same shape, not yet clipped. Source: Hendrycks and Dietterich (ICLR 2019).
"""

from __future__ import annotations

import numpy as np

from clr_jax.evaluation.corruptions._warp import Generators


def gaussian_noise(x: np.ndarray, rngs: Generators, scale: float) -> np.ndarray:
  """Adds Gaussian noise of standard deviation `scale`."""
  return x + scale * _normal(x, rngs)


def speckle_noise(x: np.ndarray, rngs: Generators, scale: float) -> np.ndarray:
  """Adds Gaussian noise of standard deviation `scale` times the value."""
  return x + x * (scale * _normal(x, rngs))


def shot_noise(x: np.ndarray, rngs: Generators, photons: float) -> np.ndarray:
  """Replaces values by Poisson counts, with `photons` expected for a value of 1."""
  events = [rng.poisson(image * photons) for rng, image in zip(rngs, x, strict=True)]
  return np.stack(events) / photons


def impulse_noise(x: np.ndarray, rngs: Generators, amount: float) -> np.ndarray:
  """Sets a share `amount` of all values to 0 or 1 ("salt and pepper") with equal probability."""
  hit = np.stack([rng.random(x.shape[1:]) for rng in rngs])
  # Where a value is hit, its draw below `amount` says by what.
  return np.where(hit < amount, hit < amount / 2, x)


def _normal(x: np.ndarray, rngs: Generators) -> np.ndarray:
  return np.stack([rng.standard_normal(x.shape[1:]) for rng in rngs])
