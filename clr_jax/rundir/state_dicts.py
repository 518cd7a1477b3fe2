"""Reads backbones from other libraries' files: safetensors and state dicts in several layouts."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from etils import epath
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors

from clr_jax.core.errors import UserError
from clr_jax.core.storage import first_line, is_file, is_local, translate_errors
from clr_jax.core.types import Params, PyTree
from clr_jax.models.torch_names import Backbone, from_torch, torch_names

PICKLED = ('.pt', '.pth', '.tar', '.ckpt', '.bin')
SUFFIXES = ('.safetensors', *PICKLED)
# Keys of state dicts in a file; DINO evaluates its teacher.
_INSIDE = ('teacher', 'state_dict', 'model_state_dict', 'model', 'net', 'student')
# Prefixes of a backbone's names in order of preference: the network that a library evaluates
# precedes its momentum encoder or online network.
_PREFIXES = (
  '',  # torchvision, timm
  'module.encoder_q.',  # MoCo
  'module.base_encoder.',  # MoCo v3
  'backbone.',  # solo-learn; DINO's teacher; lightly with a whole network
  'module.backbone.',  # DINO's student
  'model.backbone.',
  'encoder.',
  'module.encoder.',
  'module.',
  'model.',
  'online_encoder.',
  'encoder_q.',
  'base_encoder.',
)
_CHILDREN = {'0': 'conv1', '1': 'bn1', '4': 'layer1', '5': 'layer2', '6': 'layer3', '7': 'layer4'}
_CHILD = re.compile(r'^(\d)\.')


def is_weight_file(path: str) -> bool:
  """True if a path is a file of weights, not a run."""
  return path.endswith(SUFFIXES)


def read_state_dict(path: epath.PathLike) -> dict[str, np.ndarray]:
  """Reads the arrays of a safetensors file or of a PyTorch checkpoint, by name.

  A checkpoint needs PyTorch; it is read with `weights_only`, which executes no code.

  Raises:
    UserError: no such file, or one that is damaged or has no arrays.
  """
  file = epath.Path(path)
  with translate_errors(file):
    there = is_file(file)
  if not there:
    raise UserError(f'there is no file {file}: correct the path')
  if is_local(file) and not os.access(file, os.R_OK):
    raise UserError(f'{file} cannot be read (Permission denied): make it readable')
  if str(file).endswith('.safetensors'):
    try:
      return load_safetensors(file.read_bytes())
    except (SafetensorError, OSError, ValueError, TypeError) as error:
      raise UserError(
        f'{file} is not a safetensors file ({first_line(error)}): save it again, or give another'
      ) from None
  tensors = _tensors(_unpickle(file))
  if not tensors:
    raise UserError(f'{file} has no state dict: give a checkpoint with one')
  return tensors


def backbone_of(tensors: Mapping[str, np.ndarray], names: Collection[str]) -> dict[str, np.ndarray]:
  """Finds the arrays of a backbone and gives them torchvision's or timm's names.

  Supports the layouts of torchvision, timm, MoCo, MoCo v3, DINO, solo-learn and lightly, including
  a backbone `Sequential(*resnet.children())`, whose children are numbered.

  Args:
    tensors: result of `read_state_dict`.
    names: names of the wanted backbone.

  Returns:
    The arrays found; {} if no layout has any.
  """
  best: dict[str, np.ndarray] = {}
  for prefix in _PREFIXES:
    own = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    numbered = {_CHILD.sub(_child, name): v for name, v in own.items()}
    for layout in (own, numbered):
      found = {name: layout[name] for name in names if name in layout}
      if len(found) > len(best):
        best = found
  return best


def load_backbone(
  path: epath.PathLike, params: Params, batch_stats: PyTree
) -> tuple[Params, PyTree, str]:
  """Loads the backbone from another library's file, where names and shapes agree.

  Args:
    path: path of the file.
    params, batch_stats: trees of the train state, the latter with a key 'backbone' if the backbone
      has statistics; arrays or abstract.

  Returns:
    params and batch_stats with the values of the file on the host, and a sentence about the loaded
    arrays.

  Raises:
    UserError: the file cannot be read, none of its convolutions fit, its positions are those of
      another number of patches, or its numbers are no weights.
  """
  like = Backbone(params['backbone'], batch_stats.get('backbone', {}))
  found = backbone_of(read_state_dict(path), torch_names(like))
  backbone, read, missing = from_torch(found, like)
  if not any(found[name].ndim == 4 for name in read):
    reason = f'such as {missing[0]}' if found else 'it has none of its names'
    raise UserError(
      f'{os.fspath(path)} does not fit the backbone ({reason}): set config.model to match the file'
    )
  if other := [reason for reason in missing if reason.startswith('pos_embed has')]:
    raise UserError(
      f'{os.fspath(path)} has other positions ({other[0]}): set model.patch and augment.size as '
      f'in the training of that network'
    )
  for name in read:
    if reason := _unusable(name, found[name]):
      raise UserError(f'{os.fspath(path)} is damaged or of another kind ({reason}): save it anew')
  report = f'weights from {os.fspath(path)}: {len(read)} of {len(read) + len(missing)} arrays'
  if missing:
    report += f'; the others stay as initialized: {"; ".join(missing[:3])}'
    report += f'; and {len(missing) - 3} more' if len(missing) > 3 else ''
  statistics = {'backbone': backbone.batch_stats} if 'backbone' in batch_stats else {}
  return {**params, 'backbone': backbone.params}, {**batch_stats, **statistics}, report


def _unusable(name: str, array: np.ndarray) -> str:
  """Short reason why an array cannot be the weights of that name; '' if it can."""
  if array.dtype.kind in 'iub':  # quantized, with its scales elsewhere
    return f'{name} has whole numbers of {array.dtype}'
  if not np.isfinite(array.astype(np.float32)).all():
    return f'{name} is not finite'
  if name.endswith('running_var') and array.min() < 0:
    return f'{name} is negative'
  return ''


def _child(match: re.Match[str]) -> str:
  return f'{_CHILDREN.get(match[1], match[1])}.'


def _unpickle(file: epath.Path) -> Any:
  try:
    import torch  # only for files of PyTorch
  except ImportError:
    raise UserError(
      f"{file} is a file of PyTorch, which is not installed: pip install 'clr-jax[peer]', or "
      f'convert it to .safetensors'
    ) from None
  try:
    with file.open('rb') as opened:
      return torch.load(opened, map_location='cpu', weights_only=True)
  except Exception as error:  # raised by PyTorch in many types
    raise UserError(
      f'{file} cannot be read as weights alone ({first_line(error)}): save its state dict anew '
      f'with torch.save(model.state_dict(), FILE)'
    ) from None


def _tensors(content: Any) -> dict[str, np.ndarray]:
  """Finds the state dict in the content of a PyTorch file."""
  if not isinstance(content, Mapping):
    return {}
  for key in _INSIDE:
    if isinstance(content.get(key), Mapping):
      return _tensors(content[key])
  return {
    str(name): value.float().numpy() if value.is_floating_point() else value.numpy()
    for name, value in content.items()
    if hasattr(value, 'numpy')
  }
