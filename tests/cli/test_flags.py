"""Every flag of every command takes a checked value; bad ones are refused in one sentence."""

from clr_jax.cli import values
from clr_jax.cli.parser import make_parser
from clr_jax.core.errors import UserError

WHOLE = {values.from_one: 1, values.from_zero: 0}
NO_WHOLE = ('', ' ', 'text', 'nan', 'inf', '-1', '0.5', '1.0', '1e3', '1e300', 'True', 'None')
NO_WHOLE += ('0x10', '1_000', '1,2', '(1,)', '\u0661', '\xb2', '1\n', str(2**31), '9' * 5000)
OWN = {
  values.three_counts: (*NO_WHOLE, '1', '1,2,3,4', '1,,3', '0,1,1', '1,1,-1', '1,1,nan'),
  values.address: ('', 'host', 'host:', ':80', 'host:0', 'host:65536', 'host:nan', 'a b:1'),
  values.axis: ('', 'x', 'x=1', 'config.=1', 'config.x', 'config.a+config.b=1', 'config.a+=1'),
  values.folder: ('', ' ', '\t'),
  values.file: ('', ' ', '\t'),
}


def flags():
  """(command, flag) of all flags that take a value."""
  return [
    (command, action)
    for command in make_parser()[1].values()
    for action in command._actions
    if action.nargs != 0 and action.option_strings
  ]


def bad_values(flag):
  if flag.type in WHOLE:
    return (*NO_WHOLE, str(WHOLE[flag.type] - 1))
  if flag.choices:
    return '', 'nosuch', '-1', flag.choices[0].upper()
  return OWN.get(flag.type, ())


def test_bad_values_are_refused_with_the_flag_and_a_remedy():
  allowed, tried = [], 0
  for command, flag in flags():
    name = flag.option_strings[0]
    for value in bad_values(flag):
      tried += 1
      try:
        command.parse([f'{name}={value}'])  # others are missing, which would be said later
      except UserError as error:
        text = str(error)
        assert text.startswith(f'{name}={value}'), text
        assert 'give' in text or 'choose' in text, text
      else:
        allowed.append((command.prog, name, value))
  assert not allowed
  assert tried > 300


def test_every_number_has_bounds():
  """A flag that is read as a number takes its type from cli/values.py."""
  found = flags()
  for command, flag in found:
    assert flag.type not in (int, float), (command.prog, flag.option_strings)
    assert flag.type in WHOLE or not isinstance(flag.default, int | float), flag.option_strings
  types = [flag.type for _, flag in found]
  assert sum(kind in WHOLE for kind in types) >= 15 and {*OWN} <= {*types}
