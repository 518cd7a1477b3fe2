"""Standard output and error that nobody reads any more."""

import io
import os
import pty
import subprocess
import sys

import pytest

from clr_jax.cli import main as cli
from clr_jax.cli.screen import LastingFile, lasting_output


@pytest.fixture(params=['pipe', 'terminal'])
def abandoned(request):
  """A descriptor whose other end is closed."""
  other, number = os.pipe() if request.param == 'pipe' else pty.openpty()
  os.close(other)
  yield number
  os.close(number)


def test_writes_to_what_is_gone_do_nothing(abandoned):
  file = LastingFile(abandoned, 'w', closefd=False)
  text = io.TextIOWrapper(io.BufferedWriter(file), line_buffering=True)
  for _ in range(3):
    print('a line', file=text, flush=True)
  os.write(abandoned, b'from C++')  # no error either
  assert file.lost is None
  text.detach()


def test_what_an_encoding_lacks_is_written_as_escapes():
  """The name of a folder of bytes that are no UTF-8, and any name where the encoding is ASCII."""
  program = (
    'import sys\n'
    'from clr_jax.cli.screen import lasting_output\n'
    'with lasting_output():\n'
    "  print('caf\\udce9 \\u65e5')\n"
  )
  for encoding, said in (('utf-8', 'caf\\udce9 \u65e5\n'), ('ascii', 'caf\\udce9 \\u65e5\n')):
    command = [sys.executable, '-c', program]
    environment = {**os.environ, 'PYTHONIOENCODING': encoding}
    found = subprocess.run(command, env=environment, capture_output=True, check=True)
    assert found.stdout.decode() == said


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='no /dev/full')
def test_what_a_full_disk_drops_is_known():
  with open('/dev/full', 'wb') as full:
    file = LastingFile(full.fileno(), 'w', closefd=False)
    assert file.write(b'a line') == 6 and file.lost is not None


def test_streams_of_a_test_or_a_notebook_are_left_alone(capsys):
  before = sys.stdout, sys.stderr
  with lasting_output() as files:
    assert (sys.stdout, sys.stderr) == before and not files


PROGRAM = """
import os, stat, sys, types
from clr_jax.cli import main as cli

def run(arguments):
  sockets = [stat.S_ISSOCK(os.fstat(number).st_mode) for number in (0, 1, 2)]
  print('a line', flush=True)
  print('a line', file=sys.stderr, flush=True)
  taken = os.open(arguments[0], os.O_WRONLY | os.O_CREAT)
  os.write(1, b'from C++')
  os.write(2, b'from C++')
  os.write(taken, str(taken > 2 and not any(sockets)).encode())

sys.modules['clr_jax.cli.run'] = types.SimpleNamespace(run=run)
cli.main(sys.argv)
"""


@pytest.mark.parametrize('redirection', ['>&-', '2>&-', '<&- >&- 2>&-'])
def test_a_process_that_was_started_without_streams(tmp_path, redirection):
  """No file or socket that a command opens may become its standard output or error."""
  command = f'"$0" -c "$1" "$2" {redirection}'
  found = subprocess.run(
    ['sh', '-c', command, sys.executable, PROGRAM, tmp_path / 'file'],
    check=True,
    capture_output=True,
    text=True,
  )
  assert (tmp_path / 'file').read_text() == 'True'
  assert 'Traceback' not in found.stderr


def test_results_that_cannot_be_written_are_no_success(capsys, monkeypatch):
  def full(*args, **kwargs):
    lost = LastingFile(1, 'w', closefd=False)
    lost.lost = OSError(28, 'No space left on device')
    return lasting(lost)

  monkeypatch.setattr(cli, 'lasting_output', full)
  with pytest.raises(SystemExit) as ended:
    cli.main(['clr-jax', 'methods'])
  assert ended.value.code == 74
  assert 'standard output cannot be written (No space left' in capsys.readouterr().err


class lasting:
  def __init__(self, file):
    self._file = file

  def __enter__(self):
    return [self._file]

  def __exit__(self, *exc):
    pass
