"""Training: one loop for every method, from a config to a trained, evaluated, resumable run."""

from __future__ import annotations

import contextlib
import errno
import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from clu import parameter_overview

from clr_jax.core.config_tree import Config
from clr_jax.core.errors import EXIT_CANNOT_WRITE, RunStopped, UserError
from clr_jax.core.storage import is_local, reaching, write_whole
from clr_jax.core.types import TrainState
from clr_jax.data.pipeline import RESIDENT_LIMIT
from clr_jax.evaluation import runner as evaluation
from clr_jax.evaluation.probing.sets import Sets
from clr_jax.experiment.build import Experiment, build_experiment
from clr_jax.ops import ema
from clr_jax.rundir import checkpoint, metrics, weights, workdir
from clr_jax.rundir.identity import check_data, open_run
from clr_jax.training.cadence import cadence_of, due, plan
from clr_jax.training.callbacks import Interrupt, Profiler, Progress, Watchdog
from clr_jax.training.dispatch import STREAMED_BLOCK_BYTES, make_dispatch, steps_per_call
from clr_jax.training.metric_accumulator import Window

_CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


def train(config: Config, directory: str) -> None:
  """Trains the run `directory` of `config` to its end, or goes on with it.

  Raises:
    UserError: bad input, before any work.
    RunStopped: preempted (the state is saved); the loss is not finite (the last good checkpoint
      stays); or a disk that is full or a store that cannot be written (what was saved stays).
  """
  experiment = build_experiment(config)
  run = workdir.Workdir(directory)
  _check(config, run)
  sets = evaluation.check(experiment)
  experiment.check_shapes()
  with _stop_where_nothing_can_be_written(run):
    identity = open_run(run, config)
    check_data(run, _data_facts(experiment))
    with checkpoint.Checkpoints(
      run, keep_last=config.keep_last, keep_best=config.keep_best or None
    ) as checkpoints:
      state, first_step, window = _start(experiment, run, checkpoints)
      last_step = _last_step(config, experiment.info)
      if first_step < last_step:
        _write_overview(run, state)
        state = _loop(experiment, sets, run, checkpoints, state, window, first_step, last_step)
      evaluation.offline(experiment, sets, state, run, identity.config_hash)


@contextlib.contextmanager
def _stop_where_nothing_can_be_written(run: workdir.Workdir) -> Iterator[None]:
  try:
    yield
  except (OSError, checkpoint.SaveFailed) as error:
    if isinstance(error, OSError) and error.errno not in _CANNOT_WRITE:
      raise
    cause = error if isinstance(error, OSError) else error.__cause__
    room = is_local(run.path) and getattr(cause, 'errno', None) not in (errno.EROFS, errno.EIO)
    mend = 'make room' if room else 'see that the workdir can be written'
    message = f'{error}: {mend}; the same command goes on from the last checkpoint'
    raise RunStopped(message, EXIT_CANNOT_WRITE) from error


def _data_facts(experiment: Experiment) -> dict[str, Any]:
  """What `check_data` compares. Pixels count where training decodes all of them anyway."""
  source, mode = experiment.source, experiment.config.data.mode
  resident = mode != 'streamed' and source.nbytes <= RESIDENT_LIMIT
  if resident:
    source.arrays()  # decoded once, for the checksum and for the device
  return {
    'number': source.num_examples,
    'image shape': [*source.image_shape],
    'classes': source.num_classes,
    'checksum': source.checksum() if resident else None,
  }


def _write_overview(run: workdir.Workdir, state: TrainState) -> None:
  """The table of all parameters goes to `parameters.txt`; one line of sums to the terminal."""
  if jax.process_index():
    return
  overview = parameter_overview.get_parameter_overview(state.params, include_stats='sharding')
  write_whole(run.path / 'parameters.txt', overview + '\n')
  sizes = {k: parameter_overview.count_parameters(v) for k, v in state.params.items()}
  parts = ', '.join(f'{k} {v:,}' for k, v in sizes.items())
  print(f'{sum(sizes.values()):,} parameters: {parts}', flush=True)


def _check(config: Config, run: workdir.Workdir) -> None:
  """Refuses, before the workdir is touched, what the loop would stumble over."""
  for key in ('log_every', 'eval_every', 'checkpoint_every', 'watchdog_seconds'):
    if config[key] < 0:
      raise UserError(f'{key}={config[key]} is negative: give 0 to switch it off')
  for key in ('keep_last', 'steps_per_call', 'stop_at_epoch'):
    if config[key] is not None and config[key] <= 0:
      raise UserError(f'{key}={config[key]} must be positive: raise it or leave it out')
  if config.data.mode not in ('auto', 'resident', 'streamed'):
    raise UserError(f'data.mode={config.data.mode!r} is none of auto, resident, streamed')
  if config.seed < 0 or config.data.workers < 0:
    raise UserError(
      f'seed={config.seed} and data.workers={config.data.workers} must not be negative: raise them'
    )
  profile = config.profile
  if len(profile) != 2 or not 0 <= profile[0] <= profile[1]:
    raise UserError(
      f'profile={profile} is not (first, last) with 0 <= first <= last: give both steps'
    )
  with reaching(run.path):
    begins = not run.checkpoints.exists()
  if config.init_from and begins:
    with checkpoint.Checkpoints(config.init_from, read_only=True) as other:
      if other.latest_step() is None:
        raise UserError(f'init_from={config.init_from} has no checkpoint: train that run first')


