"""Gradient scaling in the losses of methods; the formulas: tests/losses/test_margin.py."""

import pytest

from clr_jax.core.errors import UserError
from tests.plugins import cases


@cases.each_method
@pytest.mark.parametrize(
  'option, value, refusing',
  [
    ('emphasis', 5.0, cases.WITHOUT_NEGATIVES),
    ('curvature', 0.7, ()),
    ('attenuation', 'type1', cases.WITHOUT_SOFTMAX),
  ],
)
def test_it_acts_or_is_refused(name, option, value, refusing, x64):
  used = cases.plugin('gradient_scaling', **{option: value})
  cases.acts_or_is_refused(name, used, refused=name in refusing, same_value=True)


def test_it_is_off_by_default():
  assert cases.plugin('gradient_scaling') == {'gradient_scaling': None}


@pytest.mark.parametrize(
  'options, match',
  [
    ({'curvature': -1.0}, 'curvature=-1.0 is not allowed'),
    ({'emphasis': float('inf')}, 'emphasis=inf is not allowed'),
    ({'attenuation': 'type3'}, "attenuation='type3' is not allowed"),
    ({'attenuation': 'type1', 'strength': 2.0}, 'strength=2.0 is not allowed'),
    ({'emphasis': 2.0, 'strength': 0.5}, 'strength=0.5 has no effect unless attenuation is set'),
  ],
)
def test_bad_options_are_refused(options, match):
  with pytest.raises(UserError, match=match):
    cases.plugin('gradient_scaling', **options)
