"""The walk over an image folder: each file once, nothing left out in silence."""

import os
import socket

import pytest

from clr_jax.core.errors import UserError
from clr_jax.data import walking
from clr_jax.data.walking import REPEATED, counted, list_images


def touch(root, *names):
  for name in names:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
  return str(root)


def test_images_are_sorted_and_the_rest_is_counted_by_kind(tmp_path):
  root = touch(
    tmp_path, 'b/2.PNG', 'b/1.tif', 'a/x.gif', 'a/y.npy', 'a/sub/z.gif', 'list', '.h.png'
  )
  touch(tmp_path, '__MACOSX/a/_1.png', 'a/@eaDir/1.png')
  (tmp_path / 'empty').mkdir()
  found = list_images(root)
  assert found.images == ['b/1.tif', 'b/2.PNG']
  skipped = {name: dict(kinds) for name, kinds in found.skipped.items()}
  assert skipped == {
    '': {'file without a suffix': 1},
    'a': {'.gif': 2, '.npy': 1},
    'b': {},
    'empty': {},
  }
  assert counted(found.skipped_kinds()) == '2 .gif, 1 .npy, 1 file without a suffix'
  assert counted({f'.{i}': 9 - i for i in range(9)}).endswith('4 .5, 6 others')


@pytest.mark.parametrize('target', ['.', '..', '../../root', '../b', '../b/deep'])
def test_links_to_folders_give_each_image_once(tmp_path, target):
  root = touch(tmp_path / 'root', 'a/1.png', 'b/2.png', 'b/deep/3.png')
  os.symlink(target, tmp_path / 'root' / 'a' / 'all')
  found = list_images(root)
  assert found.images == ['a/1.png', 'b/2.png', 'b/deep/3.png']
  assert found.skipped['a'] == {REPEATED: 1}


@pytest.mark.parametrize('target', ['../..', '../../..', '/'])
def test_links_to_folders_above_the_data_are_not_followed(tmp_path, target):
  """There are other splits, or all files of the machine."""
  root = touch(tmp_path / 'root', 'a/1.png')
  touch(tmp_path, 'test/a/2.png')
  os.symlink(target, tmp_path / 'root' / 'a' / 'all')
  found = list_images(root)
  assert found.images == ['a/1.png']
  assert found.skipped['a'] == {'link to a folder above the data': 1}


def test_a_listing_is_kept_until_a_folder_changes(tmp_path, monkeypatch):
  root = touch(tmp_path / 'root', 'a/1.png', 'b/2.png')
  scans, scan = [], os.scandir
  monkeypatch.setattr(walking.os, 'scandir', lambda folder: scans.append(folder) or scan(folder))
  list_images(root)
  list_images(root)
  assert len(scans) == 2 * 3  # its folders have changed a moment ago
  monkeypatch.setattr(walking, '_AT_REST', 0)
  first = list_images(root)
  assert list_images(root) is first and len(scans) == 3 * 3
  touch(tmp_path / 'root', 'b/3.png')
  assert list_images(root).images == ['a/1.png', 'b/2.png', 'b/3.png']
  (tmp_path / 'root' / 'a' / '1.png').unlink()
  assert list_images(root).images == ['b/2.png', 'b/3.png']


def test_links_to_elsewhere_are_followed_once(tmp_path):
  touch(tmp_path / 'elsewhere', '1.png', 'more/2.png')
  root = touch(tmp_path / 'root', 'a/0.png')
  for name in ('b', 'c'):
    os.symlink(tmp_path / 'elsewhere', tmp_path / 'root' / name)
  os.symlink(tmp_path / 'root' / 'a' / '0.png', tmp_path / 'root' / 'a' / 'same.png')
  found = list_images(root)
  assert found.images == ['a/0.png', 'a/same.png', 'b/1.png', 'b/more/2.png']
  assert found.skipped['c'] == {REPEATED: 1}


def test_pipes_and_sockets_named_like_images_are_no_images(tmp_path, monkeypatch):
  root = touch(tmp_path, 'a/1.png')
  os.mkfifo(tmp_path / 'a' / 'x.png')
  monkeypatch.chdir(tmp_path / 'a')  # the path of a socket is short
  with socket.socket(socket.AF_UNIX) as made:
    made.bind('y.png')
  found = list_images(root)
  assert found.images == ['a/1.png']
  assert counted(found.skipped_kinds()) == '2 special files'


def test_a_link_to_nothing_is_an_error(tmp_path):
  root = touch(tmp_path, 'a/1.png')
  for name in ('dog', 'a/2.png'):
    link = tmp_path / name
    os.symlink(tmp_path / 'unmounted', link)
    with pytest.raises(UserError, match=f'the link {link} points to nothing'):
      list_images(root)
    link.unlink()
  os.symlink('self', tmp_path / 'self')
  with pytest.raises(UserError, match=r'cannot read .*self'):
    list_images(root)


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path, monkeypatch):
  root = touch(tmp_path, 'a/1.png', 'b/deep/1.png')
  scan = os.scandir

  def refusing(path):
    if str(path).rstrip('/').endswith('deep'):
      raise PermissionError(13, 'Permission denied', path)
    return scan(path)

  monkeypatch.setattr(walking.os, 'scandir', refusing)
  with pytest.raises(UserError, match=r'cannot read the folder .*/b/deep \(Permission denied\)'):
    list_images(root)
