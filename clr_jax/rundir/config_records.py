"""Records of a run's configs: config.json, then config-<n>.json for each start that changed it."""

from __future__ import annotations

import os
from typing import Any

from etils import epath
from ml_collections import ConfigDict, config_dict

from clr_jax.core import user_code
from clr_jax.core.config_tree import Config
from clr_jax.core.errors import UserError
from clr_jax.core.storage import is_local, read_file, translate_errors
from clr_jax.rundir.codec import read_object
from clr_jax.rundir.workdir import FOLDERS, Workdir

FORMAT = 1
"""Version of the files of a run; other versions cannot be read."""


def read_config(workdir: Workdir) -> Config:
  """Reads the config of the run's last start, locked: lists become tuples, None a placeholder.

  Executes the user modules that it was made with, so that the config can be built.

  Raises:
    UserError: the directory is not a run, or one of the modules is missing or has changed.
  """
  load_code(workdir)
  record = last_record(workdir)
  try:
    return ConfigDict(_as_config(record['config'])).lock()
  except (ValueError, KeyError) as error:  # keys that no config has, such as 'a.b'
    raise UserError(
      f'the config.json of {workdir.path} is damaged or was not written by clr-jax: give another '
      f'workdir'
    ) from error


def load_code(workdir: Workdir) -> None:
  """Executes the user modules that a run was made with, if the directory is a run.

  Raises:
    UserError: one is missing or has changed.
  """
  for record in config_records(workdir)[-1:]:
    user_code.load_recorded(record.get('imports', {}), str(workdir.path))


def refuse_no_run(workdir: Workdir) -> None:
  """Raises a UserError if the directory is not a run."""
  last_record(workdir)


def read_config_hash(workdir: Workdir) -> str:
  """`RunIdentity.config_hash` of the run's last start.

  Raises:
    UserError: the directory is not a run.
  """
  return last_record(workdir)['config_hash']


def last_record(workdir: Workdir) -> dict[str, Any]:
  """Content of the record of the run's last start.

  Raises:
    UserError: the directory is not a run.
  """
  records = config_records(workdir)
  if not records:
    raise UserError(f'{workdir.path} is not a run (it has no config.json): give a workdir of train')
  return records[-1]


def _as_config(value: Any) -> Any:
  if isinstance(value, dict):
    return {k: _as_config(v) for k, v in value.items()}
  if isinstance(value, list):
    return tuple(_as_config(v) for v in value)
  return config_dict.placeholder(str) if value is None else value  # so that flags can set it


def config_records(workdir: Workdir) -> list[dict[str, Any]]:
  """Contents of config.json, config-1.json, ..., one per start; [] if there is no run."""
  first = workdir.path / 'config.json'
  with translate_errors(workdir.path):
    if not (_is_there(first) if is_local(first) else first.exists()):
      return []
  _refuse_files(workdir)
  paths = [first]
  while (following := workdir.path / f'config-{len(paths)}.json').exists():
    paths.append(following)
  records = []
  for path in paths:
    try:
      record = read_object(read_file(path))
      kinds = {'config': dict, 'config_hash': str}
      if not all(isinstance(record[key], kind) for key, kind in kinds.items()):
        raise TypeError
      if not isinstance(record.get('imports', {}), dict):
        raise TypeError
      records.append(record)
    except PermissionError as error:
      raise UserError(
        f'{path} cannot be read ({error.strerror}): make it readable, or give another workdir'
      ) from error
    except (OSError, ValueError, KeyError, TypeError):
      raise UserError(
        f'{path} is damaged or was not written by clr-jax: give another workdir'
      ) from None
    if record.get('format') != FORMAT:
      raise UserError(
        f'{workdir.path} was written by another version of clr-jax (format {record.get("format")}, '
        f'this one reads {FORMAT}): use that version, or give a new workdir'
      )
  return records


def _is_there(path: epath.Path) -> bool:
  """True for anything of that name, even a link to nothing; UserError without permission."""
  try:
    os.lstat(path)
  except (FileNotFoundError, NotADirectoryError):
    return False
  except PermissionError as error:
    raise UserError(
      f'no access to {path} ({error.strerror}): make it accessible or give another workdir'
    ) from error
  return True


def _refuse_files(workdir: Workdir) -> None:
  """Raises a UserError for a file or a broken link in place of one of the run's folders."""
  for name in FOLDERS if is_local(workdir.path) else ():
    path = os.path.join(workdir.path, name)
    if os.path.lexists(path) and not os.path.isdir(path):
      raise UserError(f'{path} is not a folder: remove it, or give another workdir')
