"""Configs of components, and config files by path or name."""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from typing import Annotated, Literal, Optional, Union

import pytest
from absl import flags
from annotated_types import Ge
from ml_collections import ConfigDict, config_flags

from clr_jax.core import options as configs
from clr_jax.core.config_tree import check_keys, leaves, to_dict
from clr_jax.core.errors import UserError
from clr_jax.core.options import SEVERAL
from clr_jax.experiment.config_files import choose, load, packaged, resolve


def paint(
  canvas,
  *,
  colour: str = 'red',
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
  assert (config.colour, config.coats, config.size) == ('red', 5, (3, 4))
  assert 'canvas' not in config
  assert 'name' not in configs.component(paint)


def test_component_and_build_round_trip():
  config = configs.component(paint, 'paint', width=0.5, crop=(0.1, 0.2))
  canvas, got = configs.build(paint, config, 'linen')
  assert canvas == 'linen'
  assert (got['width'], got['crop'], got['seed'], got['dry']) == (0.5, (0.1, 0.2), None, None)


@pytest.mark.parametrize('make', [paint, functools.partial(paint, coats=3)])
def test_unknown_keys_are_refused_in_both_directions(make):
  with pytest.raises(UserError, match="no option 'colr': did you mean 'colour'"):
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
  with pytest.raises(UserError, match=r'it has method\.gamma, method\.temperature, seed'):
    check_keys(config, ['xyz'])
  with pytest.raises(UserError):  # a part is no leaf
    check_keys(config, ['method'])


def test_leaves():
  config = ConfigDict({'a': {'b': {'c': 1}}, 'd': (1, 2)})
  assert dict(leaves(config)) == {'a.b.c': 1, 'd': (1, 2)}


def test_choose():
  assert choose('a', {'a': 1, 'b': 2}, 'b') == 1
  assert choose(None, {'a': 1, 'b': 2}, 'b') == 2
  with pytest.raises(UserError, match='choose one of a, b'):
    choose('c', {'a': 1, 'b': 2}, 'b')


# ---------------------------------------------------------------- files
def write(path, text):
  path.parent.mkdir(exist_ok=True)
  path.write_text(text)
  return str(path)


HEAD = 'from ml_collections import ConfigDict\n'


def test_load_gives_a_locked_config_and_its_argument(tmp_path):
  body = HEAD + "def get_config(argument='none'): return ConfigDict({'got': argument})"
  path = write(tmp_path / 'mine.py', body)
  assert load(path).got == 'none'
  assert load(f'{path}:this,that=1').got == 'this,that=1'
  with pytest.raises(AttributeError):
    load(path).unknown = 1


def test_load_refuses_what_is_no_config(tmp_path):
  plain = write(tmp_path / 'plain.py', HEAD + 'def get_config(): return ConfigDict()')
  with pytest.raises(UserError, match='takes no argument'):
    load(f'{plain}:extra')
  with pytest.raises(UserError, match='must define get_config'):
    load(write(tmp_path / 'empty.py', ''))
  with pytest.raises(UserError, match=r'no config file .*quickstart'):
    load(str(tmp_path / 'missing.py'))


def test_each_folder_has_its_own_common(tmp_path, monkeypatch):
  body = 'import common\nfrom ml_collections import ConfigDict\n' + (
    "def get_config():\n  import late\n  return ConfigDict({'a': common.A, 'late': late.A})"
  )
  paths = []
  for name in ('one', 'two'):
    for module in ('common', 'late'):
      write(tmp_path / name / f'{module}.py', f'A = {name!r}')
    paths.append(write(tmp_path / name / 'x.py', body))
  other = object()
  monkeypatch.setitem(sys.modules, 'common', other)
  before = list(sys.path)
  for path, name in zip(paths, ('one', 'two'), strict=True):
    assert to_dict(load(path)) == {'a': name, 'late': name}
  assert sys.modules['common'] is other
  assert 'late' not in sys.modules
  assert sys.path == before


def test_an_error_in_a_config_leaves_the_path_alone(tmp_path):
  before = list(sys.path)
  with pytest.raises(ZeroDivisionError):
    load(write(tmp_path / 'bad.py', '1 / 0'))
  assert sys.path == before


def test_resolve(tmp_path, monkeypatch):
  packaged, argument = resolve('quickstart')
  assert (packaged.name, argument) == ('quickstart.py', None)
  assert resolve('configs/quickstart.py:tcl') == (packaged, 'tcl')
  monkeypatch.chdir(tmp_path)  # where there is no configs/
  assert resolve('configs/quickstart.py') == (packaged, None)
  mine = write(tmp_path / 'quickstart.py', '')
  assert str(resolve('quickstart.py')[0]) == mine  # a file that exists comes first
  assert resolve('quickstart')[0] == packaged


def test_packaged():
  names = packaged()
  assert 'quickstart' in names
  assert 'common' not in names
  for name in names:
    assert resolve(name)[0].stem == name


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
