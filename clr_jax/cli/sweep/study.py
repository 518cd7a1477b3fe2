"""A sweep in its folder: checks before it starts, its runs, its table and figure.

NAME/  the workdir of each run          logs/NAME.log  its output
finished/NAME  digest of its config     sweep.png, sweep.csv  the results
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from clr_jax.cli.sweep.children import Ended, Job, exit_code, run_jobs
from clr_jax.cli.sweep.grid import PlannedRun
from clr_jax.cli.sweep.slots import Slot
from clr_jax.core.activity import activity
from clr_jax.core.config_tree import Config, to_dict
from clr_jax.core.errors import EXIT_FAILED, RunStopped, UserError
from clr_jax.core.locks import FileLock, LocksUnsupported
from clr_jax.core.storage import atomic_write, check_path, check_writable, files_in, is_local
from clr_jax.experiment.recorded import recorded_defaults
from clr_jax.experiment.schema import keys_without_effect
from clr_jax.figures.drawing.draw import draw_figure
from clr_jax.rundir.identity import check_run
from clr_jax.rundir.paths import with_absolute_paths
from clr_jax.rundir.workdir import Workdir, refuse_no_place
from clr_jax.training.loop import prepare

_LOG_BYTES = 4000  # of the end of a log, which are searched for its message


class Study:
  """The runs of a sweep in a folder.

  Args:
    folder: local folder of the sweep, which may exist.
    runs: the runs.
    configs: their configs by name.

  Raises:
    UserError: a folder that cannot be one, or two runs with the same config.
  """

  def __init__(self, folder: str, runs: Sequence[PlannedRun], configs: Mapping[str, Config]):
    self.folder = _checked(folder)
    self.runs = runs
    self._configs = configs
    self._digests = digests_of(configs)

  def unfinished(self) -> list[PlannedRun]:
    """Runs that have not been finished with their present config."""
    return [run for run in self.runs if not self._is_finished(run.name)]

  def check(self, runs: Sequence[PlannedRun]) -> None:
    """Builds and checks the runs as `train` does before it starts; writes nothing.

    Runs that differ only in the seed are built once.

    Raises:
      UserError: the first run that cannot start, with its name, or the folder cannot be written.
    """
    with refuse_no_place(Workdir(self.folder)):
      check_writable(self.folder)
    known: set[str] = set()
    with activity(f'checking {len(runs)} run{"s" * (len(runs) > 1)}'):
      for run in runs:
        config = self._configs[run.name]
        shared = {**to_dict(config), 'seed': 0}
        with _naming(run.name):
          directory = Workdir(self.folder / run.name)
          free, defaults = keys_without_effect(config), recorded_defaults(config)
          check_run(directory, with_absolute_paths(config), free, defaults)
          if not files_in(directory.checkpoints) and (key := _digest(shared)) not in known:
            prepare(config, os.fspath(directory.path))
            known.add(key)

  def run(
    self, runs: Sequence[PlannedRun], slots: Sequence[Slot], imports: Sequence[str]
  ) -> dict[str, int] | None:
    """Trains the runs in child processes.

    Returns:
      Their exit codes by name; None if this process has to stop.

    Raises:
      UserError: another sweep uses the folder.
    """
    logs = pathlib.Path(self.folder / 'logs')
    logs.mkdir(parents=True, exist_ok=True)
    total, number = len(self.runs), {run.name: i for i, run in enumerate(self.runs, 1)}
    codes: dict[str, int] = {}

    def started(job: Job) -> None:
      _say(f'[{number[job.name]}/{total}] {job.name}: started, output in {job.log}')

    def ended(end: Ended) -> None:
      name = end.job.name
      codes[name] = end.code if end.code >= 0 else EXIT_FAILED
      if not end.code:
        atomic_write(self._marker(name), self._digests[name])
        _say(f'[{number[name]}/{total}] {name}: finished in {end.seconds:.0f} s')
      else:
        _say(
          f'[{number[name]}/{total}] {name}: ended with code {end.code}: {_message(end.job.log)}'
        )

    jobs = [self._job(run, logs, imports) for run in runs]
    with _locked(self.folder):
      done = run_jobs(jobs, slots, started=started, ended=ended)
    return codes if done else None

  def refuse_failures(self, codes: Mapping[str, int]) -> None:
    """Raises RunStopped if runs failed.

    Args:
      codes: result of `run`.
    """
    if failed := [name for name, code in codes.items() if code]:
      raise RunStopped(
        f'{len(failed)} of {len(self.runs)} runs have not finished ({", ".join(failed)}): read '
        f'their output in {self.folder / "logs"}, and run the same command to resume them',
        exit_code(codes),
      )

  def summarize(self, options: Mapping[str, Any]) -> None:
    """Prints the table of the existing results, and draws the figure.

    Raises:
      UserError: there are no results.
    """
    directories = [os.fspath(self.folder / run.name) for run in self.runs]
    begun = [path for path in directories if os.path.exists(os.path.join(path, 'config.json'))]
    if not begun:
      raise UserError(f'{self.folder} has none of the runs yet: run the command without --summary')
    out = os.fspath(self.folder / 'sweep.png')
    print(*draw_figure('sweep', begun, out, **options), sep='\n', flush=True)

  def _marker(self, name: str) -> epath.Path:
    return self.folder / 'finished' / name

  def _is_finished(self, name: str) -> bool:
    marker = self._marker(name)
    there = marker.exists() and (self.folder / name / 'config.json').exists()
    return there and marker.read_text() == self._digests[name]

  def _job(self, run: PlannedRun, logs: pathlib.Path, imports: Sequence[str]) -> Job:
    arguments = run.arguments(os.fspath(self.folder), imports)

    def command(slot: Slot) -> list[str]:
      cores = ','.join(map(str, slot.cores))
      # -P: no module of the current folder is in the way of the library's.
      program = sys.executable, '-P', '-m', 'clr_jax.cli.sweep.child'
      return [*program, str(os.getpid()), cores, *arguments]

    return Job(run.name, command, logs / f'{run.name}.log')


def _checked(folder: str) -> epath.Path:
  check_path(folder)
  if not is_local(folder):
    raise UserError(
      f'--workdir={folder}: a sweep needs a local folder for its logs; run the commands of sweep '
      f'--list for an object store'
    )
  path = epath.Path(os.path.abspath(os.path.expanduser(folder)))
  if path.exists() and not path.is_dir():
    raise UserError(f'--workdir={folder} is a file: give a folder for the runs of the sweep')
  if (path / 'config.json').exists():
    raise UserError(f'--workdir={folder} is a run: give a folder for the runs of the sweep')
  return path


def digests_of(configs: Mapping[str, Config]) -> dict[str, str]:
  """Digests of configs by name; UserError if two are the same."""
  digests = {name: _digest(config) for name, config in configs.items()}
  names: dict[str, str] = {}
  for name, digest in digests.items():
    if (other := names.setdefault(digest, name)) != name:
      raise UserError(f'{other} and {name} have the same config: leave one of the values out')
  return digests


def _digest(config: Config | Mapping[str, Any]) -> str:
  plain = config if isinstance(config, dict) else to_dict(config)  # type: ignore (a ConfigDict)
  text = json.dumps(plain, sort_keys=True, default=str)
  return hashlib.sha256(text.encode()).hexdigest()


@contextlib.contextmanager
def _naming(name: str) -> Iterator[None]:
  try:
    yield
  except UserError as error:
    raise UserError(f'{name}: {error}') from error


@contextlib.contextmanager
def _locked(folder: epath.Path) -> Iterator[None]:
  """Holds the folder, where files can be locked; the workdirs have locks of their own."""
  lock = FileLock(folder / '.lock')
  try:
    held = lock.acquire()
  except LocksUnsupported:
    held = True
  if not held:
    raise UserError(f'{folder} is in use by another sweep: wait for its end, or stop it')
  try:
    yield
  finally:
    lock.release(remove=True)


def _message(log: pathlib.Path) -> str:
  """Last line of a log, or the last message of clr-jax in it."""
  with log.open('rb') as file:
    file.seek(max(0, log.stat().st_size - _LOG_BYTES))
    lines = file.read().decode(errors='replace').split('\n')
  lines = [line.strip() for line in lines if line.strip()]
  own = [line.removeprefix('clr-jax: ') for line in lines if line.startswith('clr-jax: ')]
  return (own or lines or ['no output'])[-1]


def _say(line: str) -> None:
  print(line, file=sys.stderr, flush=True)