def _start(experiment, run, checkpoints) -> tuple[TrainState, int, Window]:
  """The newest checkpoint's state, else a new one (from `init_from` if given)."""
  config = experiment.config
  if checkpoints.latest_step() is not None:
    state = checkpoints.restore(experiment.abstract_state())
    step = int(state.step)
    if jax.process_index() == 0:
      print(f'resumed {run.path} at step {step}', flush=True)
    return state, step, Window.restored(checkpoints.metrics(step))
  state = experiment.init()
  if config.init_from:
    params, method_state, report = weights.restore_weights(
      config.init_from, state.params, state.state
    )
    if jax.process_index() == 0:
      print(report, flush=True)
    if 'target' in method_state:  # an EMA target starts as a copy of the online network
      online = {'params': params, 'batch_stats': method_state['batch_stats']}
      target = {
        part: {name: ema.copy(online[part][name]) for name in tree}
        for part, tree in method_state['target'].items()
      }
      method_state = {**method_state, 'target': target}
    state = state.replace(params=params, state=method_state)
  return state, 0, Window()


def _last_step(config: Config, info) -> int:
  if config.stop_at_epoch is None:
    return info.total_steps
  return min(max(round(config.stop_at_epoch * info.steps_per_epoch), 1), info.total_steps)


def _loop(
  experiment, sets: Sets, run, checkpoints, state: TrainState, window: Window, first: int, last: int
) -> TrainState:
  config, info = experiment.config, experiment.info
  cadence = cadence_of(config, info)
  pipeline = experiment.make_pipeline()
  size = steps_per_call(config)
  if (
    pipeline.mode == 'streamed'
  ):  # a block holds the images of all its steps, and several are alive
    step_bytes = info.batch_size * math.prod(experiment.source.image_shape)
    size = max(1, min(size, STREAMED_BLOCK_BYTES // step_bytes))
  dispatch = make_dispatch(experiment, pipeline, size)
  online = evaluation.Online(experiment, sets)
  # Two passes over the same plan: the pipeline reads ahead of the loop.
  calls = list(plan(first, last, cadence, size))
  with (
    metrics.MetricWriter(run, first_step=first) as writer,
    Interrupt() as interrupt,
    Watchdog(config.watchdog_seconds) as watchdog,
    Progress(first, last, info.batch_size, enabled=config.progress) as progress,
    contextlib.closing(pipeline.blocks(calls)) as blocks,
    Profiler(config.profile, run.path / 'profile') as profiler,
  ):
    for (step, count), block in zip(calls, blocks, strict=True):
      profiler.before(step, count)
      state, step_metrics = dispatch(state, pipeline.resident, block)
      profiler.after(step, count, step_metrics)
      watchdog.alive()
      window.add(step_metrics)
      step += count
      done = step == last
      if due(step, cadence.log, done):
        row = window.means()
        watchdog.alive()
        row['learning_rate'] = float(experiment.learning_rate(step - 1))
        row |= progress.update(step, row['loss'], pipeline.wait_seconds)
        writer.write_scalars(step, row)
        _stop_if_not_finite(row, step, checkpoints, writer)
        if due(step, cadence.log, False):  # the last row may lie off the grid
          window.clear()
      scores = {}
      if due(step, cadence.evaluate, done):
        watchdog.pause()
        progress.pause()
        scores = online(state)
        writer.write_scalars(step, scores)
        progress.resume()
        watchdog.alive()
      stop = interrupt.requested()
      if due(step, cadence.save, done) or stop:
        _stop_if_not_finite(window.means(), step, checkpoints, writer)
        # Rows first: whatever a checkpoint promises to skip on resume must be on disk.
        writer.flush()
        checkpoints.save(step, state, metrics={**scores, **window.stored()})
      if stop:
        checkpoints.wait()
        raise RunStopped(
          f'stopped by {stop.name} at step {step} of {last}, saved: the same command goes on',
          stop.code,
        )
    checkpoints.wait()
  return state


def _stop_if_not_finite(row: Mapping[str, Any], step: int, checkpoints, writer) -> None:
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
    1,
  )
