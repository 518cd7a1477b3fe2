"""Whose run a directory holds: its config, what was changed later, and its training images."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import jax
from absl import logging
from ml_collections import ConfigDict, config_dict

from clr_jax.core import user_code
from clr_jax.core.config_tree import Config, leaves, to_dict
from clr_jax.core.consensus import from_process_0
from clr_jax.core.errors import UserError
from clr_jax.core.storage import atomic_write, files_in, is_local, read_file, translate_errors
from clr_jax.rundir.codec import now, read_object
from clr_jax.rundir.paths import absolute, is_moved
from clr_jax.rundir.provenance import code_version
from clr_jax.rundir.workdir import FOLDERS, Workdir, refuse_no_place

FORMAT = 1
"""Version of what lies in the directory of a run; another one cannot be read."""

_DATA = 'data.name'
_FACTS = 'data.json'
_SUMS = ('checksum', 'sample')


class RunIdentity(NamedTuple):
  """What `open_run` found or made.

  Attributes:
    config_hash: 12 hex digits of the keys that change what is trained.
    changed: 'key: old -> new' for each key that differs from the run's last start.
  """

  config_hash: str
  changed: tuple[str, ...]


class Recognized(NamedTuple):
  """What `check_run` found.

  Attributes:
    identity: of the run.
    moved: its images have another path.
    begins_anew: nothing was trained yet, and another config takes the place of the first.
  """

  identity: RunIdentity
  moved: bool = False
  begins_anew: bool = False


def check_run(workdir: Workdir, config: Config, without_effect: Collection[str]) -> Recognized:
  """Recognizes the run in a directory, or finds that one can start there; nothing is written.

  Args:
    without_effect: see `open_run`.

  Raises:
    UserError: another run (every differing key is named), or a directory that is no run of ours.
  """
  config_json = _config_json(config)
  config_hash = hash_config(config_json, without_effect)
  records = config_records(workdir)
  if not records:
    refuse_foreign(workdir)
    return Recognized(RunIdentity(config_hash, ()))
  differing, fatal, moved = _compare(records[-1]['config'], config_json, without_effect)
  if moved or not fatal:
    config_hash = records[-1]['config_hash']  # the results of the run stay its own
  elif _has_trained(workdir):
    raise UserError(
      f'{workdir.path} holds a run with another config ({"; ".join(fatal.values())}): give a new '
      f'workdir or the old values'
    )
  _refuse_other_code(workdir, records[-1], config)
  identity = RunIdentity(config_hash, tuple(differing.values()))
  return Recognized(identity, moved, bool(fatal) and not moved)


def _refuse_other_code(workdir: Workdir, record: Mapping[str, Any], config: Config) -> None:
  """UserError if a run goes on with other modules of the user's than it was made with."""
  before, now = record.get('imports', {}), _imports(config)
  if sorted(before.values()) == sorted(now.values()) or not _has_trained(workdir):
    return
  odd = [name for name, digest in now.items() if digest not in before.values()]
  lost = [name for name, digest in before.items() if digest not in now.values()]
  raise UserError(
    f'{workdir.path} was trained with other code of yours ({", ".join(odd or lost)} '
    f'{"has changed or is new" if odd else "is left out"}): put it back as it was, by '
    f'--imports=FILE if the config does not name it, or give a new workdir'
  )


def _imports(config: Config) -> dict[str, str]:
  return user_code.checksums(config.get('imports') or ())


def hash_in(workdir: Workdir, config: Config, without_effect: Collection[str]) -> str:
  """The hash of a config in the records of a run: its own, also where its images have moved.

  Raises:
    UserError: the directory is not a run.
  """
  record, config_json = _last_record(workdir), _config_json(config)
  _, fatal, moved = _compare(record['config'], config_json, without_effect)
  if moved or not fatal:
    return record['config_hash']
  return hash_config(config_json, without_effect)


