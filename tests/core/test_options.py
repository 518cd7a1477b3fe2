"""Options: configs of their defaults, checks, facts, and the sentences that refuse a value."""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from typing import Annotated, Literal, Optional, Union

import pytest
from absl import flags
from annotated_types import Ge, Gt
from ml_collections import ConfigDict, config_flags

from clr_jax.core import options as configs
from clr_jax.core.config_tree import check_keys, leaves, to_dict
from clr_jax.core.errors import UserError
from clr_jax.core.options import (
  OPTIONAL,
  REQUIRED,
  SEVERAL,
  OnlyWith,
  check,
  component,
  keyword_only,
  options_of,
  takes_options_of,
)


def paint(
  canvas,
  *,
  color: str = 'red',
  width: float = 1.0,
  coats: int = 2,
  size: tuple[int, int] = (3, 4),
  crop: tuple[float, float] | None = None,
  dry: bool | None = None,
  seed: int | None = None,
  gloss: float | None = None,
  old_style: Optional[int] = None,  # noqa: UP045
  old_union: Union[float, int, None] = None,  # noqa: UP007
  names: Sequence[str] | None = None,
  mode: Literal['fast', 'slow'] | None = None,
  share: float | Sequence[float] = 1.0,
):
  return canvas, locals()


def needs(*, must: float, may: int = 1):
  return must, may


def passes_on(*, own: int = 1, **rest):
  return own, rest


# ---------------------------------------------------------------- component, build
def test_component_records_all_defaults():
  config = configs.component(paint, 'paint', coats=5)
  assert config.name == 'paint'
  assert (config.color, config.coats, config.size) == ('red', 5, (3, 4))
  assert 'canvas' not in config
  assert 'name' not in configs.component(paint)


def test_component_and_build_round_trip():
  config = configs.component(paint, 'paint', width=0.5, crop=(0.1, 0.2))
  canvas, got = configs.build(paint, config, 'linen')
  assert canvas == 'linen'
  assert (got['width'], got['crop'], got['seed'], got['dry']) == (0.5, (0.1, 0.2), None, None)


@pytest.mark.parametrize('make', [paint, functools.partial(paint, coats=3)])
def test_unknown_keys_are_refused_in_both_directions(make):
  with pytest.raises(UserError, match="no option 'colr': did you mean 'color'"):
    configs.component(make, 'paint', colr='blue')
  with pytest.raises(UserError, match="no option 'colr'"):
    configs.component(make, colr='blue')
  config = configs.component(make)
  config.colr = 'blue'
  with pytest.raises(UserError, match="paint has no option 'colr'"):
    configs.build(make, config, 'linen')


def test_a_partial_gives_its_own_defaults():
  make = functools.partial(paint, coats=7)
  config = configs.component(make)
  assert config.coats == 7
  assert configs.build(make, config, 'linen')[1]['coats'] == 7


def test_required_options():
  assert 'must' not in configs.component(needs)
  with pytest.raises(UserError, match='needs a value for must'):
    configs.build(needs, configs.component(needs))
  assert configs.build(needs, configs.component(needs), must=2.0) == (2.0, 1)


def test_options_that_a_factory_passes_on():
  config = configs.component(passes_on, 'passes_on', extra=(1, 2))
  assert configs.build(passes_on, config) == (1, {'extra': (1, 2)})


def test_build_gives_plain_values():
  config = ConfigDict({'rest': {'a': (1, 2)}})
  assert type(configs.build(passes_on, config)[1]['rest']) is dict


@configs.takes_options_of(needs, without=('may',), must=0.5)
def relays(first, *, own: int = 0, **options):
  return first, own, needs(may=3, **options)


@configs.takes_options_of(relays)
def relays_again(first, **options):
  return relays(first, **options)


@pytest.mark.parametrize('make', [relays, relays_again])
def test_options_of_another_factory_with_other_defaults_and_without_some(make):
  assert configs.component(make).to_dict() == {'own': 0, 'must': 0.5}
  assert make('a') == ('a', 0, (0.5, 3))
  assert make('a', own=1, must=0.25) == ('a', 1, (0.25, 3))
  assert configs.options_of(make)['must'].hint is float
  with pytest.raises(UserError, match="no option 'may'"):
    configs.component(make, may=3)


