"""The sweeps of configs/studies.md: every run of each has a valid config and a name of its own."""

import shlex

import pytest

from tests.cli.calling import call
from tests.test_pages import ROOT, commands

SWEEPS = [words for words in commands(ROOT / 'configs/studies.md') if words[1] == 'sweep']


@pytest.mark.slow  # the configs of 161 runs
def test_sweeps_of_the_documents_list_their_runs(capsys):
  assert len(SWEEPS) == 15
  names = []
  for words in SWEEPS:
    assert call(*words[1:], '--list') == 0
    lines = [shlex.split(line) for line in capsys.readouterr().out.splitlines()]
    assert all(line[:2] == ['clr-jax', 'train'] for line in lines)
    names += [line[-1] for line in lines]
  assert len(set(names)) == len(names) == 161
