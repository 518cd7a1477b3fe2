"""Config files by path or name."""

from __future__ import annotations

import sys

import pytest

from clr_jax.core.errors import UserError
from clr_jax.experiment.config_files import choose, load, open_file, packaged, resolve


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
  with pytest.raises(UserError, match='define a function get_config'):
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


@pytest.mark.parametrize(
  ('text', 'line', 'words'),
  [
    ('a = 1\ndef get_config(:\n  pass', 2, 'SyntaxError: invalid syntax'),
    ('x = 1\n if x:\n', 2, 'IndentationError: unexpected indent'),
    ("'''never closed", 1, 'SyntaxError: unterminated'),
    ('import os\nimport no_such_package', 2, "ModuleNotFoundError: No module named 'no_such_pack"),
    ('from clr_jax.experiment.config_base import nothing', 1, 'ImportError: cannot import name'),
    ('raise ValueError("one\\ntwo")', 1, 'ValueError: one two'),
    ('import sys\nsys.exit("done")', 2, 'SystemExit: done'),
    ('class E(BaseException):\n  pass\nraise E("own")', 3, 'E: own'),
    ('class E(Exception):\n  __str__ = None\nraise E()', 3, 'E: no message'),
    ('async def get_config():\n  pass', None, 'returns a coroutine: return a ConfigDict'),
    (HEAD + 'def get_config():\n  return undefined', 3, "NameError: name 'undefined' is not"),
    (HEAD + 'def get_config():\n  raise KeyError', 3, 'KeyError: no message'),
    (HEAD + 'def get_config():\n  return get_config()', 3, 'RecursionError: '),
    (HEAD + "def get_config():\n  c = ConfigDict({'a': 1})\n  c.a = 'x'", 4, 'TypeError: '),
    (
      'from clr_jax.experiment import config_base as base\n'
      'def get_config():\n  return base.method("simclr", temprature=1)',
      3,
      "simclr has no option 'temprature': did you mean 'temperature'?",
    ),
    ('def get_config(a, b):\n  return a', None, 'needs an argument, its a: give --config='),
    ('def get_config():\n  return {}', None, 'returns a dict: return a ConfigDict'),
    ('def get_config():\n  pass', None, 'returns a NoneType: return a ConfigDict'),
    ('get_config = 3', None, 'define a function get_config()'),
    ('get_config = dict', None, 'no signature found'),
    ('a = "\0"', None, 'source code string cannot contain null bytes'),
    (b'a = "\xff"', None, "'utf-8' codec can't decode byte 0xff"),
    (
      HEAD + 'def get_config(): return ConfigDict({1: 2, "a": 3})',
      None,
      'keys that are not strings',
    ),
    (HEAD + 'complete = 3\ndef get_config(): return ConfigDict()', None, 'make it a function'),
  ],
)
def test_a_fault_in_a_config_file_is_one_sentence(tmp_path, text, line, words):
  path = tmp_path / 'mine.py'
  path.write_bytes(text if isinstance(text, bytes) else text.encode())
  with pytest.raises(UserError) as error:
    load(str(path))
  message = str(error.value)
  place = f'{path}:{line}: ' if line else ''
  assert message.startswith(place) and words in message and '\n' not in message, message


@pytest.mark.parametrize('said', ['3', '"text"', '[1]'])
def test_complete_returns_sentences(tmp_path, said):
  body = f'{HEAD}def get_config(): return ConfigDict()\ndef complete(config, given): return {said}'
  found = open_file(write(tmp_path / 'mine.py', body))
  with pytest.raises(UserError, match=r'mine\.py returns .*: return a list of sentences'):
    found.complete(found.config, [])


def test_what_is_no_file(tmp_path):
  for spec, words in (
    (str(tmp_path), 'which is a folder'),
    ('a' * 300 + '/x.py', 'File name too long'),
    ('a\0b', "no config file 'a"),
    ('', "no config file ''"),
  ):
    with pytest.raises(UserError, match=words):
      load(spec)


def test_a_frozen_config_can_be_overridden(tmp_path):
  body = 'from ml_collections import FrozenConfigDict\n'
  body += "def get_config(): return FrozenConfigDict({'a': 1})"
  config = load(write(tmp_path / 'frozen.py', body))
  config.a = 2
  assert config.a == 2


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