# ---------------------------------------------------------------- types of flags
def with_flag(flag: str, **given):
  """configs.component(paint) after `--config.FLAG` of the command line."""
  config = ConfigDict({'paint': configs.component(paint, **given)}).lock()
  values = flags.FlagValues()
  argv = ['test', f'--config.paint.{flag}']
  before, sys.argv = sys.argv, argv
  try:
    config_flags.DEFINE_config_dict('config', config, flag_values=values)
    values(argv)
  finally:
    sys.argv = before
  return to_dict(config)['paint']


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize(
  ('flag', 'value'),
  [
    ('crop=(0.1,0.5)', (0.1, 0.5)),
    ('dry=True', True),
    ('dry=false', False),
    ('seed=3', 3),
    ('gloss=2', 2.0),
    ('old_style=3', 3),
    ('old_union=0.5', 0.5),
    ("names=('a','b')", ('a', 'b')),
    ('mode=fast', 'fast'),
    ('size=(5,6)', (5, 6)),
    ('share=(0.1,1.0)', (0.1, 1.0)),
    ('share=0.5', (0.5,)),
  ],
)
def test_a_flag_has_the_type_of_the_annotation(flag, value):
  got = with_flag(flag)[flag.partition('=')[0]]
  assert got == value
  assert type(got) is type(value)


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('flag', ['seed=0.5', 'dry=perhaps', 'gloss=matt', 'coats=2.5'])
def test_a_flag_of_the_wrong_type_is_refused(flag):
  with pytest.raises((flags.IllegalFlagValueError, TypeError, ValueError)):
    with_flag(flag)


@pytest.mark.filterwarnings('ignore')
def test_a_whole_number_for_a_float_stays_open_to_decimals():
  assert with_flag('width=0.25', width=3)['width'] == 0.25
  assert type(configs.component(paint, width=3, gloss=2).gloss) is float
  assert type(configs.component(paint, coats=3).coats) is int
  assert configs.component(paint, dry=True).dry is True


# ---------------------------------------------------------------- keys
def test_check_keys():
  config = ConfigDict({'method': {'temperature': 0.5, 'gamma': 0.9}, 'seed': 0, 'empty': {}})
  check_keys(config, ['method.temperature', 'seed'])
  with pytest.raises(UserError, match=r'did you mean method\.temperature'):
    check_keys(config, ['method.temprature'])
  with pytest.raises(UserError, match=r'did you mean method\.gamma'):
    check_keys(config, ['wrong.place.of.the.gamma'])
  with pytest.raises(UserError, match=r'there are method\.gamma, method\.temperature, seed'):
    check_keys(config, ['xyz'])
  with pytest.raises(UserError):  # a part is no leaf
    check_keys(config, ['method'])


def test_leaves():
  config = ConfigDict({'a': {'b': {'c': 1}}, 'd': (1, 2)})
  assert dict(leaves(config)) == {'a.b.c': 1, 'd': (1, 2)}


# ---------------------------------------------------------------- options of another factory
def inner(rows, *, width: Annotated[int, Ge(1)], depth: Annotated[int, Ge(1)] = 2):
  return rows, width, depth


@takes_options_of(inner)
def outer(first, *, depth: Annotated[int, Ge(3)] = 3, **options):
  return inner(first, depth=depth, **options)


def test_a_factory_that_takes_the_options_of_another():
  assert {k: p.default for k, p in keyword_only(outer).items()} == {'depth': 3, 'width': REQUIRED}
  assert outer(0, width=1) == (0, 1, 3)
  assert component(outer, width=2).to_dict() == {'depth': 3, 'width': 2}
  assert refusal(outer, {'widht': 1}).startswith("it has no option 'widht': did you mean 'width'?")
  assert refusal(outer, {'width': 0}) == 'width=0 is not allowed: give a whole number of at least 1'
  assert refusal(outer, {'width': 1, 'depth': 2}).startswith('depth=2 is not allowed')


def test_optional_options_are_not_recorded_but_checked():
  @takes_options_of(functools.partial(inner, width=7), OPTIONAL)
  def preset(*, name='x', **options):
    return {'depth': 9, **options}

  assert component(preset).to_dict() == {'name': 'x'}
  assert component(preset, depth=4).to_dict() == {'name': 'x', 'depth': 4}
  check(preset, {}, what='it')
  assert refusal(preset, {'depth': 0}).startswith('depth=0 is not allowed')


def test_options_that_the_factory_fills_in():
  @takes_options_of(inner, without=('width',))
  def filled(**options):
    return inner(0, width=1, **options)

  assert list(options_of(filled)) == ['depth']


