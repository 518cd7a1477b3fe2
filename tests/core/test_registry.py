"""Names and options: what is accepted, and the sentence that refuses the rest."""

import inspect

import pytest

from clr_jax.core.errors import UserError
from clr_jax.core.names import look_up
from clr_jax.core.options import component, keyword_only, takes_options_of
from clr_jax.core.registry import check_options, refuse_changed


def plain(rows, *, width, depth=2):
  return rows, width, depth


def family(*, size, **others):
  return size, others


def refusal(*args, **kwargs):
  with pytest.raises(UserError) as error:
    check_options(*args, **kwargs)
  return str(error.value)


def test_look_up():
  table = {'sgd': 1, 'lars': 2}
  assert look_up(table, 'lars', 'optimizer') == 2
  for name, message in (
    ('larz', "unknown optimizer 'larz': did you mean 'lars'? choose one of sgd, lars"),
    ('q', "unknown optimizer 'q': choose one of sgd, lars"),
    (None, 'unknown optimizer None: choose one of sgd, lars'),
  ):
    with pytest.raises(UserError) as error:
      look_up(table, name, 'optimizer')
    assert str(error.value) == message


def test_only_keywords_are_options():
  assert list(keyword_only(plain)) == ['width', 'depth']
  check_options('net', plain, {'width': 1, 'depth': 1})
  check_options('net', plain, ['width'])
  assert refusal('net', plain, ['rows', 'width']) == (
    "net has no option 'rows': it takes width, depth"
  )
  assert refusal('net', plain, ['widht']) == (
    "net has no option 'widht': did you mean 'width'? it takes width, depth"
  )


def test_options_that_must_be_there():
  assert refusal('net', plain, []) == 'net needs a value for width'
  check_options('net', plain, [], complete=False)
  check_options('net', plain, [], given=['width'])
  assert refusal('net', plain, ['rows'], given=['width']) == (
    "net has no option 'rows': it takes depth"
  )
  refusal('net', plain, ['width'], given=['width'])


def test_a_factory_that_hands_options_on():
  check_options('views', family, ['anything'], given=['size'])
  check_options('views', family, ['depth'], given=['size', 'width'], rest=plain)
  assert refusal('views', family, ['dept'], given=['size', 'width'], rest=plain) == (
    "views has no option 'dept': did you mean 'depth'? it takes depth"
  )
  assert refusal('none', plain, ['x'], given=['width', 'depth']).endswith('it takes none')


@takes_options_of(plain)
def outer(first, *, depth: int = 3, **options):
  return plain(first, depth=depth, **options)


def test_a_factory_that_takes_the_options_of_another():
  assert {k: p.default for k, p in keyword_only(outer).items()} == {
    'depth': 3,
    'width': inspect.Parameter.empty,
  }
  assert outer(0, width=1) == (0, 1, 3)
  assert refusal('outer', outer, ['widht']).startswith("outer has no option 'widht'")
  assert component(outer, width=2).to_dict() == {'depth': 3, 'width': 2}


def test_a_changed_option_that_nothing_reads():
  refuse_changed(plain, {'width': 1, 'depth': 2, 'other': 3}, prefix='net', reason='here')
  with pytest.raises(UserError) as error:
    refuse_changed(plain, {'depth': 1}, prefix='net', reason='while it is flat: set net.flat=False')
  assert str(error.value) == 'net.depth=1 does nothing while it is flat: set net.flat=False'
