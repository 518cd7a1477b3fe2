"""`clr-jax evaluate --weights`: the backbone of a file in place of a run's."""

import pytest

import clr_jax
from tests import tiny
from tests.cli.calling import call
from tests.evaluation.runs import one_device  # noqa: F401  (a fixture)
from tests.exchange.test_export import write_run


@pytest.fixture(scope='module')
def run(tmp_path_factory, one_device):  # noqa: F811
  directory = tmp_path_factory.mktemp('runs') / 'simclr'
  write_run(directory, 'simclr')
  return directory


@pytest.mark.slow
def test_weights_of_a_file_are_evaluated_as_the_run_they_come_from(run, tmp_path, capsys):
  directory = run
  clr_jax.export(directory, out=tmp_path / 'out')
  file = f'{tmp_path}/out/model.safetensors'
  (of_run,) = clr_jax.evaluate(directory, 'knn', k=5)
  of_run, of_file = clr_jax.evaluate(directory, 'knn', k=5, weights=file)
  assert of_file['features'] == 'weights' and of_file['step'] == 0
  assert of_file['params']['weights'].startswith('model.safetensors@')
  assert of_file['value'] == of_run['value']
  assert clr_jax.evaluate(directory, 'knn', k=5, weights=file) == [of_run, of_file]  # kept
  flags = [f'--config={tiny.__file__}:byol', f'--workdir={tmp_path}/new', f'--weights={file}']
  assert call('evaluate', 'knn', *flags, '--params.k=5', '--features=trained,untrained') == 0
  first, second = clr_jax.results(tmp_path / 'new')
  assert (first['features'], second['features']) == ('weights', 'untrained')
  assert first['value'] == of_run['value'] and first['params'] == of_file['params']
  assert 'weights=model.safetensors@' in capsys.readouterr().out


@pytest.mark.parametrize(
  ('flags', 'words'),
  [
    (['--weights=nowhere.pth'], 'there is no file nowhere.pth'),
    (['--weights=nowhere.txt'], 'nowhere.txt is not a weights file: give one of .safetensors'),
    ([f'--config={tiny.__file__}'], '--config has no effect without --weights'),
  ],
)
def test_weights_that_are_refused(run, capsys, flags, words):
  before = sorted(run.rglob('*'))
  assert call('evaluate', 'knn', f'--workdir={run}', *flags) == 2
  err = capsys.readouterr().err
  assert words in err and err.count('\n') == 1
  assert sorted(run.rglob('*')) == before
