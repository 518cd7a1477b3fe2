"""Whose run a directory holds: its config, what was changed later, and its training images."""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import jax
from absl import logging
from ml_collections import ConfigDict, config_dict

from clr_jax.core.config_tree import Config, to_dict
from clr_jax.core.consensus import from_process_0
from clr_jax.core.errors import UserError
from clr_jax.core.storage import atomic_write, translate_errors
from clr_jax.rundir.codec import now
from clr_jax.rundir.provenance import code_version
from clr_jax.rundir.workdir import Workdir

FORMAT = 1
"""Version of what lies in the directory of a run; another one cannot be read."""

_NO_PLACE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR)


class RunIdentity(NamedTuple):
  """What `open_run` found or made.

  Attributes:
    config_hash: 12 hex digits of the keys that change what is trained.
    changed: 'key: old -> new' for each other key that differs from the run's last start.
  """

  config_hash: str
  changed: tuple[str, ...]


def open_run(workdir: Workdir, config: Config, without_effect: Collection[str]) -> RunIdentity:
  """Starts a run in a new (or empty) directory, or recognizes the run that is there.

  Args:
    without_effect: dotted keys that do not change what is trained, each with all below it. They may
      differ from the last start: the new config is then recorded as the next `config-<n>.json`.

  Raises:
    UserError: another run (every differing key is named), or a directory that is no run of ours.
  """
  config_json = _config_json(config)
  config_hash = hash_config(config_json, without_effect)
  records = config_records(workdir)
  if not records:
    _refuse_foreign(workdir)
    _record_config(workdir, 'config.json', config_hash, config_json)
    return RunIdentity(config_hash, ())
  differing = _differences(records[-1]['config'], config_json)
  changed = tuple(differing.values())
  fatal = [text for key, text in differing.items() if _has_effect(key, without_effect)]
  if fatal and _has_trained(workdir):
    raise UserError(
      f'{workdir.path} holds a run with another config ({"; ".join(fatal)}): give a new workdir or '
      f'the old values'
    )
  if changed:
    more = {} if fatal else {'changed': changed}  # a start that failed locks nobody out
    _record_config(workdir, f'config-{len(records)}.json', config_hash, config_json, **more)
  return RunIdentity(config_hash, changed)


def check_data(workdir: Workdir, facts: Mapping[str, Any]) -> None:
  """Records what a run trains on, or refuses to go on with other images than it began with.

  Args:
    facts: JSON values, of which those that both sides know (not None) are compared.

  Raises:
    UserError: a fact is not what it was.
  """
  path = workdir.path / 'data.json'
  names = list(facts)

  def changed() -> list[int]:
    try:
      known = json.loads(path.read_text()) if path.exists() and _has_trained(workdir) else {}
    except ValueError:  # damaged: the other processes wait for this one's answer
      logging.warning('%s cannot be read and is written anew', path)
      known = {}
    pairs = [(known.get(name), facts[name]) for name in names]
    differing = [i for i, (a, b) in enumerate(pairs) if None not in (a, b) and a != b]
    merged = {**known, **{k: v for k, v in facts.items() if v is not None}}
    if not differing and merged != known:
      atomic_write(path, json.dumps(merged, indent=2) + '\n')
    return differing

  differing = from_process_0(changed() if jax.process_index() == 0 else [])
  if differing:
    raise UserError(
      f'the training images of {workdir.path} have changed since it began '
      f'({", ".join(names[i] for i in differing)}): restore them or give a new workdir (if only '
      f'a library decodes them differently, delete {path} to go on)'
    )


def read_config(workdir: Workdir) -> Config:
  """The config of the run's last start, locked: lists come back as tuples, None as a placeholder.

  Raises:
    UserError: the directory is not a run.
  """
  return ConfigDict(_as_config(_last_record(workdir)['config'])).lock()


def read_config_hash(workdir: Workdir) -> str:
  """`RunIdentity.config_hash` of the run's last start.

  Raises:
    UserError: the directory is not a run.
  """
  return _last_record(workdir)['config_hash']


def _last_record(workdir: Workdir) -> dict[str, Any]:
  records = config_records(workdir)
  if not records:
    raise UserError(f'{workdir.path} is not a run (it has no config.json): give a workdir of train')
  return records[-1]


