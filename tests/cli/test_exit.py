"""Exceptions as messages and exit codes."""

import errno
import os

import jax
import pytest
from jax._src import config

from clr_jax.cli.exit import outcome_of, report_error
from clr_jax.cli.process import run_with_exit_code, set_deterministic
from clr_jax.core import errors
from clr_jax.core.errors import RunStopped, UserError


def test_each_code_has_one_meaning():
  codes = {name: code for name, code in vars(errors).items() if name.startswith('EXIT_')}
  assert codes == {
    'EXIT_FAILED': 1,
    'EXIT_BAD_INPUT': 2,
    'EXIT_LOST': 69,
    'EXIT_STALLED': 70,
    'EXIT_CANNOT_WRITE': 74,
    'EXIT_PREEMPTED': 75,
    'EXIT_INTERRUPTED': 130,
  }


@pytest.mark.parametrize(
  ('error', 'code', 'message'),
  [
    (UserError('k=0: give 1'), 2, 'k=0: give 1'),
    (RunStopped('no room', 74), 74, 'no room'),
    (KeyboardInterrupt(), 130, 'interrupted: run the same command to resume'),
    (SystemExit(3), 3, ''),
    (SystemExit(), 0, ''),
    (ValueError('a bug'), 1, None),
    (
      PermissionError(errno.EACCES, 'No', '/a'),
      2,
      'no access to /a (No): make it accessible or give another path',
    ),
    (OSError(errno.ENOSPC, 'Full', '/a'), 74, 'cannot write or read /a (Full): free disk space'),
    (
      OSError(errno.EIO, 'Bad', b'/a'),
      74,
      'cannot write or read /a (Bad): check that the disk can be used',
    ),
    (FileNotFoundError(errno.ENOENT, 'a bug', '/a'), 1, None),
    (OSError('a bug'), 1, None),
  ],
)
def test_outcomes(error, code, message):
  assert outcome_of(error) == (code, message)


@pytest.mark.parametrize(
  'read',
  [
    lambda: config.bool_env('JAX_TRIED', True),
    lambda: config.int_env('JAX_TRIED', 1),
    lambda: config.enum_state(name='jax_tried', enum_values=['a'], default='a', help=''),
  ],
)
def test_settings_that_jax_cannot_read(monkeypatch, read):
  monkeypatch.setenv('JAX_TRIED', 'maybe')
  with pytest.raises(ValueError, match='maybe') as error:
    read()
  code, message = outcome_of(error.value)
  assert code == 2 and message and message.startswith('JAX_TRIED=maybe cannot be read by JAX (')
  monkeypatch.delenv('JAX_TRIED')
  assert outcome_of(error.value) == (1, None)


def test_a_message_has_one_line(capsys):
  assert report_error(UserError('no folder a\nb\x1b[1m, 日本')) == 2
  assert capsys.readouterr().err == 'clr-jax: no folder a\\nb\\x1b[1m, 日本\n'


def test_an_unexpected_error_is_shown_with_its_traceback(capsys):
  assert report_error(ValueError('a bug')) == 1
  assert capsys.readouterr().err.endswith('ValueError: a bug\n')


def test_xla_flags_may_name_a_file(monkeypatch, tmp_path):
  (tmp_path / 'flags').write_text('--xla_a=1\n--xla_b=2\n')
  monkeypatch.setenv('XLA_FLAGS', f'{tmp_path}/flags')
  set_deterministic(True)
  assert os.environ['XLA_FLAGS'] == '--xla_a=1 --xla_b=2 --xla_gpu_deterministic_ops=true'
  monkeypatch.setenv('XLA_FLAGS', 'xla_a=1')
  with pytest.raises(UserError, match='XLA_FLAGS=xla_a=1 is neither a list of flags'):
    set_deterministic(True)


def ending(error):
  def run():
    raise error

  return run


@pytest.mark.parametrize(
  ('error', 'code', 'line'),
  [
    (UserError('k=0: give 1'), 2, 'clr-jax: k=0: give 1'),
    (RunStopped('stopped', 75), 75, 'clr-jax: stopped'),
    (
      jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes.'),
      1,
      'clr-jax: out of device memory: lower batch_size, model.width or the image size, or set '
      'precision=bfloat16',
    ),
  ],
)
def test_a_command_ends_with_a_line_and_a_code(capsys, error, code, line):
  with pytest.raises(SystemExit) as ended:
    run_with_exit_code(ending(error))
  assert ended.value.code == code
  assert capsys.readouterr().err == f'{line}\n'


@pytest.mark.parametrize('error', [ValueError('a bug'), jax.errors.JaxRuntimeError('gloo: gone')])
def test_a_single_process_raises_unexpected_errors(error):
  with pytest.raises(type(error)):
    run_with_exit_code(ending(error))
