"""Modules of a user's: found, run once, recorded, and refused when they are not what they were."""

import hashlib
import importlib.metadata
import sys

import pytest

from clr_jax.core import registry, user_code
from clr_jax.core.errors import UserError
from clr_jax.core.registry import ModuleRegistry, Registry


@pytest.fixture(autouse=True)
def as_before(monkeypatch):
  """Forgets modules that a test has loaded."""
  for name in ('_LOADED', '_CHOSEN', '_REPLACED'):
    monkeypatch.setattr(user_code, name, type(getattr(user_code, name))())
  modules, path = dict(sys.modules), list(sys.path)
  yield
  sys.path[:] = path
  for name in sys.modules.keys() - modules.keys():
    del sys.modules[name]


def write(path, text='x = 1'):
  path.parent.mkdir(exist_ok=True, parents=True)
  path.write_text(text)
  return str(path)


def test_found_beside_the_config_in_the_current_folder_or_by_python(tmp_path, monkeypatch):
  beside, here = write(tmp_path / 'a' / 'extra.py'), write(tmp_path / 'b' / 'lab' / 'more.py')
  monkeypatch.chdir(tmp_path / 'b')
  assert user_code.resolved('extra', str(tmp_path / 'a')) == beside
  assert user_code.resolved('extra.py', str(tmp_path / 'a')) == beside
  assert user_code.resolved('lab.more', str(tmp_path / 'a')) == here
  assert user_code.resolved('lab/more.py') == here
  assert user_code.resolved('json') == 'json'
  for name, words in (
    ('nowhere.py', r'imports=nowhere.py: there is no file /\S*/b/nowhere.py: correct the path'),
    ('no.where', 'there is no file .*/no/where.py and no module of that name: correct'),
  ):
    with pytest.raises(UserError, match=words):
      user_code.resolved(name)


def test_runs_once_and_is_recorded(tmp_path, monkeypatch):
  text = 'import helper_of_mine, builtins\nbuiltins.ran = getattr(builtins, "ran", 0) + 1'
  path = write(tmp_path / 'once.py', text)
  write(tmp_path / 'helper_of_mine.py')
  import builtins

  assert user_code.load([path]) == user_code.load([path]) == [path]
  assert builtins.ran == 1
  del builtins.ran
  digest = hashlib.sha256(text.encode()).hexdigest()
  assert user_code.checksums([path, 'other']) == {path: digest}
  assert sys.modules['once'].__file__ == path  # reader processes find it by this name
  named = write(tmp_path / 'json.py', 'loaded = 1')  # a name that another module has
  user_code.load([named])
  assert sys.modules['json'].__file__ != named
  assert any(getattr(m, '__file__', None) == named for m in sys.modules.values())


def test_a_fault_is_one_sentence(tmp_path):
  path = write(tmp_path / 'broken.py', 'x = 1\n1 / 0')
  for _ in range(2):  # it has not run
    with pytest.raises(UserError, match=rf'{path}:2: ZeroDivisionError: division by zero: correct'):
      user_code.load([path])
  assert user_code.checksums([path]) == {}


def test_nothing_in_a_workdir_runs(tmp_path):
  write(tmp_path / 'run' / 'config.json', '{"config_hash": "0"}')
  path = write(tmp_path / 'run' / 'deep' / 'evil.py', 'raise SystemExit')
  link = tmp_path / 'link.py'
  link.symlink_to(path)
  for name in (path, str(link)):
    with pytest.raises(UserError, match=rf'is in the workdir {tmp_path}/run, from which no code'):
      user_code.load([name])


def test_what_a_run_was_made_with(tmp_path):
  path = write(tmp_path / 'mine.py')
  digest = user_code.checksum(path)
  user_code.load_recorded({path: digest}, 'RUN')
  assert user_code.checksums([path]) == {path: digest}
  with pytest.raises(UserError, match=rf'^RUN used {path}, which has changed since: restore'):
    user_code.load_recorded({path: '0'}, 'RUN')
  gone = str(tmp_path / 'gone' / 'mine2.py')
  with pytest.raises(UserError, match=rf'^RUN used {gone}, which is missing'):
    user_code.load_recorded({gone: digest}, 'RUN')
  new = write(tmp_path / 'new' / 'mine2.py')
  user_code.load([new], chosen=True)  # --imports
  user_code.load_recorded({gone: digest}, 'RUN')
  assert user_code.resolved(gone) == new  # as the config of the run names it
  renamed = str(tmp_path / 'gone' / 'mine3.py')
  user_code.load_recorded({renamed: digest}, 'RUN')  # the same code by another name
  assert user_code.resolved(renamed) == new


# ---------------------------------------------------------------- registering
def test_register():
  shapes = Registry('shape', {'circle': lambda: 0})

  @shapes.register
  def square(*, side: int = 1):
    return side

  shapes.register(square)  # its file ran again
  assert shapes.names() == ['circle', 'square'] and shapes.make('square', side=2) == 2
  with pytest.raises(UserError, match="there is a shape called 'circle' already: give square an"):
    shapes.register(square, name='circle')
  with pytest.raises(UserError, match="there is a shape called 'square' already"):
    shapes.register(Registry, name='square')


def test_register_with_facts(tmp_path):
  package = ModuleRegistry('shape', 'nowhere', [str(tmp_path)], function='draw')

  @package.register(name='box', ROUND=False)
  def draw():
    """A box.

    More.
    """

  assert package.names() == ['box'] and package.factory('box') is draw
  assert package.module('box').ROUND is False and package.summary('box') == 'A box.'


def test_entry_points(monkeypatch, tmp_path):
  def found(*, group):
    return [
      importlib.metadata.EntryPoint('star', 'announced_shapes:star', group),
      importlib.metadata.EntryPoint('lost', 'announced_shapes:lost', group),
    ]

  monkeypatch.setattr(importlib.metadata, 'entry_points', found)
  registry._announced.cache_clear()
  write(tmp_path / 'announced_shapes.py', 'def star(*, rays=5): return rays')
  monkeypatch.syspath_prepend(tmp_path)
  shapes = Registry('shape', {}, entry_points='clr_jax.shapes')
  assert shapes.names() == ['lost', 'star'] and 'announced_shapes' not in sys.modules
  assert shapes.make('star', rays=7) == 7
  with pytest.raises(UserError, match="the shape 'lost' of an installed package cannot be loaded"):
    shapes.factory('lost')
  registry._announced.cache_clear()


@pytest.mark.parametrize('names', [5, 'mine', (1,), ('json', None), {'a': 1}])
def test_what_is_no_sequence_of_names(names):
  with pytest.raises(UserError, match='is not allowed: give a sequence, each a string'):
    user_code.load(names)
