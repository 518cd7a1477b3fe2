"""Normalization of features before a classifier sees them."""

from __future__ import annotations

from typing import Literal

import jax.numpy as jnp
import numpy as np

from clr_jax.evaluation.probing.placement import BLOCK, SMALL
from clr_jax.ops.batches import batches
from clr_jax.ops.similarity import l2_normalize

Normalization = Literal['none', 'l2', 'standardize']


def standardization(h: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Mean [F] and factor [F], both float64, such that (h - mean) * factor has deviation 1.

  A constant feature becomes 0. `h` is [..., F].
  """
  examples = tuple(range(h.ndim - 1))
  mean, std = h.mean(examples, dtype=np.float64), h.std(examples, dtype=np.float64)
  return mean, 1 / np.where(std > 1e-6 * np.abs(mean), std, np.inf)


def _of_length_1(h: np.ndarray) -> np.ndarray:
  """Divides each row of h [..., F] by its norm on the device, which need not hold all rows."""
  if h.nbytes <= SMALL:
    return np.asarray(l2_normalize(jnp.asarray(h)))
  out = np.empty(h.shape, h.dtype)
  rows, into = (x.reshape(-1, h.shape[-1]) for x in (h, out))
  for part, count in batches(np.arange(len(rows)), max(1, BLOCK // rows[0].nbytes)):
    into[part[:count]] = l2_normalize(jnp.asarray(rows[part]))[:count]
  return out


def normalized(
  train: np.ndarray, test: np.ndarray, how: Normalization
) -> tuple[np.ndarray, np.ndarray]:
  """Normalizes both sets of features: not at all, to length 1, or by training statistics."""
  if how == 'none':
    return train, test
  if how == 'l2':
    return _of_length_1(train), _of_length_1(test)
  mean, factor = (x.astype(train.dtype) for x in standardization(train))
  scaled = train - mean, test - mean
  for part in scaled:
    part *= factor  # in place: of ImageNet another copy would be 10 GB
  return scaled
