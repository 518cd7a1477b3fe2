"""Config files by path or name."""

from __future__ import annotations

import sys

import pytest

from clr_jax.core.errors import UserError
from clr_jax.experiment.config_files import choose, load, packaged, resolve


def write(path, text):
  path.parent.mkdir(exist_ok=True)
  path.write_text(text)
  return str(path)


HEAD = 'from ml_collections import ConfigDict\n'


def test_load_gives_a_locked_config_and_its_argument(tmp_path):
  body = HEAD + "def get_config(argument='none'): return ConfigDict({'got': argument})"
  path = write(tmp_path / 'mine.py', body)
  assert load(path).got == 'none'
  assert load(f'{path}:this,that=1').got == 'this,that=1'
  with pytest.raises(AttributeError):
    load(path).unknown = 1


def test_load_refuses_what_is_no_config(tmp_path):
  plain = write(tmp_path / 'plain.py', HEAD + 'def get_config(): return ConfigDict()')
  with pytest.raises(UserError, match='takes no argument'):
    load(f'{plain}:extra')
  with pytest.raises(UserError, match='must define get_config'):
    load(write(tmp_path / 'empty.py', ''))
  with pytest.raises(UserError, match=r'no config file .*quickstart'):
    load(str(tmp_path / 'missing.py'))


def test_a_config_runs_without_a_trace(tmp_path):
  before, path = set(sys.modules), list(sys.path)
  body = HEAD + "A = 1\ndef get_config(): return ConfigDict({'a': A})"
  assert load(write(tmp_path / 'json.py', body)).a == 1  # a name that a module has
  assert set(sys.modules) == before and sys.path == path


def test_a_file_that_is_no_python(tmp_path):
  with pytest.raises(UserError, match='give a Python file'):
    load(write(tmp_path / 'config.yaml', 'a: 1'))


def test_resolve(tmp_path, monkeypatch):
  packaged, argument = resolve('quickstart')
  assert (packaged.name, argument) == ('quickstart.py', None)
  assert resolve('configs/quickstart.py:tcl') == (packaged, 'tcl')
  monkeypatch.chdir(tmp_path)  # where there is no configs/
  assert resolve('configs/quickstart.py') == (packaged, None)
  mine = write(tmp_path / 'quickstart.py', '')
  assert str(resolve('quickstart.py')[0]) == mine  # a file that exists comes first
  assert resolve('quickstart')[0] == packaged


def test_packaged():
  names = packaged()
  assert 'quickstart' in names
  for name in names:
    assert resolve(name)[0].stem == name


def test_choose():
  assert choose('a', {'a': 1, 'b': 2}, 'b') == 1
  assert choose(None, {'a': 1, 'b': 2}, 'b') == 2
  with pytest.raises(UserError, match='choose one of a, b'):
    choose('c', {'a': 1, 'b': 2}, 'b')
