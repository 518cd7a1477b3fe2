"""Names: look-up, and the sentence that refuses an unknown one."""

import pytest

from clr_jax.core.errors import UserError
from clr_jax.core.names import look_up


def test_look_up():
  table = {'sgd': 1, 'lars': 2}
  assert look_up(table, 'lars', 'optimizer') == 2
  for name, message in (
    ('larz', "unknown optimizer 'larz': did you mean 'lars'? choose one of sgd, lars"),
    ('q', "unknown optimizer 'q': choose one of sgd, lars"),
    ('SGD', "unknown optimizer 'SGD': did you mean 'sgd'? choose one of sgd, lars"),
    (None, 'unknown optimizer None: choose one of sgd, lars'),
  ):
    with pytest.raises(UserError) as error:
      look_up(table, name, 'optimizer')
    assert str(error.value) == message


def test_the_message_about_a_renamed_option_gives_the_new_name():
  with pytest.raises(UserError, match="unknown option 'to': use 'target' instead; choose one of"):
    look_up({'target': 1, 'top': 2}, 'to', 'option')
  with pytest.raises(UserError, match='did you mean'):  # `top` has no `target`
    look_up({'top': 2}, 'to', 'option')
