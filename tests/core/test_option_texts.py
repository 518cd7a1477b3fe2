"""Descriptions of options, taken from docstrings."""

import functools

from clr_jax.core.option_texts import described_by, option_texts
from clr_jax.core.options import options_of, takes_options_of


def inner(*, rate: float = 0.1, decay: float = 0.0, unsaid: int = 1):
  """Does something.

  Args:
    rate: size of the steps,
      in two lines: 0.1 (paper).
    decay: decay of the rate.

  Raises:
    decay: is no option here.
  """


@takes_options_of(inner)
def outer(x, *, decay: float = 1.0, first: int = 0, last: int = 1, **options):
  """Does more.

  Args:
    x: no option.
    decay: its own words.
    first, last: epochs.
    **options: options of `inner`.
  """


def test_entries_of_a_docstring():
  assert option_texts(inner) == {'rate': 'size of the steps, in two lines: 0.1 (paper).',
                                 'decay': 'decay of the rate.'}  # fmt: skip
  assert option_texts(functools.partial(inner, rate=1.0)) == option_texts(inner)
  assert option_texts(lambda: None) == {}


def test_options_have_their_own_words_and_those_of_the_function_that_takes_them():
  texts = {key: option.text for key, option in options_of(outer).items()}
  assert texts == {
    'decay': 'its own words.',
    'first': 'epochs.',
    'last': 'epochs.',
    'rate': 'size of the steps, in two lines: 0.1 (paper).',
    'unsaid': '',
  }


def test_described_by_keeps_the_first_words():
  @described_by(outer)
  def other(*, rate: float = 0.1, decay: float = 0.0):
    """Does it, too.

    Attributes:
      rate: another one.
    """

  assert option_texts(other)['rate'] == 'another one.'
  assert option_texts(other)['decay'] == 'its own words.'
