"""Paths in a config, recorded as absolute paths."""

from __future__ import annotations

import os
from typing import Any

from clr_jax import data
from clr_jax.core import user_code
from clr_jax.core.config_tree import Config, changed, leaves
from clr_jax.core.errors import UserError
from clr_jax.core.storage import is_local
from clr_jax.data.slices import base_split, parts_of
from clr_jax.rundir.workdir import Workdir

_DATA = ('data.name', 'eval.data', 'eval.protocols.transfer.target')
_FOLDERS = ('data.data_dir', 'init_from')


def absolute(key: str, value: Any) -> Any:
  """Value of a dotted key of a config, with an absolute path if it is a path."""
  if isinstance(value, list | tuple) and key in _DATA:
    return type(value)(absolute(key, each) for each in value)
  if not isinstance(value, str) or not value or not is_local(value):
    return value
  if key in _DATA:
    return data.absolute_name(value)
  return os.path.abspath(os.path.expanduser(value)) if key in _FOLDERS else value


def with_absolute_paths(config: Config) -> Config:
  """Copies a config with absolute paths."""
  values = dict(leaves(config))
  absolutes = {key: absolute(key, value) for key, value in values.items()}
  if values.get('imports'):
    absolutes['imports'] = tuple(map(user_code.resolved, values['imports']))
  return changed(config, {k: v for k, v in absolutes.items() if v != values[k]})


def is_moved(old: Any, new: Any) -> bool:
  """True if two names of data sets differ only in the path."""
  names = old, new
  return (
    old != new
    and all(isinstance(name, str) and data.path_of(name) for name in names)
    and (old.partition(':')[0] == new.partition(':')[0])
  )


def refuse_lost_data(config: Config, recorded: Config, run: Workdir) -> None:
  """Raises a UserError if the recorded images of a run or of its evaluation are missing.

  Args:
    config: config of the run with new values, which are checked when they are loaded.
    recorded: config recorded in the run.
    run: workdir of the run, for the message.
  """
  own, asked = config.data, config.eval
  names = dict(leaves(recorded))
  sources = {
    'data.name': (own.name, own.train_split),
    'eval.data': (asked.get('data') or '', asked.get('train_split') or own.train_split),
  }
  for key, (name, split) in sources.items():
    path = data.path_of(name)
    path = path and path.replace('{split}', base_split(parts_of(split)[0]))
    old = data.path_of(names.get(key) or '')
    if path and old == data.path_of(name) and not os.path.exists(path):
      scheme = data.absolute_name(name).partition(':')[0]
      raise UserError(
        f'the images of {run.path} are no longer in {path}: restore them, or give their new '
        f'location as --config.{key}={scheme}:PATH to train (which records it) or to evaluate'
      )
