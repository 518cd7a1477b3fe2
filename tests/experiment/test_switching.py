"""Another name of a section on the command line or in Python makes the section anew."""

import pytest

import clr_jax
from clr_jax.cli import overrides
from clr_jax.cli.configs import load_config
from clr_jax.core.config_tree import to_dict
from clr_jax.core.errors import UserError
from clr_jax.experiment.schema import check_config, section, sections
from clr_jax.experiment.switching import switch, switchable
from tests import tiny

# Schedules with options that have no default.
NEEDS = {'simclr': {'num_examples': 9, 'batch_size': 3}, 'step_decay': {'milestones': (1.0,)}}


def test_what_the_new_section_has_is_kept_and_the_rest_is_said():
  config = tiny.get_config('simclr').lock()
  with config.unlocked():
    config.method.temperature = 0.3
  (sentence,) = switch(config, {'method': 'byol'})
  assert sentence == 'method.name=byol: kept hidden_dim=8, out_dim=8; dropped temperature=0.3'
  assert to_dict(config.method) == to_dict(section('method', name='byol', hidden_dim=8, out_dim=8))
  check_config(config)


def test_defaults_of_the_old_section_are_not_kept():
  config = tiny.get_config('moco')
  switch(config, {'method': 'moco'})  # as it is
  assert config.method.queue_length == 128
  config.method = section('method', name='moco')  # its momentum is 0.999
  switch(config, {'method': 'byol'})
  assert to_dict(config.method) == to_dict(section('method', name='byol'))


def test_values_that_are_not_allowed_or_idle_are_dropped():
  config = tiny.get_config('simclr')
  config.method = section('method', name='hcl', beta=3.0)
  (sentence,) = switch(config, {'method': 'tico'})  # whose beta is less than 1
  assert 'dropped beta=3.0' in sentence
  config.augment = section('augment', name='simclr', size=8, noise_sigma=0.1, noise_p=0.2)
  (sentence,) = switch(config, {'augment': 'affine'})
  assert config.augment.noise_p == 0.2 and 'kept noise_p=0.2, noise_sigma=0.1, size=8' in sentence
  config.augment = section('augment', name='simclr', size=8, salt_pepper_p=0.1)
  switch(config, {'augment': 'strong'})
  assert 'salt_pepper_p' in config.augment and config.augment.salt_pepper_p == 0.5


@pytest.mark.parametrize('path', switchable())
def test_any_name_of_a_section_can_follow_any_other(path):
  names = sections()[path].choices.names()
  for name in names:
    config = tiny.get_config('simclr')
    switch(config, {path: name})
    assert config[path].name == name
    if path != 'schedule' or name not in NEEDS:
      check_config(config)
      continue
    with pytest.raises(UserError, match=r'schedule\.\w+=None is not allowed: give'):
      check_config(config)
    with config.unlocked():
      config[path].update(NEEDS[name])
    check_config(config)


def flags(*arguments):
  given = overrides.split(arguments, ('config',))[1]['config']
  return load_config(f'{tiny.__file__}:simclr', [], given)


def test_flags():
  config, notes = flags(
    '--config.method.name=byol', '--config.method.momentum=0.9', '--config.seed=3'
  )
  assert (config.method.name, config.method.momentum, config.seed) == ('byol', 0.9, 3)
  (note,) = notes
  assert note.startswith('method.name=byol: kept hidden_dim=8')
  names = {'model': 'resnet50', 'optimizer': 'adamw', 'schedule': 'solo', 'augment': 'asymmetric'}
  config, notes = flags(*(f'--config.{path}.name={name}' for path, name in names.items()))
  assert {path: config[path].name for path in names} == names and len(notes) == 4
  assert config.optimizer.learning_rate == 0.1 and config.augment.size == 8
  with pytest.raises(UserError, match=r'--config.method.temperature: there is no such key'):
    flags('--config.method.name=byol', '--config.method.temperature=0.9')
  with pytest.raises(UserError, match="unknown method 'byoll': did you mean 'byol'"):
    flags('--config.method.name=byoll')


def test_in_python(capsys):
  values = {'method.name': 'byol', 'method.momentum': 1, 'eval.protocols.knn.k': (3,)}
  config = clr_jax.load_config(f'{tiny.__file__}:simclr', values)
  assert config.method.name == 'byol' and repr(config.method.momentum) == '1.0'
  assert 'method.name=byol' in capsys.readouterr().err and config.is_locked
  config.method.name = 'simclr'  # without the options that belong to it
  with pytest.raises(UserError, match=r'--config.method.name=simclr, by clr_jax.load_config'):
    check_config(config)
