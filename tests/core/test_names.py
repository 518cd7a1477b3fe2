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
    (None, 'unknown optimizer None: choose one of sgd, lars'),
  ):
    with pytest.raises(UserError) as error:
      look_up(table, name, 'optimizer')
    assert str(error.value) == message
