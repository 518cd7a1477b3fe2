"""Margins in the losses of methods; the formula itself: tests/losses/test_margin.py."""

import pytest

from clr_jax.core.errors import UserError
from tests.plugins import cases


@cases.each_method
@pytest.mark.parametrize('option', ['angular', 'subtractive'])
def test_it_acts_or_is_refused(name, option, x64):
  refused = option == 'subtractive' and name in cases.WITHOUT_SOFTMAX
  cases.acts_or_is_refused(name, cases.plugin('margin', **{option: 0.4}), refused=refused)


def test_it_is_off_by_default():
  assert cases.plugin('margin') == {'margin': None}


@pytest.mark.parametrize(
  'options, match',
  [
    ({'angular': 4.0}, 'angular=4.0 is not allowed'),
    ({'subtractive': float('nan')}, 'subtractive=nan is not allowed'),
    ({'angular': 0.1, 'beyond': 'wrap'}, "beyond='wrap' is not allowed"),
    ({'subtractive': 0.1, 'beyond': 'clip'}, 'beyond=clip has no effect unless angular is set'),
  ],
)
def test_bad_options_are_refused(options, match):
  with pytest.raises(UserError, match=match):
    cases.plugin('margin', **options)
