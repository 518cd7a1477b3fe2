"""The functions of `clr_jax` itself."""

import pathlib
import pkgutil
import subprocess
import sys

import pytest

import clr_jax
from clr_jax.core.errors import UserError


def test_importing_the_package_imports_no_jax():
  code = """
import sys
import clr_jax
print(sorted({'jax', 'flax', 'orbax', 'optax', 'numpy'} & sys.modules.keys()))
assert {'__version__', *clr_jax.__all__} <= set(dir(clr_jax))
from clr_jax import *
print(train.__module__, 'jax' in sys.modules)
"""
  printed = subprocess.check_output([sys.executable, '-c', code], text=True, timeout=300)
  assert printed.splitlines() == ['[]', 'clr_jax.training.loop True']


def test_no_function_has_the_name_of_a_room_or_module():
  assert not set(clr_jax.__all__) & {m.name for m in pkgutil.iter_modules(clr_jax.__path__)}
  with pytest.raises(AttributeError, match="no attribute 'evluate'"):
    clr_jax.evluate  # noqa: B018


def test_the_earlier_name_of_overwrite_is_refused():
  with pytest.raises(UserError, match='again is now called overwrite'):
    clr_jax.evaluate('nowhere', 'knn', again=True)


def test_what_is_no_run_is_refused(tmp_path):
  with pytest.raises(UserError, match='is not a run'):
    clr_jax.results(tmp_path)
  with pytest.raises(UserError, match='is not a run'):
    clr_jax.evaluate(tmp_path, 'knn')


@pytest.mark.slow
def test_train_evaluate_results(tmp_path):
  config = clr_jax.load_config(f'{pathlib.Path(__file__).parent}/tiny.py:simclr')
  config.eval.protocols = {}
  clr_jax.train(config, str(tmp_path / 'run'))
  assert clr_jax.results(tmp_path / 'run') == []
  (record,) = clr_jax.evaluate(tmp_path / 'run', 'knn', k=5)
  assert (record['metric'], record['params']['k']) == ('top1', 5)
  assert clr_jax.results(tmp_path / 'run') == [record]