def _compare(
  before: Mapping[str, Any], after: Mapping[str, Any], without_effect: Collection[str]
) -> tuple[dict[str, str], dict[str, str], bool]:
  """(what differs, what of it changes what is trained, whether that is only the images' path)."""
  old, new = _with_absolute_paths(before), _with_absolute_paths(after)
  differing = _differences(old, new)
  fatal = {key: text for key, text in differing.items() if _has_effect(key, without_effect)}
  moved = fatal.keys() == {_DATA} and is_moved(old[_DATA], new[_DATA])
  return differing, fatal, moved


def open_run(
  workdir: Workdir,
  config: Config,
  without_effect: Collection[str],
  facts: Mapping[str, Any] | None = None,
) -> RunIdentity:
  """Starts a run in a new (or empty) directory, or recognizes the run that is there.

  Nothing is written before all is checked.

  Args:
    without_effect: dotted keys that do not change what is trained, each with all below it. They may
      differ from the last start: the new config is then recorded as the next `config-<n>.json`. So
      may the path of the images, where they are the same.
    facts: about the training images, see `check_data`; they are recorded. None: not known.

  Raises:
    UserError: as `check_run` and `check_data` do, or the directory cannot be written.
  """
  identity, moved, begins_anew = check_run(workdir, config, without_effect)
  code = {'imports': imports} if (imports := _imports(config)) else {}
  known = {} if facts is None else check_data(workdir, facts, moved=moved)
  config_json, number = _config_json(config), len(config_records(workdir))
  if not number:
    _record_config(workdir, 'config.json', identity.config_hash, config_json, **code)
  elif identity.changed:
    # A start that failed locks nobody out.
    more = code if begins_anew else {**code, 'changed': identity.changed}
    _record_config(workdir, f'config-{number}.json', identity.config_hash, config_json, **more)
  if facts is not None and jax.process_index() == 0:
    merged = {**known, **{k: v for k, v in facts.items() if v is not None}}
    if merged != known:
      atomic_write(workdir.path / _FACTS, json.dumps(merged, indent=2) + '\n')
  return identity


def check_data(
  workdir: Workdir, facts: Mapping[str, Any], *, moved: bool = False, strict: bool = True
) -> dict[str, Any]:
  """Refuses to go on with other images than a run began with; nothing is written.

  Args:
    facts: JSON values, of which those that both sides know (not None) are compared; 'checksum' is
      of all images, 'sample' of some, which counts only where the images have moved.
    moved: the images lie in another place.
    strict: then one of the two checksums must be known.

  Returns:
    What is known about the images; {} in all processes but the first.

  Raises:
    UserError: a fact is not what it was.
  """
  names, known = list(facts), {}
  differing: list[int] = []
  if jax.process_index() == 0:
    known = _read_facts(workdir) if _has_trained(workdir) else {}
    both = [name for name in names if None not in (known.get(name), facts[name])]
    sums = [name for name in ('checksum', 'sample') if name in both][:1] if moved else ['checksum']
    compared = [name for name in both if name not in _SUMS or name in sums]
    differing = [names.index(name) for name in compared if known[name] != facts[name]]
    if moved and strict and not differing and not sums and _has_trained(workdir):
      differing = [len(names)]
  differing = from_process_0(differing)
  if differing == [len(names)]:
    raise UserError(
      f'data.name has changed and {workdir.path} has no checksum of its images: give the old path, '
      f'or make a link there'
    )
  if differing and moved:
    raise UserError(
      f'the images that data.name names are not those with which {workdir.path} began '
      f'({", ".join(names[i] for i in differing)} differs): give the path of the same images; for '
      f'others to evaluate on there is eval.data'
    )
  if differing:
    raise UserError(
      f'the training images of {workdir.path} have changed since it began '
      f'({", ".join(names[i] for i in differing)}): restore them or give a new workdir (if only '
      f'a library decodes them differently, delete {workdir.path / _FACTS} to go on)'
    )
  return known


