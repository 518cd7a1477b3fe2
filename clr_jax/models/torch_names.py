"""Conversion between torchvision's and timm's names and layouts of parameters and those of clr_jax.

timm's `resnet18`, ..., `resnet101` have torchvision's names; ViTs have timm's. A state dict maps
'layer1.0.conv1.weight' to an array [out, in, height, width].
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from flax import traverse_util

from clr_jax.core.types import PyTree
from clr_jax.models.tables import rows

_LEAVES = {'kernel': 'weight', 'scale': 'weight', 'mean': 'running_mean', 'var': 'running_var'}


class Backbone(NamedTuple):
  """The variables of a backbone, nested dicts of arrays as Flax names them.

  Attributes:
    params: kernels [height, width, in, out], scales and biases.
    batch_stats: running means and variances.
  """

  params: PyTree
  batch_stats: PyTree


def torch_name(path: str) -> str:
  """Converts 'layer1_0/downsample_conv/kernel' to 'layer1.0.downsample.0.weight'."""
  *modules, leaf = path.split('/')
  return '.'.join([*map(_of_module, modules), _LEAVES.get(leaf, leaf)])


@functools.cache
def _of_module(name: str) -> str:
  for pattern, torch in rows('TORCH_NAMES').items():
    if found := re.fullmatch(pattern, name):
      return found.expand(torch)
  return name


def _leaves(tree: PyTree) -> dict[str, Any]:
  return dict(traverse_util.flatten_dict(tree, sep='/'))


def torch_names(backbone: Backbone) -> list[str]:
  """Names of a backbone's state dict."""
  return [torch_name(path) for tree in backbone for path in _leaves(tree)]


def to_torch(backbone: Backbone) -> dict[str, np.ndarray]:
  """State dict of a backbone, without `num_batches_tracked`, which torch fills in."""
  return {
    torch_name(path): to_torch_layout(np.asarray(value))
    for tree in backbone
    for path, value in _leaves(tree).items()
  }


def from_torch(
  tensors: Mapping[str, np.ndarray], like: Backbone
) -> tuple[Backbone, list[str], list[str]]:
  """Reads a state dict.

  Args:
    tensors: a state dict with torchvision's names; others are ignored.
    like: shapes and dtypes to read, as arrays or ShapeDtypeStructs.

  Returns:
    The backbone, with the values of `like` where the state dict has no array of the same shape; the
    torch names that were read; and a reason for each parameter that was not.
  """
  trees, read, missing = [], [], []
  for tree in like:
    flat = _leaves(tree)
    for path, value in flat.items():
      name = torch_name(path)
      found = tensors.get(name)
      if found is None:
        missing.append(f'{name} is missing')
        continue
      found = from_torch_layout(np.asarray(found))
      if found.shape != value.shape:
        missing.append(f'{name} has the shape {found.shape}, not {value.shape}')
        continue
      flat[path] = found.astype(value.dtype)
      read.append(name)
    trees.append(traverse_util.unflatten_dict(flat, sep='/'))
  return Backbone(*trees), read, missing


def to_torch_layout(value: np.ndarray) -> np.ndarray:
  """Transposes convolutions [h, w, in, out] to [out, in, h, w], matrices to [out, in]."""
  order: Any = {4: (3, 2, 0, 1), 2: (1, 0)}.get(value.ndim, range(value.ndim))
  return np.ascontiguousarray(value.transpose(*order))


def from_torch_layout(value: np.ndarray) -> np.ndarray:
  """Inverse of `to_torch_layout`."""
  order: Any = {4: (2, 3, 1, 0), 2: (1, 0)}.get(value.ndim, range(value.ndim))
  return np.ascontiguousarray(value.transpose(*order))
