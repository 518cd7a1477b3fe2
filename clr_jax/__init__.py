"""Contrastive and self-supervised visual representation learning in JAX/Flax.

  load_config(spec)                       loads a config file by path or name
  train(config, workdir)                  trains and evaluates a run, or resumes it
  evaluate(workdir, protocol, **options)  evaluates a checkpoint
  results(workdir)                        reads all results of a run
  load(workdir)                           loads the trained backbone as a function of images
  export(workdir, format='torchvision')   exports its weights for other libraries

and the packages `losses`, `augment`, `models`, `methods`, `optim` and `data`, as in
`clr_jax.losses.ntxent`. All are imported on first use: `import clr_jax` does not import JAX.

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
