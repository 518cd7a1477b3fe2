"""Runs whose configs lack options that the library has got since."""

import json

import pytest

from clr_jax.core.config_tree import changed, to_dict
from clr_jax.core.errors import UserError
from clr_jax.experiment.recorded import read_recorded, recorded_defaults
from clr_jax.experiment.schema import keys_without_effect
from clr_jax.rundir.config_records import read_config_hash
from clr_jax.rundir.identity import check_run, hash_in, open_run
from clr_jax.rundir.workdir import Workdir
from tests import tiny


def recorded(directory, config, change):
  """A run that has trained, with a record that `change` has edited."""
  run = Workdir(directory)
  open_run(run, config, keys_without_effect(config))
  path = directory / 'config.json'
  record = json.loads(path.read_text())
  change(record['config'])
  path.write_text(json.dumps(record))
  (directory / 'metrics').mkdir()
  (directory / 'metrics' / 'steps-0.jsonl').write_text('{"step": 1, "loss": 1.0}\n')
  return run


def without(*keys):
  def change(tree):
    for key in keys:
      *path, leaf = key.split('.')
      node = tree
      for part in path:
        node = node[part]
      del node[leaf]

  return change


LACKING = ('method.beta', 'eval.resize', 'keep_best', 'plugins.mochi', 'telemetry')


def test_options_that_a_record_lacks_have_their_defaults(tmp_path, capsys):
  config = tiny.get_config('simclr')
  recorded(tmp_path, config, without(*LACKING))
  assert to_dict(read_recorded(tmp_path)) == to_dict(config)
  said = capsys.readouterr().err
  assert 'method.beta=1.0, ' in said and 'keep_best=' in said and said.count('\n') == 1
  read_recorded(tmp_path)
  assert not capsys.readouterr().err  # once


def test_such_a_run_goes_on_and_its_results_stay_valid(tmp_path):
  config = tiny.get_config('simclr')
  run = recorded(tmp_path, config, without(*LACKING))
  free, defaults = keys_without_effect(config), recorded_defaults(config)
  found = check_run(run, config, free, defaults)
  assert found.identity.changed == () and not found.begins_anew
  assert hash_in(run, config, free, defaults) == read_config_hash(run)
  other = changed(config, {'method.beta': 0.5})
  with pytest.raises(UserError, match=r'another config \(method.beta: 1.0 -> 0.5\)'):
    check_run(run, other, free, defaults)
  assert hash_in(run, other, free, defaults) != read_config_hash(run)


def test_recorded_values_win(tmp_path):
  config = changed(tiny.get_config('simclr'), {'method.temperature': 0.25})
  recorded(tmp_path, config, without('method.beta'))
  assert read_recorded(tmp_path).method.temperature == 0.25


def test_an_option_whose_default_is_not_what_was_trained(tmp_path):
  """TiCo's covariance had the gradient before it was an option."""
  config = tiny.get_config('tico')
  run = recorded(tmp_path, config, without('method.detach_covariance'))
  assert read_recorded(tmp_path).method.detach_covariance is False
  free, defaults = keys_without_effect(config), recorded_defaults(config)
  with pytest.raises(UserError, match=r'method\.detach_covariance: false -> true'):
    check_run(run, config, free, defaults)
  as_trained = changed(config, {'method.detach_covariance': False})
  assert not check_run(run, as_trained, free, defaults).identity.changed


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (lambda tree: tree.update(gamma=1), "the config has no option 'gamma'"),
    (lambda tree: tree['method'].update(tau=1), "method 'simclr' has no option 'tau'"),
    (lambda tree: tree['method'].pop('name'), 'unknown method None'),
    (lambda tree: tree.pop('data'), 'the config needs a value for data'),
    (lambda tree: tree['data'].pop('name'), 'data.name is missing'),
    (lambda tree: tree.pop('method'), 'the config needs a value for method'),
    (lambda tree: tree.update(telemetry=3), 'telemetry=3 is not allowed'),
    (lambda tree: tree['eval'].pop('protocols'), 'eval needs a value for protocols'),
  ],
)
def test_refused_by_name(tmp_path, change, message):
  recorded(tmp_path, tiny.get_config('simclr'), change)
  with pytest.raises(UserError, match=f'cannot be used .{message}') as error:
    read_recorded(tmp_path)
  assert '\n' not in str(error.value)
