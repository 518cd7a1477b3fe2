"""Identity of the run in a directory: its config, later changes, and its training images."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
from absl import logging

from clr_jax.core import user_code
from clr_jax.core.config_tree import Config, leaves, to_dict
from clr_jax.core.consensus import from_process_0
from clr_jax.core.errors import UserError
from clr_jax.core.storage import atomic_write, files_in, read_file, translate_errors
from clr_jax.rundir.codec import now
from clr_jax.rundir.config_records import FORMAT, config_records, last_record
from clr_jax.rundir.paths import absolute, is_moved
from clr_jax.rundir.provenance import code_version
from clr_jax.rundir.workdir import Workdir, refuse_no_place

_DATA = 'data.name'
_FACTS = 'data.json'
_SUMS = ('checksum', 'sample')


class RunIdentity(NamedTuple):
  """Identity of a run, from `open_run`.

  Attributes:
    config_hash: hash, 12 hex digits, of the keys that affect the trained parameters.
    changed: 'key: old -> new' for each key that differs from the run's last start.
  """

  config_hash: str
  changed: tuple[str, ...]


class Recognized(NamedTuple):
  """Result of `check_run`.

  Attributes:
    identity: identity of the run.
    moved: True if the path of its images has changed.
    begins_anew: True if nothing was trained yet and another config replaces the first.
  """

  identity: RunIdentity
  moved: bool = False
  begins_anew: bool = False


def check_run(
  workdir: Workdir,
  config: Config,
  without_effect: Collection[str],
  defaults: Mapping[str, Any] = MappingProxyType({}),
) -> Recognized:
  """Checks that a run can resume or start in a directory; writes nothing.

  Args:
    without_effect, defaults: see `open_run`.

  Raises:
    UserError: another run (with every differing key), or a directory that is not a run.
  """
  config_json = _config_json(config)
  config_hash = hash_config(config_json, without_effect)
  records = config_records(workdir)
  if not records:
    refuse_foreign(workdir)
    return Recognized(RunIdentity(config_hash, ()))
  before = records[-1]['config']
  differing, fatal, moved = _compare(before, config_json, without_effect, defaults)
  if moved or not fatal:
    config_hash = records[-1]['config_hash']  # keeps the results of the run valid
  elif _has_trained(workdir):
    raise UserError(
      f'{workdir.path} holds a run with another config ({"; ".join(fatal.values())}): give a new '
      f'workdir or the old values'
    )
  _refuse_other_code(workdir, records[-1], config)
  identity = RunIdentity(config_hash, tuple(differing.values()))
  return Recognized(identity, moved, bool(fatal) and not moved)


def _refuse_other_code(workdir: Workdir, record: Mapping[str, Any], config: Config) -> None:
  """Raises a UserError if a run resumes with other user modules than it was made with."""
  before, now = record.get('imports', {}), _imports(config)
  if sorted(before.values()) == sorted(now.values()) or not _has_trained(workdir):
    return
  odd = [name for name, digest in now.items() if digest not in before.values()]
  lost = [name for name, digest in before.items() if digest not in now.values()]
  raise UserError(
    f'{workdir.path} was trained with other user code ({", ".join(odd or lost)} '
    f'{"has changed or is new" if odd else "is left out"}): restore it, by --imports=FILE if the '
    f'config does not name it, or give a new workdir'
  )


def _imports(config: Config) -> dict[str, str]:
  return user_code.checksums(config.get('imports') or ())


def hash_in(
  workdir: Workdir,
  config: Config,
  without_effect: Collection[str],
  defaults: Mapping[str, Any] = MappingProxyType({}),
) -> str:
  """Hash of a config in the records of a run, which is the same if its images have moved.

  Args:
    without_effect, defaults: see `open_run`.

  Raises:
    UserError: the directory is not a run.
  """
  record, config_json = last_record(workdir), _config_json(config)
  _, fatal, moved = _compare(record['config'], config_json, without_effect, defaults)
  if moved or not fatal:
    return record['config_hash']
  return hash_config(config_json, without_effect)


def _compare(
  before: Mapping[str, Any],
  after: Mapping[str, Any],
  without_effect: Collection[str],
  defaults: Mapping[str, Any],
) -> tuple[dict[str, str], dict[str, str], bool]:
  """Returns (differing keys, those that affect training, whether that is only the images' path)."""
  old, new = _with_absolute_paths(before), _with_absolute_paths(after)
  for key, value in defaults.items():
    if key in new:
      old.setdefault(key, absolute(key, json.loads(json.dumps(value))))
  differing = _differences(old, new)
  fatal = {key: text for key, text in differing.items() if _has_effect(key, without_effect)}
  moved = fatal.keys() == {_DATA} and is_moved(old[_DATA], new[_DATA])
  return differing, fatal, moved


def open_run(
  workdir: Workdir,
  config: Config,
  without_effect: Collection[str],
  facts: Mapping[str, Any] | None = None,
  defaults: Mapping[str, Any] = MappingProxyType({}),
) -> RunIdentity:
  """Starts a run in a new (or empty) directory, or resumes the run that is there.

  Everything is checked before anything is written.

  Args:
    without_effect: dotted keys that do not affect training, including all keys below them. They may
      differ from the last start: the new config is then recorded as the next `config-<n>.json`. The
      path of the images may change if the images are the same.
    facts: facts about the training images to record, see `check_data`; None = unknown.
    defaults: values by dotted key of options that an earlier record may lack.

  Raises:
    UserError: see `check_run` and `check_data`, or the directory cannot be written.
  """
  identity, moved, begins_anew = check_run(workdir, config, without_effect, defaults)
  code = {'imports': imports} if (imports := _imports(config)) else {}
  known = {} if facts is None else check_data(workdir, facts, moved=moved)
  config_json, number = _config_json(config), len(config_records(workdir))
  if not number:
    _record_config(workdir, 'config.json', identity.config_hash, config_json, **code)
  elif identity.changed:
    # A failed start leaves no lock behind.
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
  """Raises an error if a run would resume with other images; writes nothing.

  Args:
    facts: JSON values; those known on both sides (not None) are compared. 'checksum' covers all
      images, 'sample' some of them, and is compared only if the images have moved.
    moved: True if the path of the images has changed.
    strict: if moved, require one of the two checksums.

  Returns:
    The known facts; {} in all processes but the first.

  Raises:
    UserError: a fact has changed.
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
      f'the images of data.name are not those with which {workdir.path} began '
      f'({", ".join(names[i] for i in differing)} differs): give the path of the same images; to '
      f'evaluate on others set eval.data'
    )
  if differing:
    raise UserError(
      f'the training images of {workdir.path} have changed since it began '
      f'({", ".join(names[i] for i in differing)}): restore them or give a new workdir (if only '
      f'a library decodes them differently, delete {workdir.path / _FACTS} to resume)'
    )
  return known


def _read_facts(workdir: Workdir) -> dict[str, Any]:
  path = workdir.path / _FACTS
  try:
    known = json.loads(read_file(path)) if path.exists() else {}
  except (OSError, ValueError):  # do not raise: the other processes wait for this one
    known = None
  if isinstance(known, dict):
    return known
  logging.warning('%s cannot be read; it will be rewritten', path)
  return {}


def hash_config(config: Mapping[str, Any], without_effect: Collection[str]) -> str:
  """First 12 hex digits of SHA-256 over the canonical JSON of `trajectory`."""
  keys = trajectory(config, without_effect)
  text = json.dumps(keys, sort_keys=True, separators=(',', ':'))
  return hashlib.sha256(text.encode()).hexdigest()[:12]


def trajectory(config: Mapping[str, Any], without_effect: Collection[str]) -> dict[str, Any]:
  """Flat dict of the keys that affect the trained parameters: {'data.name': ...}."""
  return {k: v for k, v in _flat(config).items() if _has_effect(k, without_effect)}


def _config_json(config: Config) -> dict[str, Any]:
  def refuse(value):
    keys = [key for key, found in leaves(config) if found is value or _holds(found, value)]
    where = f'{keys[0]}=' if keys else ''
    raise UserError(
      f'{where}{value!r} is a {type(value).__name__}: use numbers, strings, booleans, None and '
      f'sequences of them'
    )

  # Through JSON text, so that tuples equal the lists read back. Infinity stays a number here.
  return json.loads(json.dumps(to_dict(config), default=refuse))


def _holds(found: Any, value: Any) -> bool:
  return isinstance(found, list | tuple) and any(each is value for each in found)


def _has_trained(workdir: Workdir) -> bool:
  """True if there is a checkpoint or a row of metrics."""
  return any(map(files_in, (workdir.checkpoints, workdir.metrics)))


def refuse_foreign(workdir: Workdir) -> None:
  """Raises a UserError if the directory holds other files than a run."""
  if not workdir.path.exists():
    return
  if not workdir.path.is_dir():
    raise UserError(f'{workdir.path} is a file: give a directory as workdir')
  names = [p.name for p in files_in(workdir.path) if not p.name.startswith('.')]
  # Process 0 of this run may have written config.json meanwhile.
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
  """Makes paths in a flat config absolute; earlier versions recorded relative ones."""
  return {key: absolute(key, value) for key, value in _flat(config).items()}


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, str]:
  """{key: 'key: old -> new'} for different JSON texts (NaN equals NaN); a missing key is None."""
  before, after = ({k: json.dumps(v) for k, v in c.items()} for c in (old, new))
  return {
    key: f'{key}: {before.get(key, "unset")} -> {after.get(key, "unset")}'
    for key in sorted(before.keys() | after.keys())
    if before.get(key, 'null') != after.get(key, 'null')
  }
