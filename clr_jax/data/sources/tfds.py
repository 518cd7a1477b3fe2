"""TFDS data sets, prepared once as array_record and read without TensorFlow."""

from __future__ import annotations

import contextlib
import functools
import os
import re
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from etils import epath

from clr_jax.core.errors import UserError
from clr_jax.core.locks import one_at_a_time
from clr_jax.core.storage import (
  files_in,
  first_line,
  is_file,
  is_local,
  read_file,
  translate_errors,
)
from clr_jax.data import images as images_lib
from clr_jax.data import label_store, preparing
from clr_jax.data.encoded import EncodedSource
from clr_jax.data.slices import base_split, selected_rows
from clr_jax.data.walking import visible
from clr_jax.data.whole import Whole

SIZES_DIFFER = True
_NAME = re.compile(r'(?P<name>\w+)(/(?P<config>[\w.\-+]+))?(:(?P<version>\d+\.\d+\.\d+))?')
_VERSION = re.compile(r'\d+\.\d+\.\d+')
# Labels of more data are stored once read: reading 1.28 million takes minutes.
_STORE_LABELS_BYTES = 2**30
_SAMPLE = 64  # examples whose headers are read, evenly spaced
_IGNORED = {  # changes that are made only to the files of folders
  images_lib.TRANSPARENT: 'transparency is ignored, as TFDS does',
  images_lib.ROTATED: 'the orientation in EXIF is ignored, as TFDS does',
}


