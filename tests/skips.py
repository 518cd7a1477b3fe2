"""A pytest plugin: a run fails if it skips a test for a reason that tests/skips.txt does not list.

Use it with `pytest -p tests.skips`. It prints every skip; pytest-xdist by itself says nothing of
modules that skip themselves.
"""

import collections
import pathlib
import re

import pytest

LIST = pathlib.Path(__file__).with_name('skips.txt')
_found = collections.Counter()  # (file, reason) -> number of tests, or 1 for a module


def expected(text):
  """The patterns of a list: a line each, without comments."""
  lines = (line.partition('  #')[0].strip() for line in text.splitlines())
  return [re.compile(line) for line in lines if line and not line.startswith('#')]


def unexpected(found, patterns):
  """The (file, reason) pairs that match no pattern."""
  return [key for key in found if not any(p.search(f'{key[0]}: {key[1]}') for p in patterns)]


def _record(report):
  if report.skipped and not hasattr(report, 'wasxfail') and isinstance(report.longrepr, tuple):
    file = pathlib.Path(report.nodeid.partition('::')[0]).as_posix()
    _found[file, report.longrepr[2].removeprefix('Skipped: ')] += 1


def pytest_runtest_logreport(report):
  _record(report)


def pytest_collectreport(report):
  _record(report)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):
  """Modules that a worker skipped; its tests' reports came one by one."""
  del error
  for file, reason in getattr(node, 'workeroutput', {}).get('skipped_modules', []):
    _found[file, reason] = max(_found[file, reason], 1)


def pytest_sessionfinish(session):
  if hasattr(session.config, 'workeroutput'):
    modules = [list(key) for key in _found if key[0].endswith('.py')]
    session.config.workeroutput['skipped_modules'] = modules
  elif unexpected(_found, expected(LIST.read_text())) and session.exitstatus == 0:
    session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter):
  bad = unexpected(_found, expected(LIST.read_text()))
  for (file, reason), number in sorted(_found.items()):
    mark = 'NOT IN tests/skips.txt' if (file, reason) in bad else 'expected'
    terminalreporter.write_line(f'skipped {number} ({mark}): {file}: {reason}')
