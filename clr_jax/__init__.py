"""Contrastive and self-supervised visual representation learning in JAX/Flax.

  load_config(spec)                       a config file, by path or name
  train(config, workdir)                  trains a run and evaluates it, or resumes it
  evaluate(workdir, protocol, **options)  measures a checkpoint
  results(workdir)                        everything that was measured in a run
  load(workdir)                           the trained backbone, a function of images
  export(workdir, format='torchvision')   its weights for other libraries

and the rooms `losses`, `augment`, `models`, `methods`, `optim` and `data`, as in
`clr_jax.losses.ntxent`. All are imported when they are first used: `import clr_jax` imports no JAX.

>>> import clr_jax
>>> clr_jax.load_config('quickstart:simclr').method.temperature
0.2
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from clr_jax import augment as augment
  from clr_jax import data as data
  from clr_jax import losses as losses
  from clr_jax import methods as methods
  from clr_jax import models as models
  from clr_jax import optim as optim
  from clr_jax.api import evaluate, export, load, load_config, results, train


__version__ = '0.1.0'
__all__ = ['evaluate', 'export', 'load', 'load_config', 'results', 'train']


_ROOMS = ('augment', 'data', 'losses', 'methods', 'models', 'optim')


def __getattr__(name: str) -> Any:
  if name in _ROOMS:
    return importlib.import_module(f'clr_jax.{name}')
  if name in __all__:
    return getattr(importlib.import_module('clr_jax.api'), name)
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
  return sorted({*globals(), *__all__, *_ROOMS})
