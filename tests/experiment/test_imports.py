"""Own methods, views, data and protocols in a file of one's own: configs, flags, runs."""

import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

import clr_jax
from clr_jax import augment, data, methods
from clr_jax.core import user_code
from clr_jax.core.errors import UserError
from clr_jax.data.sources import SCHEMES
from clr_jax.evaluation.protocols import PROTOCOLS
from clr_jax.experiment.build import build_experiment
from clr_jax.experiment.config_files import load
from clr_jax.experiment.schema import keys_without_effect
from clr_jax.rundir.config_records import read_config
from clr_jax.rundir.identity import check_run, open_run
from clr_jax.rundir.workdir import Workdir
from tests.cli.calling import call

MINE = pathlib.Path(__file__).parent.parent / 'my_methods.py'
CONFIG = """
from clr_jax.experiment import config_base as common

def get_config():
  config = common.get_config(imports=('my_methods',))
  config.data.name = 'stripes'
  config.batch_size, config.num_epochs = 16, 2.0
  config.model = common.model('resnet_tiny', width=4)
  config.augment = common.views('resized', size=8)
  config.method = common.method('mine', t=1.0, out_dim=8)
  config.optimizer = common.optimizer('sgd', learning_rate=0.1)
  config.schedule = common.schedule(warmup_epochs=1.0)
  config.eval.protocols = {'length': {'order': 1.0}}
  return config
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
  """A folder with a module and a config of one's own; nothing of it stays registered."""
  registries = (methods.REGISTRY, augment.REGISTRY, SCHEMES, PROTOCOLS)
  for registry in registries:
    monkeypatch.setattr(registry, '_added', dict(registry._added))
  for name in ('_LOADED', '_CHOSEN'):
    monkeypatch.setattr(user_code, name, type(getattr(user_code, name))())
  path = list(sys.path)
  folder = tmp_path / 'own'
  folder.mkdir()
  shutil.copy(MINE, folder)
  (folder / 'my_config.py').write_text(CONFIG)
  yield folder
  sys.path[:] = path
  forget()


def forget():
  """As in a new process."""
  for registry in (methods.REGISTRY, augment.REGISTRY, SCHEMES, PROTOCOLS):
    registry._added.clear()
  for known in (user_code._LOADED, user_code._CHOSEN):
    known.clear()
  for name in ('my_methods', 'my_config', 'later'):
    sys.modules.pop(name, None)


def test_a_config_names_modules_beside_it(own):
  config = load(f'{own}/my_config.py')
  assert config.imports == (f'{own}/my_methods.py',)
  assert (config.method.name, config.method.t) == ('mine', 1.0)
  experiment = build_experiment(config)
  assert experiment.method.name == 'mine' and experiment.source.num_examples == 64
  assert methods.summary('mine').startswith('Mine: alignment')
  assert ('stripes', 'Stripes, across or along.') in data.available()
  text = CONFIG.replace("get_config(imports=('my_methods',))", 'get_config()')
  text = text.replace('  return config\n', "  config.imports = ('my_methods',)\n  return config\n")
  (own / 'later.py').write_text('import my_methods\n' + text)
  forget()
  assert load(f'{own}/later.py') == config


def test_flags(own, monkeypatch, capsys):
  monkeypatch.chdir(own)
  assert call('methods', '--imports=my_methods.py') == 0
  assert '\nmine ' in capsys.readouterr().out
  forget()
  assert call('train', '--config=quickstart:mine', '--workdir=run', '--config.seed=x') == 2
  assert "unknown method 'mine'" in capsys.readouterr().err
  flags = ['--imports=my_methods.py', '--config=quickstart', '--config.method.name=mine']
  assert call('train', *flags, '--config.method.t=-1', '--workdir=run') == 2
  assert 'method.t=-1.0 is not allowed' in capsys.readouterr().err
  assert call('train', '--imports=nowhere.py', '--config=quickstart', '--workdir=run') == 2
  assert f'imports=nowhere.py: there is no file {own}/nowhere.py' in capsys.readouterr().err
  assert not (own / 'run').exists()
  forget()
  config = clr_jax.load_config('quickstart', {'method.name': 'mine', 'imports': ('my_methods',)})
  assert config.imports == (f'{own}/my_methods.py',)


