"""What an object store's client raises becomes a sentence; what a disk raises stays."""

import errno

import pytest
from etils import epath

from clr_jax.core.errors import UserError
from clr_jax.core.storage import atomic_write, check_path, translate_errors


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
    ('a\0b', 'a path has no null byte'),
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


def test_a_file_is_whole_or_not_there(tmp_path):
  path = epath.Path(tmp_path) / 'new' / 'file'
  atomic_write(path, 'text')
  atomic_write(path, b'more')
  assert path.read_text() == 'more'
  (tmp_path / 'new' / 'folder').mkdir()
  with pytest.raises(IsADirectoryError):
    atomic_write(path.parent / 'folder', 'text')
  assert sorted(p.name for p in path.parent.iterdir()) == ['file', 'folder']