class TfdsSource(EncodedSource):
  """One split of a prepared TFDS data set: its image and, if it has one, its class label."""

  as_shown = False

  def __init__(
    self,
    *,
    name: str,
    split: str,
    data_dir: str | None,
    image_size: int | None,
    channels: int | None,
    limit: int | None,
    whole: Whole | None = None,
  ):
    """Opens the data set `name`, 'cifar10', 'name/config' or 'name:1.2.3'; prepares it if needed.

    Raises:
      UserError: unknown name, configuration or split, preparation impossible, no uint8 image
        feature, or images of several sizes without `image_size` and `whole`.
    """
    builder = _builder(name, _data_dir(data_dir))
    sizes = {s: info.num_examples for s, info in builder.info.splits.items()}
    base, rows = selected_rows(split, sizes, source=name, limit=limit)
    self._image_key, self._label_key = _feature_keys(builder.info, name)
    self._reader = _open(builder, base, self._image_key, name)
    self._folder = epath.Path(builder.data_dir)
    self._base = base
    stored: Any = builder.info.splits[base]
    self._store_labels = stored.num_bytes * len(rows) / sizes[base] > _STORE_LABELS_BYTES
    self._files = [path.name for path in stored.filepaths]
    self._file_ends = np.cumsum(stored.shard_lengths)
    self.image_size = image_size
    features: Any = builder.info.features
    height, width, own_channels = features[self._image_key].shape
    if image_size is not None or (whole and height and width and not whole.always):
      whole = None
    if side := image_size or (whole and whole.size):
      height = width = side
    if height is None or width is None:
      raise UserError(f'the images of {name} differ in size: set data.image_size')
    self.name = name  # for the message if the first example cannot be read
    key = self._label_key
    if key is not None and self._examples(rows[:1])[0][key] < 0:
      key = self._label_key = None  # unlabeled (stl10's 'unlabelled'): every label is -1
    label = None if key is None else features[key]
    super().__init__(
      name=name,
      split=split,
      rows=rows,
      image_shape=(height, width, channels or (1 if own_channels == 1 else 3)),
      num_classes=label.num_classes if label else None,
      class_names=tuple(label.names) if label and label.names else None,
      origin=f'{os.path.realpath(self._folder)} {base}',
      notes=self._ignored(rows),
      whole=whole,
    )

  def _ignored(self, rows: np.ndarray) -> tuple[str, ...]:
    """Sentences about ignored parts of images."""
    count = min(_SAMPLE, len(rows))
    facts: set[str] = set()
    for example in self._examples(rows[np.arange(count) * len(rows) // count]):
      with contextlib.suppress(UserError):  # it is refused when it is read
        facts.update(images_lib.read_header(example[self._image_key], self.image_size).facts)
    return tuple(_IGNORED[fact] for fact in sorted(facts) if fact in _IGNORED)

  def _encoded(self, rows: np.ndarray) -> tuple[Iterable[tuple[bytes, str]], np.ndarray | None]:
    examples, key = self._examples(rows), self._label_key
    found = (
      (example[self._image_key], self._where(row))
      for row, example in zip(rows, examples, strict=True)
    )
    return found, None if key is None else np.array([x[key] for x in examples], np.int32)

  def _read_labels(self, rows: np.ndarray) -> np.ndarray | None:
    key = self._label_key
    if key is None:
      return None
    return np.array([example[key] for example in self._examples(rows)], np.int32)

  def labels(self) -> np.ndarray | None:
    if self._label_key is None or self._arrays is not None or not self._store_labels:
      return super().labels()
    return label_store.stored_labels(self._folder, self._files, self._rows, self._labels_by_threads)

  def _examples(self, rows: np.ndarray) -> list[dict[str, Any]]:
    """The stored examples, images still encoded; UserError names a damaged one and its file."""
    try:
      return self._reader.__getitems__(rows.tolist())
    except MemoryError:
      raise
    except Exception as error:  # array_record has no class of its own for damaged files
      if 'Too many open files' in str(error):  # EMFILE, a RuntimeError too
        raise UserError(
          f'{self.name} {self._base} needs its {len(self._files)} files open at once, more than '
          'this process may open: raise `ulimit -n`'
        ) from error
      if len(rows) > 1:
        for row in rows:  # names the one that it is
          self._examples(np.array([row]))
        raise
      raise UserError(
        f'cannot read the example {self._where(rows[0])} ({error}): restore that file, or remove '
        f'{self._folder} to have {self.name} prepared again'
      ) from error

  def _where(self, row: int) -> str:
    file = self._files[np.searchsorted(self._file_ends, row, side='right')]
    return f'{row} of {self.name} {self._base} in {self._folder / file}'


def load(path: str, *, name: str, **options: Any) -> TfdsSource:
  """One split of the data set that TFDS calls `path`; see `clr_jax.data.sources`."""
  del name
  return TfdsSource(name=path, **options)


def splits(path: str, data_dir: str | None) -> list[str]:
  """Splits of the prepared data set; see `clr_jax.data.sources`."""
  return list(_builder(path, _data_dir(data_dir)).info.splits)


def sizes(
  path: str, *, split: str, data_dir: str | None, choose: Callable[[int], np.ndarray]
) -> list[tuple[int, int]]:
  """The size of all, or sizes from the headers of the images; see `clr_jax.data.sources`."""
  builder = _builder(path, _data_dir(data_dir))
  key, _ = _feature_keys(builder.info, path)
  features: Any = builder.info.features
  height, width, _ = features[key].shape
  if height is not None and width is not None:
    return [(height, width)]
  reader = _open(builder, base_split(split), key, path)
  examples = reader.__getitems__(choose(len(reader)).tolist())
  return [images_lib.encoded_size(example[key]) for example in examples]


def available(data_dir: str | None) -> list[tuple[str, str]]:
  """The prepared data sets; see `clr_jax.data.sources`."""
  return [(name, f'TFDS, version {version}, prepared') for name, version in prepared(data_dir)]


def _data_dir(data_dir: str | None) -> epath.Path:
  """Folder of the data sets, by default TFDS's own: $TFDS_DATA_DIR, else ~/tensorflow_datasets."""
  chosen = data_dir or os.environ.get('TFDS_DATA_DIR') or '~/tensorflow_datasets'
  path = epath.Path(chosen).expanduser()
  if is_local(path) and os.path.lexists(path) and not os.path.isdir(path):
    key = 'data.data_dir' if data_dir else 'TFDS_DATA_DIR'
    raise UserError(f'{key}={chosen} is not a folder: correct the path')
  return path


def _version_key(version: str) -> tuple[int, ...]:
  return tuple(map(int, version.split('.')))


def prepared(data_dir: str | None = None) -> list[tuple[str, str]]:
  """(name or name/config, newest version) of each data set found in `data_dir`, sorted."""
  return sorted((k, max(v, key=_version_key)) for k, v in _versions(_data_dir(data_dir)).items())


def _versions(root: epath.Path, name: str | None = None) -> dict[str, list[str]]:
  """'name' or 'name/config' -> its versions on disk, of one data set or of all."""
  found: dict[str, list[str]] = {}

  def visit(folder: epath.Path, label: str, depth: int) -> None:
    with translate_errors(folder):
      is_folder = folder.is_dir()
    for child in files_in(folder) if is_folder else ():
      if not visible(child.name):  # such as lost+found, which nobody may read
        continue
      if _VERSION.fullmatch(child.name):
        if (child / 'features.json').exists():
          found.setdefault(label, []).append(child.name)
      elif depth < 2 and child.is_dir() and child.name != 'downloads':
        visit(child, f'{label}/{child.name}' if label else child.name, depth + 1)

  visit(root / name if name else root, name or '', 1 if name else 0)
  found.pop('', None)
  return found


def _find(name: str, config: str | None, version: str | None, root: epath.Path):
  """The folder of a prepared data set, or None."""
  found = _versions(root, name)
  if version:
    found = {k: [version] for k, v in found.items() if version in v}
  wanted = f'{name}/{config}' if config else name
  if wanted not in found and not config and found:
    if len(found) > 1:
      raise UserError(
        f'{name} is prepared in several configurations: choose one of {", ".join(sorted(found))}'
      )
    wanted = next(iter(found))
  if wanted not in found:
    return None
  return root / wanted / max(found[wanted], key=_version_key)


def _builder(name: str, root: epath.Path):
  match = _NAME.fullmatch(name)
  if match is None:
    raise UserError(
      f"cannot read the data set name {name!r}: write 'digits', 'npz:FILE', 'folder:PATH' or a "
      "TFDS name such as 'cifar10', 'name/config' or 'name:1.2.3'"
    )
  found = functools.partial(_find, match['name'], match['config'], match['version'], root)
  path = found()
  if path is None:
    preparing.check(name, match['name'], root)
    with one_at_a_time(root / f'.clr_jax-{match["name"]}.lock'):
      path = found()  # another process was faster
      if path is None:
        preparing.prepare(name, root)
        path = found()
    if path is None:
      raise UserError(f'TFDS prepared {name} but left nothing readable in {root}')
  return _described(path, name)


def _described(path: epath.Path, name: str):
  """TFDS's builder of a prepared data set; UserError for a damaged description."""
  import tensorflow_datasets as tfds  # 0.4 s to import, for TFDS names only

  try:
    for file in ('dataset_info.json', 'features.json'):
      read_file(path / file)  # TFDS would wait for the end of a pipe
    builder = tfds.builder_from_directory(path)
    problem = '' if builder.info.splits else 'it names no split'
  except (ImportError, MemoryError, PermissionError):
    raise
  except Exception as error:  # TFDS raises many types
    problem = first_line(error)
  if problem:
    raise UserError(
      f'the description of {name} in {path} is damaged ({problem}): restore dataset_info.json and '
      f'features.json, or remove the folder to have {name} prepared again'
    )
  return builder


def _feature_keys(info, name: str) -> tuple[str, str | None]:
  """Names of the image feature and of the class label (or None)."""
  import tensorflow_datasets as tfds  # 0.4 s to import, for TFDS names only

  image = _choose(info, tfds.features.Image, 'image', 0)
  if image is None or info.features[image].np_dtype != np.uint8:
    raise UserError(f'{name} has no single image of type uint8: choose another TFDS data set')
  return image, _choose(info, tfds.features.ClassLabel, 'label', 1)


def _choose(info, kind: type, usual: str, position: int) -> str | None:
  """The feature of a kind: TFDS's supervised one, else the usual name, else the only one."""
  candidates = [key for key, feature in info.features.items() if isinstance(feature, kind)]
  supervised = info.supervised_keys or ()
  for key in (*supervised[position : position + 1], usual):
    if key in candidates:
      return key
  return candidates[0] if len(candidates) == 1 else None


def _open(builder, base: str, image_key: str, name: str):
  import tensorflow_datasets as tfds  # 0.4 s to import, for TFDS names only

  # array_record keeps every file open: ImageNet's 1024 are the usual limit. Children inherit it.
  with contextlib.suppress(ImportError, OSError, ValueError):  # Windows; macOS, if it is infinite
    import resource

    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
  for path in builder.info.splits[base].filepaths:
    if is_local(path) and os.path.lexists(path) and not is_file(path):
      raise UserError(
        f'{path} is not a regular file: restore it, or remove {builder.data_dir} to have {name} '
        f'prepared again'
      )
  try:
    # Decoded by us: resizing a JPEG while it is decoded is cheaper, and all sources look alike.
    return builder.as_data_source(base, decoders={image_key: tfds.decode.SkipDecoding()})
  except NotImplementedError as error:
    raise UserError(
      f'{name} is prepared in {builder.data_dir} in a format without random access: remove it '
      'there or set another data_dir, and it is prepared anew as array_record'
    ) from error
