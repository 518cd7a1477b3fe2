"""Writes the backbone of a run for torchvision, timm or Flax: safetensors and a model card."""

from __future__ import annotations

import json
import pathlib
import textwrap
from collections.abc import Mapping
from typing import Any, Literal, get_args

import numpy as np
from etils import epath
from flax import traverse_util
from safetensors.numpy import save

from clr_jax.core.config_tree import to_dict
from clr_jax.core.errors import UserError
from clr_jax.core.names import check_name
from clr_jax.core.storage import (
  atomic_write,
  check_path,
  check_writable,
  files_in,
  translate_errors,
)
from clr_jax.evaluation.encoder import Encoder, load
from clr_jax.exchange.card import card
from clr_jax.models.resnet import STEMS
from clr_jax.models.torch_names import Backbone, to_torch
from clr_jax.rundir.results import read_results
from clr_jax.rundir.weights import restore_subtrees
from clr_jax.rundir.workdir import Workdir

Format = Literal['torchvision', 'timm', 'flax']
FORMATS: tuple[Format, ...] = get_args(Format)
_TEMPLATE = pathlib.Path(__file__).parent / 'model.py.txt'
_FILES = ('model.safetensors', 'head.safetensors', 'model.py', 'config.json', 'README.md')


def export(
  workdir: epath.PathLike,
  out: epath.PathLike | None = None,
  *,
  format: Format = 'torchvision',
  head: bool = False,
  step: int | None = None,
) -> list[epath.Path]:
  """Exports the trained backbone of a run to a folder.

  `model.safetensors` has the weights, `README.md` describes training, loading and results, and
  `config.json` is the run's config. If torchvision and timm do not have the network (because of its
  stem, width or number of channels), `model.py` implements it in plain PyTorch.

  Args:
    workdir: directory of the run.
    out: new or empty folder, or one of an earlier export; None = `export/FORMAT` in the workdir.
    format: names and layouts of the weights: 'torchvision' and 'timm' (the same for ResNets; ViTs
      have timm's), or 'flax' ('/' between names, kernels [height, width, in, out]).
    head: True to write the projector, too, as `head.safetensors`.
    step: step of the checkpoint; None = the newest good one.

  Returns:
    The paths of the files.

  Raises:
    UserError: no run, no checkpoint, a folder with other files, or no projector.

  Example:
    >>> sorted(path.name for path in export(workdir))
    ['README.md', 'config.json', 'model.py', 'model.safetensors']
  """
  check_name(FORMATS, format, 'format')
  run = Workdir(workdir)
  if out is not None:
    check_path(out)
  folder = epath.Path(out) if out is not None else run.path / 'export' / format
  _refuse_foreign(folder)
  encoder = load(workdir, step)
  timm = _timm_options(encoder, format)
  if format == 'torchvision' and timm:
    raise UserError(
      f'torchvision has no {encoder.config.model.name} with these names of weights: give '
      f'--format=timm'
    )
  files: dict[str, str | bytes] = {'model.safetensors': _encode(_backbone(encoder, format), format)}
  if head:
    files['head.safetensors'] = _encode(_projector(run, encoder), format)
  if format != 'flax' and timm is None:
    files['model.py'] = _model_py(encoder)
  config = to_dict(encoder.config)
  files['config.json'] = json.dumps(config, indent=2) + '\n'
  results = [
    record
    for record in read_results(run)
    if record['step'] == encoder.step and record['features'] == 'trained'
  ]
  files['README.md'] = card(encoder, format, files, results, timm_options=timm)
  for name, content in files.items():
    atomic_write(folder / name, content)
  return [folder / name for name in files]


def _refuse_foreign(folder: epath.Path) -> None:
  with translate_errors(folder):
    if folder.exists() and not folder.is_dir():
      raise UserError(f'{folder} is a file: give a folder for the export')
  foreign = [p.name for p in files_in(folder) if p.name not in _FILES or p.is_dir()]
  if foreign:
    raise UserError(
      f'{folder} holds {min(foreign)!r}, which no export wrote: give a new or empty folder'
    )
  try:
    check_writable(folder)
  except OSError as error:
    raise UserError(
      f'{folder} cannot be written ({error.strerror or error}): give another folder'
    ) from None


def _backbone(encoder: Encoder, format: Format) -> Backbone:
  backbone = Backbone(**encoder.variables)
  constants = getattr(encoder.module, 'fixed_arrays', None)
  if format == 'flax' or constants is None:
    return backbone
  params = {**backbone.params, **constants(encoder.config.augment.size)}
  return backbone._replace(params=params)


def _projector(run: Workdir, encoder: Encoder) -> Backbone:
  names = ('params/projector', 'state/batch_stats/projector')
  if encoder.target:
    names = ('state/target/params/projector', 'state/target/batch_stats/projector')
  try:
    _, trees = restore_subtrees(run, names, encoder.step)
  except UserError:
    raise UserError(f'{encoder.config.method.name} has no projector: leave --head out') from None
  return Backbone(*trees)


def _encode(backbone: Backbone, format: Format) -> bytes:
  if format != 'flax':
    return save(to_torch(backbone), metadata={'format': 'pt'})
  flat: Mapping[str, Any] = traverse_util.flatten_dict(backbone._asdict(), sep='/')
  return save({k: np.ascontiguousarray(v) for k, v in flat.items()}, metadata={'format': 'flax'})


def _timm_options(encoder: Encoder, format: Format) -> dict[str, Any] | None:
  """Keywords by which timm builds the network; {} if torchvision has it, too, None if neither."""
  options = getattr(encoder.module, 'timm_options', None)
  if options is None:
    if format != 'flax':
      raise UserError(
        f'{format} has no {encoder.config.model.name}, a backbone of your own: give --format=flax'
      )
    return None
  return options(encoder.config.augment.size, encoder.image_shape[-1])


def _model_py(encoder: Encoder) -> str:
  m = encoder.module
  stem = STEMS[m.stem]
  spec = {
    'blocks': list(m.blocks),
    'bottleneck': m.bottleneck,
    'width': m.width,
    'channels': encoder.image_shape[-1],
    'stem': {'conv1': [stem.kernel, stem.stride, stem.padding], 'max_pool': stem.max_pool},
    'downsample': m.downsample,
    'mean': list(m.mean),
    'std': list(m.std),
  }
  text = textwrap.fill(repr(spec)[1:-1], 96, initial_indent='  ', subsequent_indent='  ')
  return _TEMPLATE.read_text().replace('SPEC = {}', f'SPEC = {{\n{text}\n}}')
