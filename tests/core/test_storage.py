"""Errors of an object store's client become a sentence; errors of a disk stay."""

import errno
import os

import pytest
from etils import epath

from clr_jax.core.errors import UserError
from clr_jax.core.storage import (
  atomic_write,
  check_path,
  check_writable,
  first_line,
  read_file,
  translate_errors,
)


@pytest.fixture(autouse=True)
def reached(monkeypatch):
  monkeypatch.setattr('clr_jax.core.storage.refuse_unreachable', lambda path: None)


@pytest.mark.parametrize(
  ('error', 'text'),
  [
    (ImportError('Please install gcsfs'), r"gs://b needs a package .*pip install 'clr-jax\[gcs\]'"),
    (FileNotFoundError('b/b/o'), 'there is no bucket gs://b: create it first'),
    (OSError('Forbidden: b/b/o\nlong'), r'gs://b cannot be used \(Forbidden: b/b/o\): check'),
    (RuntimeError(), r'gs://b cannot be used \(RuntimeError\): .* log in with `gcloud auth'),
  ],
)
def test_a_store_in_one_sentence(error, text):
  with pytest.raises(UserError, match=text), translate_errors('gs://b/run/x'):
    raise error


@pytest.mark.parametrize(
  ('path', 'text'),
  [
    ('s3://b/x', 's3://b/x cannot be used: only local paths and gs://'),
    ('file:///x', 'only local paths'),
    ('gs://', 'gs:// has no bucket: give gs://BUCKET'),
    ('', 'the path of a folder or file is empty'),
    ('gs:/b/x', 'gs:/b/x is no path of a bucket: give gs://BUCKET/FOLDER'),
    ('a\0b', 'contains a null byte'),
    ('~nobody-of-this-name/x', 'begins with a user who does not exist'),
  ],
)
def test_paths_that_are_not_supported(path, text):
  with pytest.raises(UserError, match=text):
    check_path(path)


def test_paths_that_are(tmp_path):
  for path in ('gs://b/x', tmp_path, 'a:b', 'c'):
    check_path(path)


def test_a_path_that_no_disk_takes():
  text = r'xx cannot be used \(File name too long\): give another path'
  with pytest.raises(UserError, match=text), translate_errors('x' * 500):
    raise OSError(errno.ENAMETOOLONG, 'File name too long')


def test_a_file_whose_name_no_disk_takes(tmp_path):
  for write in (
    lambda: atomic_write(epath.Path(tmp_path) / ('n' * 300), 'text'),
    lambda: check_writable(epath.Path(tmp_path), 'n' * 300),
  ):
    with pytest.raises(UserError, match=r'File name too long\): give another path'):
      write()
  assert not list(tmp_path.iterdir())


def test_other_errors_stay():
  with pytest.raises(UserError, match='ours'), translate_errors('gs://b/run'):
    raise UserError('ours')
  with pytest.raises(PermissionError), translate_errors('/run'):
    raise PermissionError
  with (
    pytest.raises(AttributeError),
    translate_errors('gs://b/run'),
  ):  # ours: its traceback is needed
    raise AttributeError


def test_the_reason_of_an_error_has_no_number_and_no_path():
  assert first_line(PermissionError(13, 'Permission denied', '/x')) == 'Permission denied'
  assert first_line(ValueError('one\ntwo')) == 'one' and first_line(KeyError()) == 'KeyError'


def test_a_file_is_whole_or_not_there(tmp_path):
  path = epath.Path(tmp_path) / 'new' / 'file'
  atomic_write(path, 'text')
  atomic_write(path, b'more')
  assert path.read_text() == 'more'
  (tmp_path / 'new' / 'folder').mkdir()
  with pytest.raises(UserError, match='is a folder'):
    atomic_write(path.parent / 'folder', 'text')
  assert sorted(p.name for p in path.parent.iterdir()) == ['file', 'folder']


def test_what_is_no_file_is_not_read(tmp_path):
  """A pipe, which would never end, a folder; a file is."""
  os.mkfifo(tmp_path / 'pipe')
  for path in (tmp_path / 'pipe', tmp_path):
    with pytest.raises(OSError, match='not a regular file'):
      read_file(path)
  (tmp_path / 'file').write_bytes(b'x')
  assert read_file(tmp_path / 'file') == b'x'


def test_a_folder_where_a_file_is_written_and_the_other_way_round(tmp_path):
  (tmp_path / 'a').mkdir()
  with pytest.raises(UserError, match='a is a folder, but a file has to be written there'):
    atomic_write(epath.Path(tmp_path / 'a'), 'x')
  (tmp_path / 'b').write_text('')
  with pytest.raises(UserError, match='b is a file, but a folder has to be written there'):
    atomic_write(epath.Path(tmp_path / 'b' / 'c'), 'x')
  assert sorted(p.name for p in tmp_path.rglob('*')) == ['a', 'b']


def test_names_of_bytes_that_are_no_text_are_written_as_escapes(tmp_path):
  atomic_write(epath.Path(tmp_path / 'a'), os.fsdecode(b'caf\xe9'))
  assert (tmp_path / 'a').read_text() == 'caf\\udce9'


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='no /dev/full')
def test_the_error_of_a_full_disk_names_the_file(tmp_path, monkeypatch):
  def write(path, raw):
    with open('/dev/full', 'wb', buffering=0) as full:
      full.write(raw)

  monkeypatch.setattr(type(epath.Path(tmp_path)), 'write_bytes', write)
  with pytest.raises(OSError, match='No space') as error:
    atomic_write(epath.Path(tmp_path / 'a'), 'x')
  assert error.value.filename == str(tmp_path / 'a')


def test_a_try_to_write_leaves_nothing(tmp_path):
  check_writable(epath.Path(tmp_path / 'a' / 'b'))
  assert not any(tmp_path.iterdir())
  with pytest.raises(OSError, match='proc'):
    check_writable(epath.Path('/proc/a/b'))


def test_the_first_line_of_an_error_is_plain():
  assert first_line(ValueError('do \x1b[1mthis\x1b[0m\nor that')) == 'do this'
  assert first_line(KeyError()) == 'KeyError'
