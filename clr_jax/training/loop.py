"""The training loop of all methods, from a config to a trained, evaluated, resumable run."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from clu import parameter_overview

from clr_jax.core.activity import activity
from clr_jax.core.config_tree import Config
from clr_jax.core.errors import (
  DISK_FAILED,
  DISK_FULL,
  EXIT_CANNOT_WRITE,
  EXIT_FAILED,
  NOT_PERMITTED,
  RunStopped,
  UserError,
)
from clr_jax.core.signals import Stop
from clr_jax.core.storage import atomic_write, is_local
from clr_jax.core.types import TrainState
from clr_jax.data.pipeline import mode_of
from clr_jax.data.stream import check_workers
from clr_jax.evaluation import runner
from clr_jax.evaluation.probing.sets import Sets
from clr_jax.experiment.build import Experiment, build_experiment
from clr_jax.experiment.recorded import recorded_defaults, say_lacking
from clr_jax.experiment.schema import check_config, keys_without_effect
from clr_jax.rundir.checkpoint import Checkpoints, SaveFailed
from clr_jax.rundir.identity import check_run, open_run, refuse_foreign
from clr_jax.rundir.lock import hold
from clr_jax.rundir.loggers import check_loggers
from clr_jax.rundir.metrics import MetricWriter
from clr_jax.rundir.paths import with_absolute_paths
from clr_jax.rundir.workdir import Workdir
from clr_jax.training.cadence import cadence_of, due, last_step, plan
from clr_jax.training.callbacks import Interrupt, Profiler, Watchdog, check_profile
from clr_jax.training.dispatch import make_dispatch, steps_per_call
from clr_jax.training.metric_accumulator import MetricAccumulator
from clr_jax.training.progress import Progress, header, next_commands
from clr_jax.training.start import Start, check_init_from, start_or_resume

_CANNOT_WRITE = (*DISK_FULL, *DISK_FAILED, *NOT_PERMITTED)


def train(config: Config, directory: str, *, notes: Sequence[str] = ()) -> None:
  """Trains a run to its end, evaluates it, and prints a table of results.

  Args:
    config: config of the run, see `clr_jax.load_config`.
    directory: a new directory, or that of the same run, which is then resumed.
    notes: sentences about the config, printed on standard error once it is found to be good.

  Raises:
    UserError: bad input, before any work.
    RunStopped: the run was preempted (after saving); the loss is not finite (the last good
      checkpoint remains); or a disk is full or a store cannot be written (checkpoints remain).

  Example:
    >>> import clr_jax
    >>> small = {'num_epochs': 1.0, 'schedule.warmup_epochs': 0.0, 'model.width': 4}
    >>> config = clr_jax.load_config('quickstart:simclr', small)
    >>> config.eval.protocols = {}  # no evaluation at the end
    >>> train(config, workdir)
    32,342 parameters: backbone 4,972, probe 170, projector 27,200
  """
  began, first_process = time.monotonic(), jax.process_index() == 0
  say = functools.partial(print, file=sys.stderr, flush=True) if first_process else _say_nothing
  # Build and check everything before the workdir is touched.
  config, run, experiment, sets = prepare(config, directory)
  free, defaults = keys_without_effect(config), recorded_defaults(config)

  with _stop_if_nothing_can_be_written(run), hold(run):
    # Open the workdir, which is new or holds this run.
    check_run(run, config, free, defaults)  # before all images are decoded
    for note in notes:
      say(note)
    say_lacking(run)
    identity = open_run(run, config, free, experiment.data_facts(), defaults)
    runner.say_data(experiment, sets)

    # Start or resume, train, evaluate.
    with Checkpoints(
      run, keep_last=config.keep_last, keep_best=config.keep_best or None
    ) as checkpoints:
      with activity('making the network', enabled=first_process and config.progress):
        start = start_or_resume(experiment, run, checkpoints)
      state, last = start.state, last_step(config, experiment.info)
      if start.step < last or start.unevaluated:
        say(header(experiment, directory, start.step, last))
        _write_overview(run, state)
        state = _loop(experiment, sets, run, checkpoints, start)
      runner.offline(experiment, sets, state, run, identity.config_hash)
    say(next_commands(directory, time.monotonic() - began, labeled=sets.labeled))


class Prepared(NamedTuple):
  """Everything of a run before its workdir is touched: its config has absolute paths."""

  config: Config
  run: Workdir
  experiment: Experiment
  sets: Sets


def prepare(config: Config, directory: str) -> Prepared:
  """Builds and checks all parts of a run; writes nothing.

  Raises:
    UserError: anything that cannot work, except another run in the directory (`check_run`).
  """
  check_config(config)
  if config.keep_best and not config.eval_every:
    raise UserError(
      f'keep_best={config.keep_best} compares evaluations during training, and eval_every=0 has '
      f'none: set eval_every above 0, or keep_best= to nothing'
    )
  config = with_absolute_paths(config)
  experiment = build_experiment(config)
  run = Workdir(directory)
  check_init_from(config, run, experiment)
  check_loggers(_loggers(config))
  check_profile(config.profile, experiment.info.total_steps)
  sets = runner.check(experiment)
  experiment.check_shapes()
  if mode_of(experiment.source, config.data.mode) == 'streamed':
    check_workers(config.data.workers)
  refuse_foreign(run)
  return Prepared(config, run, experiment, sets)


def _say_nothing(text: str) -> None:
  del text


@contextlib.contextmanager
def _stop_if_nothing_can_be_written(run: Workdir) -> Iterator[None]:
  try:
    yield
  except (OSError, SaveFailed) as error:
    if isinstance(error, OSError) and error.errno not in _CANNOT_WRITE:
      raise
    problem = str(error)
    if isinstance(error, OSError) and error.filename is not None:
      problem = f'cannot write or read {os.fsdecode(error.filename)} ({error.strerror})'
    message = (
      f'{problem}: {_mend(error, run)}; run the same command to resume from the last checkpoint'
    )
    raise RunStopped(message, EXIT_CANNOT_WRITE) from error


def _mend(error: OSError | SaveFailed, run: Workdir) -> str:
  """Remedy for an error of a disk or a store."""
  cause = error if isinstance(error, OSError) else error.__cause__
  where = getattr(cause, 'filename', None)
  if where and not os.fsdecode(where).startswith(os.fspath(run.path)):
    return f'make {os.fsdecode(where)} usable'  # a path of the images or in shared memory
  full = getattr(cause, 'errno', None) in DISK_FULL or re.search('no space|quota', str(error), re.I)
  return 'free disk space' if full and is_local(run.path) else 'make the workdir writable'


def _write_overview(run: Workdir, state: TrainState) -> None:
  """Writes the table of all parameters to `parameters.txt`; prints one line of sums."""
  if jax.process_index():
    return
  overview = parameter_overview.get_parameter_overview(state.params, include_stats='sharding')
  atomic_write(run.path / 'parameters.txt', overview + '\n')
  sizes = {k: parameter_overview.count_parameters(v) for k, v in state.params.items()}
  parts = ', '.join(f'{k} {v:,}' for k, v in sizes.items())
  print(f'{sum(sizes.values()):,} parameters: {parts}', flush=True)


def _loop(
  experiment: Experiment, sets: Sets, run: Workdir, checkpoints: Checkpoints, start: Start
) -> TrainState:
  """Trains from `start` to the last step; returns the final state."""
  config, info = experiment.config, experiment.info
  (state, first, accumulated, unevaluated), last = start, last_step(config, info)
  cadence = cadence_of(config, info)
  pipeline = experiment.make_pipeline()
  dispatch = make_dispatch(experiment, pipeline, size := steps_per_call(experiment, pipeline))
  online = runner.Online(experiment, sets)
  # Two iterators over the same plan, because the pipeline reads ahead of the loop.
  calls = list(plan(first, last, cadence, size))
  with (
    MetricWriter(run, first_step=first, loggers=_loggers(config)) as writer,
    Interrupt() as interrupt,
    Watchdog(config.watchdog_seconds) as watchdog,
    Progress(first, last, info, enabled=config.progress) as progress,
    contextlib.closing(pipeline.blocks(calls)) as blocks,
    Profiler(config.profile, run.path / 'profile') as profiler,
  ):
    if unevaluated:
      with watchdog.paused(), progress.paused('online evaluation'):
        scores = progress.evaluated(online(state))
      writer.write_scalars(first, scores)
      writer.flush()
      checkpoints.save(first, state, metrics=scores, window=accumulated.stored(), force=True)
    rescue = functools.partial(_rescue, writer, checkpoints, watchdog)
    keep: Callable[[], object] = bool  # saves nothing: the first state is on disk, or new
    for step, count in calls:
      with _kept_if_unreadable(keep):
        block = next(blocks)
      # Train `count` steps from `step`.
      profiler.before(step, count)
      with progress.compiling(step == first):
        state, step_metrics = dispatch(state, pipeline.resident, block)
      profiler.after(step, count, step_metrics)
      watchdog.alive()
      accumulated.add(step_metrics)
      step += count
      progress.dispatched(step, step_metrics)
      done = step == last

      # Log.
      if due(step, cadence.log, done):
        row = accumulated.row()
        watchdog.alive()
        row['learning_rate'] = float(experiment.learning_rate(step - 1))
        row |= progress.update(step, row['loss'], pipeline.wait_seconds, row.get('objective'))
        writer.write_scalars(step, row)
        _stop_if_not_finite(row, step, checkpoints, writer)
        if due(step, cadence.log, False):  # the last row may be off the grid
          accumulated.clear()

      # Evaluate.
      scores = {}
      if due(step, cadence.evaluate, done):
        keep = functools.partial(rescue, step, state, accumulated.copy(), True)
        interrupt.rescue_by(keep)
        with watchdog.paused(), progress.paused('online evaluation'), _kept_if_unreadable(keep):
          scores = progress.evaluated(online(state))
        writer.write_scalars(step, scores)

      # Save last: with the scores and the accumulated metrics, and after the rows are on disk,
      # because a run that resumes here does not write them again.
      if (stop := interrupt.requested()) or due(step, cadence.save, done):
        _stop_if_not_finite(accumulated.row(), step, checkpoints, writer)
        writer.flush()
        checkpoints.save(step, state, metrics=scores, window=accumulated.stored())
      if stop:
        with watchdog.paused():
          checkpoints.wait()
        raise _stopped(stop, step, last)
      keep = functools.partial(rescue, step, state, accumulated.copy(), False)
      interrupt.rescue_by(keep)
    checkpoints.wait()
  return state


def _loggers(config: Config) -> tuple[str, ...]:
  return config.get('loggers', ('tensorboard',))  # missing in configs of older runs


@contextlib.contextmanager
def _kept_if_unreadable(keep: Callable[[], object]) -> Iterator[None]:
  """Calls `keep` if an image cannot be read; all processes of a run then stop together."""
  try:
    yield
  except (UserError, RunStopped):
    keep()
    raise


def _rescue(
  writer: MetricWriter,
  checkpoints: Checkpoints,
  watchdog: Watchdog,
  step: int,
  state: TrainState,
  accumulated: MetricAccumulator,
  unevaluated: bool,
) -> bool:
  """Saves the state after `step` steps from a thread beside the loop; True if it could."""
  if any(leaf.is_deleted() for leaf in jax.tree.leaves(state)):
    return False  # the next step owns it
  with watchdog.paused():
    _stop_if_not_finite(accumulated.row(), step, checkpoints, writer)
    writer.flush()
    checkpoints.save(step, state, window=accumulated.stored(), unevaluated=unevaluated)
    checkpoints.wait()
  return True


def _stopped(by: Stop, step: int, last: int) -> RunStopped:
  message = (
    f'stopped by {by.name} at step {step} of {last}, checkpoint saved: run the same command to '
    'resume'
  )
  return RunStopped(message, by.code)


def _stop_if_not_finite(
  row: Mapping[str, Any], step: int, checkpoints: Checkpoints, writer: MetricWriter
) -> None:
  seen = {k: row[k] for k in ('loss', 'update_norm') if k in row}
  if all(map(math.isfinite, seen.values())):
    return
  writer.flush()
  checkpoints.wait()
  good = checkpoints.latest_step()
  kept = (
    'no checkpoint was written yet' if good is None else f'the last good checkpoint is step {good}'
  )
  raise RunStopped(
    f'the loss is {seen["loss"]} and the norm of the update {seen["update_norm"]} by step {step}; '
    f'{kept}: lower optimizer.learning_rate (or raise method.temperature, where there is one), and '
    f'start a new workdir',
    EXIT_FAILED,
  )
