"""The sections of a config: what they record, what is refused, what does not change training."""

import pytest

from clr_jax.core.config_tree import changed, leaves, to_dict
from clr_jax.core.errors import UserError
from clr_jax.core.options import OPTIONAL
from clr_jax.experiment import config_base
from clr_jax.experiment.schema import (
  check_config,
  keys_without_effect,
  option_texts,
  section,
  sections,
  with_types,
)
from clr_jax.rundir.config_records import read_config
from clr_jax.rundir.identity import hash_config, open_run
from clr_jax.rundir.workdir import Workdir
from tests import tiny


# ---------------------------------------------------------------- sections
def test_a_config_has_every_option_of_its_sections():
  config = tiny.get_config('tcl')
  check_config(config)
  for path, found in sections().items():
    here = to_dict(config)
    for key in path.split('.') if path else ():
      here = here[key]
    options = found.options(here.get('name'))
    assert {k for k, o in options.items() if OPTIONAL not in o.facts} <= here.keys()


def test_every_option_is_described():
  for path, found in sections().items():
    for name in found.choices.names() if found.choices else [None]:
      for key, option in found.options(name).items():
        assert option.text and not option.text.startswith('see '), (path, name, key)


def test_descriptions_by_dotted_key():
  config = tiny.get_config('byol')
  texts = option_texts(config)
  assert {key for key, _ in leaves(config) if 'protocols' not in key} <= texts.keys()
  assert texts['method.name'].startswith('one of arb, ')
  assert texts['method.momentum'].startswith('weight of the old average')
  assert texts['plugins.margin.angular'].startswith('margin m1 in radians')


def test_sections_of_a_plugin_may_be_missing():
  config = tiny.get_config('simclr')
  with config.unlocked():
    del config.plugins['mochi']
  check_config(config)


def test_presets_leave_the_options_of_their_policies_open():
  config = section('augment', name='asymmetric', size=8)
  assert to_dict(config) == {'name': 'asymmetric', 'size': 8, 'recipe': 'solo2022'}
  assert section('augment', name='asymmetric', size=8, blur_p=0.5).blur_p == 0.5


@pytest.mark.parametrize(
  ('make', 'message'),
  [
    (lambda: config_base.method('simclrr'), "unknown method 'simclrr': did you mean 'simclr'"),
    (lambda: config_base.method('simclr', temp=1), "simclr has no option 'temp'"),
    (lambda: config_base.method('simclr', plugins=1), "simclr has no option 'plugins'"),
    (lambda: config_base.model('resnet18', dtype='float64'), "resnet18 has no option 'dtype'"),
    (lambda: config_base.optimizer('sgd', learning_rate=-1), 'learning_rate=-1 is not allowed'),
    (lambda: config_base.sam('smooth'), "name='smooth' is not allowed: give one of 'none', 'sam'"),
  ],
)
def test_what_a_config_file_writes_is_checked_where_it_is_written(make, message):
  with pytest.raises(UserError, match=message):
    make()


# ---------------------------------------------------------------- check_config
GONE = object()


def with_value(config, key, value):
  """A copy of `config` with any value for a dotted key, of whatever type; GONE removes the key."""
  config = config.copy_and_resolve_references().unlock()
  holder, _, leaf = key.rpartition('.')
  node = config[holder] if holder else config
  if leaf in node:
    del node[leaf]
  if value is not GONE:
    node[leaf] = value
  return config


@pytest.mark.parametrize(
  ('key', 'value', 'message'),
  [
    ('log_evry', 1, "the config has no option 'log_evry': did you mean 'log_every'"),
    ('optimzer', {'a': 1}, "the config has no option 'optimzer': did you mean 'optimizer'"),
    ('optimizer', 3, 'optimizer=3 is not allowed: give a section with keys'),
    ('method', GONE, r'the config needs a value for method: set, .* config_base.method\(.simclr'),
    ('eval_every', GONE, 'eval_every is missing: make the section'),
    ('data.workers', GONE, 'data.workers is missing'),
    ('data.nam', 'digits', "data has no option 'nam': did you mean 'name'"),
    ('method.name', GONE, 'unknown method None: choose one of'),
    ('method.name', 'byoll', "unknown method 'byoll': did you mean 'byol'"),
    ('plugins.moch', {}, "plugins has no option 'moch': did you mean 'mochi'"),
    ('sam.rho', 0.1, 'sam.rho=0.1 has no effect unless sam.name=sam'),
    ('seed', 2**32, 'seed=4294967296 is not allowed: give a whole number of at least 0 and less'),
    ('profile', (9, 3), r'profile=\(9, 3\) is not allowed: give .* in increasing order'),
    ('data.mode', 'residnt', "data.mode='residnt' is not allowed: did you mean 'resident'"),
    ('eval.features', ('trainde',), r"eval.features=\('trainde',\) is not allowed"),
    ('schedule.warmup_epochs', -1.0, 'schedule.warmup_epochs=-1.0 is not allowed'),
    ('optimizer.scaling', 'cubic', "optimizer.scaling='cubic' is not allowed"),
  ],
)
def test_refused_in_one_sentence(key, value, message):
  with pytest.raises(UserError, match=message) as error:
    check_config(with_value(tiny.get_config('simclr'), key, value))
  assert '\n' not in str(error.value)


@pytest.mark.parametrize('method', ['sogclr', 'dino'])
def test_each_leaf_is_checked(method):
  config = tiny.get_config(method)
  for key, _ in leaves(config):
    if not key.startswith('eval.protocols.'):
      with pytest.raises(UserError) as error:
        check_config(with_value(config, key, {'no': 'value'}))
      message = str(error.value)
      assert '\n' not in message
      assert message.startswith((f'{key}=', 'unknown ')), message


# ---------------------------------------------------------------- what does not change training
WITHOUT_EFFECT = """checkpoint_every data.data_dir data.mode data.workers eval.crop eval.data
  eval.features eval.interpolation eval.protocols eval.resize eval.test_split eval.train_split
  eval_every imports keep_best keep_last log_every loggers method.block_size model.remat profile
  progress shard_optimizer steps_per_call stop_at_epoch telemetry.bins telemetry.enabled
  telemetry.every telemetry.highest telemetry.lowest watchdog_seconds"""


def test_keys_without_effect():
  """Pinned: another set is another hash for the same config."""
  assert keys_without_effect(tiny.get_config('simclr')) == set(WITHOUT_EFFECT.split())


def test_only_keys_with_an_effect_make_another_run(tmp_path):
  config = tiny.get_config('simclr')
  other = changed(config, {'log_every': 9, 'telemetry.enabled': True, 'eval.data': 'mnist'})
  keys = keys_without_effect(config)
  assert hash_config(to_dict(config), keys) == hash_config(to_dict(other), keys)
  another = changed(config, {'method.temperature': 0.1})
  assert hash_config(to_dict(config), keys) != hash_config(to_dict(another), keys)


def test_a_stored_config_can_be_overridden_like_the_first_one(tmp_path):
  config = tiny.get_config('simclr')
  open_run(Workdir(tmp_path), config, keys_without_effect(config))
  stored = with_types(read_config(Workdir(tmp_path)))
  assert to_dict(stored) == to_dict(config)
  check_config(stored)
  for key, kind in (('steps_per_call', int), ('stop_at_epoch', float)):
    assert stored.get_type(key) is kind
  assert stored.data.get_type('image_size') is int