def hash_config(config: Mapping[str, Any], without_effect: Collection[str]) -> str:
  """12 hex digits of sha256 over the canonical JSON of `trajectory`."""
  keys = trajectory(config, without_effect)
  text = json.dumps(keys, sort_keys=True, separators=(',', ':'))
  return hashlib.sha256(text.encode()).hexdigest()[:12]


def trajectory(config: Mapping[str, Any], without_effect: Collection[str]) -> dict[str, Any]:
  """The keys that change what is trained, flat: {'data.name': ...}."""
  return {k: v for k, v in _flat(config).items() if _has_effect(k, without_effect)}


def _config_json(config: Config) -> dict[str, Any]:
  def refuse(value):
    raise UserError(
      f'the config holds a {type(value).__name__}, {value!r}: use numbers, strings, booleans, None '
      f'and sequences of them'
    )

  # Through text, so that a tuple equals the list that is read back. Infinity stays a number here.
  return json.loads(json.dumps(to_dict(config), default=refuse))


def _as_config(value: Any) -> Any:
  if isinstance(value, dict):
    return {k: _as_config(v) for k, v in value.items()}
  if isinstance(value, list):
    return tuple(_as_config(v) for v in value)
  return config_dict.placeholder(str) if value is None else value  # a flag can override it


def config_records(workdir: Workdir) -> list[dict[str, Any]]:
  """The contents of config.json, config-1.json, ...: one for each start; [] if there is no run."""
  with translate_errors(workdir.path):
    if not (workdir.path / 'config.json').exists():
      return []
  paths = [workdir.path / 'config.json']
  while (following := workdir.path / f'config-{len(paths)}.json').exists():
    paths.append(following)
  records = []
  for path in paths:
    try:
      record = json.loads(path.read_text())
      records.append({**record, 'config': record['config'], 'config_hash': record['config_hash']})
    except (ValueError, KeyError, TypeError):
      raise UserError(
        f'{path} is damaged or was not written by clr-jax: give another workdir'
      ) from None
    if record.get('format') != FORMAT:
      raise UserError(
        f'{workdir.path} was written by another version of clr-jax (format {record.get("format")}, '
        f'this one reads {FORMAT}): use that version, or give a new workdir'
      )
  return records


def _has_trained(workdir: Workdir) -> bool:
  """Whether a checkpoint or a row of metrics exists."""
  return any(
    folder.exists() and any(folder.iterdir()) for folder in (workdir.checkpoints, workdir.metrics)
  )


def _refuse_foreign(workdir: Workdir) -> None:
  if not workdir.path.exists():
    return
  if not workdir.path.is_dir():
    raise UserError(f'{workdir.path} is a file: give a directory as workdir')
  names = sorted(p.name for p in workdir.path.iterdir() if not p.name.startswith('.'))
  # Process 0 of this very run may have written config.json since we looked.
  if names and 'config.json' not in names:
    raise UserError(
      f'{workdir.path} holds {names[0]!r} and is not a run of clr-jax: give a new or empty '
      f'directory'
    )


def _record_config(workdir: Workdir, name: str, config_hash: str, config, **more: Any) -> None:
  if jax.process_index():
    return
  stamp = {'format': FORMAT, 'code_version': code_version(), 'time': now(), **more}
  record = {**stamp, 'config_hash': config_hash, 'config': config}
  text = json.dumps(record, indent=2, sort_keys=True)
  try:
    with translate_errors(workdir.path):
      atomic_write(workdir.path / name, text + '\n')
  except OSError as error:
    if error.errno not in _NO_PLACE:
      raise
    raise UserError(
      f'{workdir.path} cannot be written ({error.strerror}): make it writable or give another '
      f'workdir'
    ) from None


def _has_effect(key: str, without_effect: Collection[str]) -> bool:
  return not any(key == name or key.startswith(f'{name}.') for name in without_effect)


def _flat(tree: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
  flat = {}
  for key, value in tree.items():
    if isinstance(value, Mapping) and value:
      flat |= _flat(value, f'{prefix}{key}.')
    else:
      flat[f'{prefix}{key}'] = value
  return flat


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, str]:
  """{key: 'key: old -> new'} where the JSON texts differ (so NaN equals NaN)."""
  before, after = ({k: json.dumps(v) for k, v in _flat(c).items()} for c in (old, new))
  return {
    key: f'{key}: {before.get(key, "unset")} -> {after.get(key, "unset")}'
    for key in sorted(before.keys() | after.keys())
    if before.get(key) != after.get(key)
  }