NOTHING = """
from clr_jax import augment, data, methods

@methods.register
def forgot(backbone, info):
  'A method without a return.'

@augment.register
def forgot(*, size: int):
  'Views without a return.'

@data.register
def forgot(path, **options):
  'Images without a return.'
"""


@pytest.mark.parametrize(
  ('key', 'what', 'kind'),
  [
    ('method.name', 'method', 'Method'),
    ('augment.name', 'augmentation', 'Views'),
    ('data.name', 'data source', 'Source'),
  ],
)
def test_functions_that_return_something_else(own, monkeypatch, capsys, key, what, kind):
  monkeypatch.chdir(own)
  (own / 'my_methods.py').write_text(NOTHING)
  flags = ['--imports=my_methods.py', '--config=quickstart', f'--config.{key}=forgot']
  assert call('train', *flags, '--workdir=run') == 2
  said = capsys.readouterr().err
  assert said.count('\n') == 1
  assert f"the function of {what} 'forgot' returns a NoneType: let it return a {kind}" in said
  assert not (own / 'run').exists()


def test_a_run_records_the_code_and_refuses_other_code(own, tmp_path):
  config, run = load(f'{own}/my_config.py'), Workdir(tmp_path / 'run')
  free = keys_without_effect(config)
  open_run(run, config, free)
  forget()
  assert read_config(run).method.name == 'mine' and 'mine' in methods.names()
  (tmp_path / 'run' / 'metrics').mkdir()
  (tmp_path / 'run' / 'metrics' / 'x.jsonl').write_text('')  # it has trained
  check_run(run, config, free)
  mine, again = own / 'my_methods.py', own / 'moved' / 'my_methods.py'
  again.parent.mkdir()
  shutil.copy(mine, again)
  mine.write_text(mine.read_text() + '\n')
  forget()
  with pytest.raises(UserError, match=rf'{mine}, which has changed since'):
    read_config(run)
  changed = load(f'{own}/my_config.py')
  with pytest.raises(UserError, match=rf'other user code \({mine} has changed or is new\)'):
    check_run(run, changed, free)
  mine.unlink()
  forget()
  with pytest.raises(UserError, match=rf'{mine}, which is missing: restore it, or'):
    read_config(run)
  assert clr_jax.results(run.path) == []  # which needs no code
  user_code.load([str(again)], chosen=True)
  assert read_config(run).method.name == 'mine'
  with config.unlocked():
    config.imports = (str(again),)  # the same code in another place
  check_run(run, config, free)


@pytest.mark.slow
def test_train_evaluate_resume_export(own, tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  train = ['train', '--config=own/my_config.py', '--workdir=run']
  assert call(*train, '--config.stop_at_epoch=1.0') == 0
  forget()
  assert call(*train) == 0
  assert 'resumed' in capsys.readouterr().out
  (record,) = clr_jax.results('run')[-1:]
  assert (record['protocol'], record['metric'], record['params']) == (
    'length',
    'norm',
    {'order': 1.0},
  )
  forget()
  assert call('evaluate', 'length', '--workdir=run', '--params.order=3') == 0
  forget()
  assert call('evaluate', 'knn', '--workdir=run', '--params.k=3') == 0
  forget()
  assert clr_jax.load('run').represent(np.zeros([2, 8, 8, 1], np.uint8)).shape == (2, 16)
  assert call('inspect', 'curves', '--workdir=run') == 0
  forget()
  assert call('export', '--workdir=run') == 0
  (own / 'my_methods.py').unlink()
  for command in (['evaluate', 'length'], ['inspect', 'curves'], ['export']):
    forget()
    capsys.readouterr()
    assert call(*command, '--workdir=run') == 2
    err = capsys.readouterr().err
    assert 'my_methods.py, which is missing' in err and err.count('\n') == 1


@pytest.mark.weekly
def test_the_contract_tests_take_ones_own_method():
  """They are only collected here: the tests of the library's own methods run them."""
  command = [sys.executable, '-m', 'pytest', '-o', 'addopts=', '-m', '', '--collect-only', '-q']
  tests = ['tests/methods/test_contract.py', '-k', 'mine', f'--imports={MINE}']
  root = MINE.parent.parent
  printed = subprocess.check_output([*command, *tests], cwd=root, text=True, timeout=300)
  assert 'test_class_signal_rises[mine]' in printed