def _read_facts(workdir: Workdir) -> dict[str, Any]:
  path = workdir.path / _FACTS
  try:
    known = json.loads(read_file(path)) if path.exists() else {}
  except (OSError, ValueError):  # the other processes wait for this one's answer
    known = None
  if isinstance(known, dict):
    return known
  logging.warning('%s cannot be read and is written anew', path)
  return {}


def read_config(workdir: Workdir) -> Config:
  """The config of the run's last start, locked: lists come back as tuples, None as a placeholder.

  Runs the modules of the user's that it was made with, so that the config can be built.

  Raises:
    UserError: the directory is not a run, or one of the modules is missing or has changed.
  """
  load_code(workdir)
  return ConfigDict(_as_config(_last_record(workdir)['config'])).lock()


def load_code(workdir: Workdir) -> None:
  """Runs the modules of the user's that a run was made with, if the directory is one.

  Raises:
    UserError: one is missing or has changed.
  """
  for record in config_records(workdir)[-1:]:
    user_code.load_recorded(record.get('imports', {}), str(workdir.path))


def refuse_no_run(workdir: Workdir) -> None:
  """UserError if the directory is not a run."""
  _last_record(workdir)


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
    keys = [key for key, found in leaves(config) if found is value or _holds(found, value)]
    where = f'{keys[0]}=' if keys else ''
    raise UserError(
      f'{where}{value!r} is a {type(value).__name__}: use numbers, strings, booleans, None and '
      f'sequences of them'
    )

  # Through text, so that a tuple equals the list that is read back. Infinity stays a number here.
  return json.loads(json.dumps(to_dict(config), default=refuse))


def _holds(found: Any, value: Any) -> bool:
  return isinstance(found, list | tuple) and any(each is value for each in found)


def _as_config(value: Any) -> Any:
  if isinstance(value, dict):
    return {k: _as_config(v) for k, v in value.items()}
  if isinstance(value, list):
    return tuple(_as_config(v) for v in value)
  return config_dict.placeholder(str) if value is None else value  # a flag can override it


def config_records(workdir: Workdir) -> list[dict[str, Any]]:
  """The contents of config.json, config-1.json, ...: one for each start; [] if there is no run."""
  first = workdir.path / 'config.json'
  with translate_errors(workdir.path):
    if not first.exists() and not (is_local(first) and os.path.islink(first)):  # a lost link is one
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
      records.append(record)
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


def _refuse_files(workdir: Workdir) -> None:
  """UserError for a file, or a link to nowhere, in place of one of the run's folders."""
  for name in FOLDERS if is_local(workdir.path) else ():
    path = os.path.join(workdir.path, name)
    if os.path.lexists(path) and not os.path.isdir(path):
      raise UserError(f'{path} is no folder: remove it, or give another workdir')


def _has_trained(workdir: Workdir) -> bool:
  """Whether a checkpoint or a row of metrics exists."""
  return any(map(files_in, (workdir.checkpoints, workdir.metrics)))


def refuse_foreign(workdir: Workdir) -> None:
  """UserError if the directory holds other things than a run."""
  if not workdir.path.exists():
    return
  if not workdir.path.is_dir():
    raise UserError(f'{workdir.path} is a file: give a directory as workdir')
  names = [p.name for p in files_in(workdir.path) if not p.name.startswith('.')]
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
  with refuse_no_place(workdir), translate_errors(workdir.path):
    atomic_write(workdir.path / name, text + '\n')


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


def _with_absolute_paths(config: Mapping[str, Any]) -> dict[str, Any]:
  """Flat; earlier versions recorded paths as they were given."""
  return {key: absolute(key, value) for key, value in _flat(config).items()}


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, str]:
  """{key: 'key: old -> new'} of flat configs where the JSON texts differ (so NaN equals NaN)."""
  before, after = ({k: json.dumps(v) for k, v in c.items()} for c in (old, new))
  return {
    key: f'{key}: {before.get(key, "unset")} -> {after.get(key, "unset")}'
    for key in sorted(before.keys() | after.keys())
    if before.get(key) != after.get(key)
  }
