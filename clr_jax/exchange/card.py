"""The model card of an export, in Markdown."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from clr_jax.core.names import listed
from clr_jax.evaluation.encoder import Encoder
from clr_jax.rundir.provenance import code_version, libraries
from clr_jax.rundir.table import table_rows

_TORCHVISION = """\
import torchvision
from safetensors.torch import load_file

model = torchvision.models.{name}()
model.fc = torch.nn.Identity()
model.load_state_dict(load_file('model.safetensors'), strict=True)
features = model.eval()(normalize(images))  # [B, {features}]"""
_TIMM = """\
import timm
from safetensors.torch import load_file

model = timm.create_model({timm})
model.load_state_dict(load_file('model.safetensors'), strict=True)
features = model.eval()(normalize(images))  # [B, {features}]"""
_OWN = """\
from model import load  # model.py of this folder, plain PyTorch

# images: [B, {channels}, H, W] in [0, 1]
features = load('model.safetensors')(images)  # [B, {features}]"""
_FLAX = """\
from flax.traverse_util import unflatten_dict
from safetensors.numpy import load_file

from clr_jax import models

variables = unflatten_dict(load_file('model.safetensors'), sep='/')
module = models.make({arguments})
features = module.apply(variables, images, train=False)  # [B, H, W, {channels}] in [0, 1]"""


def card(
  encoder: Encoder,
  format: str,
  files: Collection[str],
  results: Sequence[Mapping[str, Any]],
  *,
  timm_options: Mapping[str, Any] | None,
) -> str:
  """Text of README.md.

  Args:
    encoder: exported encoder.
    format: 'torchvision', 'timm' or 'flax'.
    files: names of the other files.
    results: measurements of this checkpoint.
    timm_options: keywords by which timm builds the network; {} if torchvision has it, too, None if
      neither has it.
  """
  config = encoder.config
  height, width, channels = encoder.image_shape
  title = f'{config.model.name} by {config.method.name} on {config.data.name}'
  facts = {
    'method': config.method.name,
    'training data': f'{config.data.name}, {config.data.train_split}',
    'training images': f'{height}x{width}x{channels}',
    'steps': f'{encoder.step:,} of {config.batch_size} images',
    'features': f'{encoder.num_features} numbers an image',
    'network': 'the EMA target' if encoder.target else 'the trained one',
    'trained by': f'clr_jax {code_version()}',
    'libraries': ', '.join(f'{name} {version}' for name, version in libraries().items()),
  }
  parts = [
    f'# {title}',
    '\n'.join(f'- {key}: {value}' for key, value in facts.items()),
    f'## Load\n\n{_difference(encoder, format, timm_options)}',
    f'```python\n{_code(encoder, format, timm_options)}\n```',
    f'## Results\n\n{_results(results)}',
  ]
  if 'head.safetensors' in files:
    parts.append('`head.safetensors` has the projector, with its layers by the names of clr_jax.')
  parts.append('`config.json` is the config of the run.')
  return '\n\n'.join(parts) + '\n'


def _difference(encoder: Encoder, format: str, timm_options: Mapping[str, Any] | None) -> str:
  m = encoder.module
  scaled = f'pixels in [0, 1], minus {list(m.mean)}, divided by {list(m.std)}'
  if format == 'flax':
    return f'The module normalizes its input itself: {scaled}.'
  if timm_options is not None:
    return (
      f'The weights are those of `{encoder.config.model.name}` without its classifier. '
      f'`normalize` stands for {scaled}.'
    )
  name = encoder.config.model.name
  theirs = {'stem': 'imagenet', 'width': 64, 'downsample': 'conv'}
  own = {**{key: getattr(m, key) for key in theirs}, 'channels': encoder.image_shape[-1]}
  theirs['channels'] = 3
  different = [f'{k} {own[k]} (not {usual})' for k, usual in theirs.items() if own[k] != usual]
  return (
    f'torchvision and timm have no such network: {listed([name, *different])}. '
    f'`model.py` defines it in plain PyTorch, with the names of their parameters, and normalizes '
    f'its input: {scaled}.'
  )


def _code(encoder: Encoder, format: str, timm_options: Mapping[str, Any] | None) -> str:
  name = encoder.config.model.name
  base = f'{name}_patch16_224' if timm_options else name
  keywords = {'num_classes': 0, **(timm_options or {})}
  words = {
    'name': name,
    'timm': ', '.join([repr(base), *(f'{k}={v!r}' for k, v in keywords.items())]),
    'features': encoder.num_features,
    'channels': encoder.image_shape[-1],
    'arguments': ', '.join(
      [repr(encoder.config.model.name)]
      + [f'{k}={v!r}' for k, v in encoder.config.model.items() if k != 'name']
    ),
  }
  if format == 'flax':
    return _FLAX.format(**words)
  if timm_options is None:
    return _OWN.format(**words)
  return (_TIMM if format == 'timm' else f'import torch\n{_TORCHVISION}').format(**words)


def _results(results: Sequence[Mapping[str, Any]]) -> str:
  if not results:
    return 'None of this checkpoint; `clr-jax evaluate` measures them.'
  header, *rows = table_rows(results)
  lines = [header, ['---'] * len(header), *rows]
  return '\n'.join(f'| {" | ".join(line)} |' for line in lines)
