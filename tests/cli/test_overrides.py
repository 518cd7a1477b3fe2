"""Values of config keys on the command line: their types, and the sentences for wrong ones."""

import math

import pytest
from ml_collections import ConfigDict, config_dict

from clr_jax.cli import overrides
from clr_jax.core.config_tree import value_at
from clr_jax.core.errors import UserError


@pytest.fixture
def config():
  return ConfigDict(
    {
      'seed': 1,
      'rate': 0.5,
      'name': 'a',
      'on': False,
      'pair': (1, 2),
      'nothing': config_dict.placeholder(int),
      'text': config_dict.placeholder(str),
      'inner': {'flag': True, 'words': ('x',), 'target': ''},
    }
  ).lock()


def read(config, *arguments):
  rest, given = overrides.split(arguments, ('config', 'params'))
  assert not rest and not given['params']
  return overrides.values_of(config, given['config'], 'config')


@pytest.mark.parametrize(
  ('arguments', 'values'),
  [
    (['--config.seed=3'], {'seed': 3}),
    (['--config.seed', '-3'], {'seed': -3}),
    (['--config.seed=3', '--config.seed=4'], {'seed': 4}),
    (['--config.rate=3'], {'rate': 3.0}),
    (['--config.rate=1e-3'], {'rate': 1e-3}),
    (['--config.rate=inf'], {'rate': math.inf}),
    (['--config.name=b=c.d'], {'name': 'b=c.d'}),
    (['--config.name='], {'name': ''}),
    (['--config.name', '3'], {'name': '3'}),
    (['--config.on'], {'on': True}),
    (['--config.on', '--config.seed=3'], {'on': True, 'seed': 3}),
    (['--config.on=True'], {'on': True}),
    (['--config.inner.flag=false'], {'inner.flag': False}),
    (['--noconfig.inner.flag'], {'inner.flag': False}),
    (['--config.nothing=3'], {'nothing': 3}),
    (['--config.nothing=None'], {'nothing': None}),
    (['--config.text=None'], {'text': None}),
    (['--config.text=none'], {'text': 'none'}),
    (['--config.seed=None'], {'seed': None}),
    (['--config.pair=(3, 4)'], {'pair': (3, 4)}),
    (['--config.pair=[3,4]'], {'pair': (3, 4)}),
    (['--config.pair=3,4.5'], {'pair': (3, 4.5)}),
    (['--config.pair=3'], {'pair': (3,)}),
    (['--config.pair=(1,2),(3,4)'], {'pair': ((1, 2), (3, 4))}),
    (['--config.pair=()'], {'pair': ()}),
    (['--config.pair='], {'pair': ()}),
    (
      ['--config.inner.words=pgd_l2, npz:/d/{split}.npz'],
      {'inner.words': ('pgd_l2', 'npz:/d/{split}.npz')},
    ),
    (['--config.inner.words=("a,b",)'], {'inner.words': ('a,b',)}),
    (['--config.inner.words="a,b"'], {'inner.words': ('a,b',)}),
    (['--config.inner.words=None,1'], {'inner.words': (None, 1)}),
  ],
)
def test_values_have_the_type_of_those_that_they_replace(config, arguments, values):
  found = read(config, *arguments)
  assert found == values
  assert list(map(type, found.values())) == list(map(type, values.values()))
  overrides.apply(config, overrides.split(arguments, ('config',))[1]['config'], 'config')
  assert {key: value_at(config, key) for key in values} == values


@pytest.mark.parametrize(
  ('argument', 'sentence'),
  [
    ('--config.seed=3.5', '--config.seed=3.5 cannot be read: give a whole number'),
    ('--config.rate=x', '--config.rate=x cannot be read: give a number'),
    ('--config.on=yes', '--config.on=yes cannot be read: give True or False'),
    ('--config.pair=(1,', '--config.pair=(1, cannot be read: give values separated by commas'),
    ('--config.seed', '--config.seed needs a value: write --config.seed=VALUE'),
    ('--noconfig.seed', '--noconfig.seed is not allowed: --config.seed is not a boolean, give it a '
     'value'),
    ('--config.sed=3', '--config.sed: there is no such key; did you mean seed?'),
    ('--config.inner.to=1', '--config.inner.to is now called --config.inner.target: use'),
    ('--config.flag=1', '--config.flag: there is no such key; did you mean inner.flag?'),
    ('--config.inner=1', '--config.inner: there is no such key; did you mean inner.flag or '),
  ],
)  # fmt: skip
def test_refusals(config, argument, sentence):
  with pytest.raises(UserError) as refused:
    read(config, argument)
  assert str(refused.value).startswith(sentence)


def test_what_is_no_override_is_left():
  arguments = ['knn', '--config=a.py', '--config.seed', '1', 'x', '--other.seed=2', '--params.k=3']
  rest, given = overrides.split(arguments, ('config', 'params'))
  assert rest == ['knn', '--config=a.py', 'x', '--other.seed=2']
  assert given == {'config': [('seed', '1')], 'params': [('k', '3')]}


def test_the_listing_can_be_given_back(config):
  keys = overrides.Keys(config, {})
  lines = [line.strip() for line in overrides.listing(keys, 'config', columns=80)]
  assert '--config.inner.words=x' in lines and '--config.nothing=None' in lines
  before = config.to_dict()
  overrides.apply(config, overrides.split(lines, ('config',))[1]['config'], 'config')
  assert config.to_dict() == before


def test_a_description_is_wrapped_below_its_key(config):
  keys = overrides.Keys(config, {'nothing': 'a value that is not there'})
  lines = list(overrides.listing(keys, 'config', columns=24))
  at = lines.index('  --config.nothing=None')
  assert lines[at + 1 : at + 3] == ['        a value that is', '        not there']
