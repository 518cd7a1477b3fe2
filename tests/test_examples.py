"""The examples of docstrings, and the loop of clr_jax/README.md."""

import doctest
import importlib
import inspect
import pathlib
import re

import pytest

import clr_jax
from clr_jax import losses
from clr_jax.experiment.schema import check_config

CONFIGS = pathlib.Path(__file__).parent.parent / 'configs' / 'README.md'
PAGE = pathlib.Path(clr_jax.__file__).parent / 'README.md'
FILES = sorted((pathlib.Path(clr_jax.__file__).parent / 'losses').glob('[a-z]*.py'))


def run(function, **names):
  """Runs the example of a function; it must have one."""
  module = importlib.import_module(function.__module__)
  (test,) = doctest.DocTestFinder(recurse=False).find(
    function, globs={**vars(module), **names}, module=False
  )
  assert test.examples, f'{function.__name__} has no example'
  said = []
  doctest.DocTestRunner().run(test, out=said.append)
  assert not said, ''.join(said)


@pytest.mark.slow
@pytest.mark.parametrize('file', FILES, ids=lambda file: file.stem)
def test_losses(file):
  module = importlib.import_module(f'clr_jax.losses.{file.stem}')
  assert doctest.testmod(module).failed == 0


def public_functions(room):
  """The functions and classes that a room exports, without those of other rooms, by name."""
  module = importlib.import_module(f'clr_jax.{room}')
  return {
    name: value
    for name, value in vars(module).items()
    if not name.startswith('_')
    and (inspect.ismethod(value) or getattr(value, '__module__', '').startswith(module.__name__))
    and (inspect.isroutine(value) or inspect.isclass(value))
  }


@pytest.mark.parametrize('room', ['augment', 'models', 'methods', 'optim'])
def test_each_function_has_an_example(room):
  functions = public_functions(room)
  assert len(functions) >= 5
  for name, function in functions.items():
    assert '>>> ' in (function.__doc__ or ''), name


@pytest.mark.parametrize(
  'room',
  [
    pytest.param('augment', marks=pytest.mark.weekly),
    *(pytest.param(room, marks=pytest.mark.slow) for room in ('models', 'methods', 'optim')),
  ],
)
def test_rooms(room):
  for function in public_functions(room).values():
    run(function)


def test_each_loss_has_an_example():
  public = [value for value in vars(losses).values() if callable(value)]
  assert len(public) > 25
  for function in public:
    assert '>>> ' in function.__doc__, function.__name__


def test_a_config():
  run(clr_jax.load_config)
  assert doctest.testmod(clr_jax).failed == 0


@pytest.mark.slow
def test_the_functions_of_the_library(tmp_path):
  """One run for all of them."""
  for name in ('train', 'evaluate', 'results', 'load', 'export'):
    run(getattr(clr_jax, name), workdir=str(tmp_path / 'run'))


@pytest.mark.slow
def test_the_loop_of_the_page():
  code = re.search(r'an optax loop:\n\n```python\n(.*?)```', PAGE.read_text(), re.S)[1]
  names = {}
  exec(code.replace('range(100)', 'range(12)'), names)
  assert (names['table'] > -99).sum() >= 11 * 128  # of the 1,437, after an epoch
  assert names['objective'] < -0.05  # it starts at about -0.03


def test_the_config_of_the_page(tmp_path):
  code = re.search(r'any folder.*?```python\n(.*?)```', CONFIGS.read_text(), re.S)[1]
  (tmp_path / 'my_config.py').write_text(code)
  for argument, name in (('', 'simclr'), (':byol', 'byol')):
    config = clr_jax.load_config(f'{tmp_path}/my_config.py{argument}')
    check_config(config)
    assert config.method.name == name and config.method.out_dim == 64