def test_several_wrappers_and_facts():
  @takes_options_of(inner, OnlyWith(name='inner'))
  @takes_options_of(paint, OnlyWith(name='paint'))
  def either(*, name: Literal['inner', 'paint'] = 'paint', **options):
    return name, options

  check(either, {'width': 3, 'coats': 3}, what='it')
  assert 'has no effect unless it.name=inner: set that, too' in refusal(
    either, {'depth': 3}, prefix='it.'
  )
  check(either, {'name': 'inner', 'depth': 3, 'coats': 2}, what='it')


# ---------------------------------------------------------------- checks
def refusal(factory, values, **more):
  with pytest.raises(UserError) as error:
    check(factory, values, what='it', **more)
  message = str(error.value)
  assert '\n' not in message
  return message


def plugin(
  info,
  *,
  angular: Annotated[float, Ge(0)] = 0.0,
  subtractive: float = 0.0,
  beyond: Annotated[Literal['raw', 'clip'], OnlyWith('angular')] = 'raw',
  start: Annotated[int, OnlyWith('angular', 'subtractive')] = 0,
  schedule: Literal['cosine', 'step', 'stairs'] = 'cosine',
  factor: Annotated[float, Gt(0), OnlyWith(schedule=('step', 'stairs'))] = 0.1,
  probability: Annotated[float, OnlyWith(enabled=True)] = 0.5,
):
  return info, locals()


def test_unknown_and_missing_options():
  assert refusal(inner, {'rows': 1, 'width': 1}) == "it has no option 'rows': it takes width, depth"
  assert refusal(inner, {}) == 'it needs a value for width'
  check(inner, {}, what='it', complete=False)
  check(inner, {}, what='it', given=['width'])
  assert "it has no option 'width': " in refusal(inner, {'width': 1}, given=['width'])
  assert refusal({}, {'x': 1}) == "it has no option 'x': it takes none"


def test_options_without_an_effect():
  check(plugin, {'beyond': 'raw', 'start': 0, 'factor': 0.1}, what='it')  # the defaults
  assert refusal(plugin, {'beyond': 'clip'}, prefix='plugins.margin.') == (
    'plugins.margin.beyond=clip has no effect unless plugins.margin.angular is set: set that, too, '
    'or leave beyond at raw'
  )
  check(plugin, {'beyond': 'clip', 'angular': 0.1}, what='it')
  refusal(plugin, {'beyond': 'clip', 'angular': 0.0})  # as good as not set
  check(plugin, {'beyond': 'clip'}, what='it', complete=False)  # the rest may still be set
  assert 'unless angular is set or subtractive is set' in refusal(plugin, {'start': 2})
  check(plugin, {'start': 2, 'subtractive': 1.0}, what='it')
  assert 'unless schedule=step or stairs:' in refusal(plugin, {'factor': 0.2})
  check(plugin, {'factor': 0.2, 'schedule': 'stairs'}, what='it')


def test_a_condition_on_an_option_of_the_section_only():
  check(plugin, {'probability': 0.1}, what='it')
  section = {'enabled': configs.Option(False, bool), **options_of(plugin)}
  assert 'unless enabled=True' in refusal(section, {'probability': 0.1})
  check(section, {'probability': 0.1, 'enabled': True}, what='it')


def test_build_checks_with_the_prefix():
  config = component(plugin, 'plugin')
  config.angular = -1.0
  with pytest.raises(UserError, match=r'^part\.angular=-1\.0 is not allowed: give a number of at'):
    configs.build(plugin, config, None, prefix='part.')


def test_a_single_value_of_several_becomes_a_tuple():
  def swept(*, l2: Annotated[float, Ge(0), SEVERAL] = 0.0):
    return l2

  assert component(swept).l2 == (0.0,)


# ---------------------------------------------------------------- checked, sweep
@configs.checked
def attack(images, labels=None, *, steps: Annotated[int, Ge(1), SEVERAL] = 3, norm: str = 'l2'):
  return images, labels, steps, norm


def test_a_checked_function_refuses_what_its_annotations_do_not_allow():
  assert attack('x', labels='y', steps=2) == ('x', 'y', 2, 'l2')
  assert configs.options_of(attack)['steps'].default == 3
  with pytest.raises(UserError, match='steps=0 is not allowed: give a whole number of at least 1'):
    attack('x', steps=0)
  with pytest.raises(UserError, match="attack has no option 'step': did you mean 'steps'"):
    attack('x', step=2)


def test_sweep_is_the_product_of_several_values():
  assert list(configs.sweep(attack, {'norm': 'linf'})) == [{'norm': 'linf'}]
  assert list(configs.sweep(attack, {'steps': 5})) == [{'steps': 5}]
  assert [o['steps'] for o in configs.sweep(attack, {'steps': (1, 2), 'norm': 'l2'})] == [1, 2]
