"""Training: one loop for every method, from a config to a trained, evaluated, resumable run."""

from __future__ import annotations

import contextlib
import errno
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
from clu import parameter_overview

from clr_jax import checkpoint, experiment, metrics, weights, workdir
from clr_jax.data.pipeline import RESIDENT_LIMIT
from clr_jax.evaluate import run as evaluation
from clr_jax.evaluate.sets import Sets
from clr_jax.methods import _telemetry
from clr_jax.ops import ema
from clr_jax.runtime import Interrupt, Profiler, Progress, Watchdog
from clr_jax.stores import is_local, reaching, write_whole
from clr_jax.types import Config, Metrics, TrainState, UserError

STREAMED_BLOCK_BYTES = 256 * 2**20
EXIT_CANNOT_WRITE = 74  # EX_IOERR
_CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


class RunStopped(Exception):
  """The run ended early on purpose: `code` is the process's exit code."""

  def __init__(self, message: str, code: int):
    super().__init__(message)
    self.code = code


def train(config: Config, directory: str) -> None:
  """Trains the run `directory` of `config` to its end, or goes on with it.

  Raises:
    UserError: bad input, before any work.
    RunStopped: preempted (the state is saved); the loss is not finite (the last good checkpoint
      stays); or a disk that is full or a store that cannot be written (what was saved stays).
  """
  parts = experiment.make(config)
  run = workdir.Workdir(directory)
  _check(config, run)
  sets = evaluation.check(parts)
  parts.check_shapes()
  with _stop_where_nothing_can_be_written(run):
    identity = workdir.open_run(run, config)
    workdir.check_data(run, _data_facts(parts))
    with checkpoint.Checkpoints(
      run, keep_last=config.keep_last, keep_best=config.keep_best or None
    ) as checkpoints:
      state, first_step, window = _start(parts, run, checkpoints)
      last_step = _last_step(config, parts.info)
      if first_step < last_step:
        _write_overview(run, state)
        state = _loop(parts, sets, run, checkpoints, state, window, first_step, last_step)
      evaluation.offline(parts, sets, state, run, identity.config_hash)


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


def _data_facts(parts: experiment.Experiment) -> dict[str, Any]:
  """What `check_data` compares. Pixels count where training decodes all of them anyway."""
  source, mode = parts.source, parts.config.data.mode
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


def _start(parts, run, checkpoints) -> tuple[TrainState, int, Window]:
  """The newest checkpoint's state, else a new one (from `init_from` if given)."""
  config = parts.config
  if checkpoints.latest_step() is not None:
    state = checkpoints.restore(parts.abstract_state())
    step = int(state.step)
    if jax.process_index() == 0:
      print(f'resumed {run.path} at step {step}', flush=True)
    return state, step, Window.restored(checkpoints.metrics(step))
  state = parts.init()
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


class Cadence(NamedTuple):
  """Every how many steps something happens; 0 = never (but evaluation and saving at the end)."""

  log: int
  evaluate: int
  save: int


def _cadence(config: Config, info) -> Cadence:
  def in_steps(epochs: float) -> int:
    return max(round(epochs * info.steps_per_epoch), 1) if epochs else 0

  return Cadence(config.log_every, in_steps(config.eval_every), in_steps(config.checkpoint_every))


def plan(first: int, last: int, cadence: Cadence, size: int) -> Iterator[tuple[int, int]]:
  """(step, count) of every dispatch: `count` is `size` or 1, and no cadence falls inside one.

  Dispatches lie on a grid that does not depend on where a run was resumed, so that the same
  compiled programs run over the same steps; only a dispatch that `first` cuts is done in ones.
  """
  periods = [p for p in cadence if p]
  step = 0
  while step < last:
    boundary = min([last, *(step + p - step % p for p in periods)])
    while step < boundary:
      count = size if boundary - step >= size else 1
      if step >= first:
        yield step, count
      else:  # nothing, or the rest of what another `last` or `size` left half done
        yield from ((cut, 1) for cut in range(first, step + count))
      step += count


class Window:
  """Means of the steps' metrics since the last row on the grid of `log_every`.

  The sums are of float64, in the order of the steps, and a checkpoint carries them: a row does not
  depend on where its steps were interrupted. Metrics of telemetry are means over the steps that
  measured it, absent without one; of its counts the row has the sums, in a list.
  """

  def __init__(self, sums: Mapping[str, float] | None = None, count: int = 0):
    self._sums, self._count = dict(sums or {}), count
    self._pending: list[Metrics] = []

  @classmethod
  def restored(cls, stored: Mapping[str, float]) -> Window:
    """The window that a checkpoint's metrics hold."""
    sums = {k.removeprefix('window/'): v for k, v in stored.items() if k.startswith('window/')}
    return cls(sums, int(sums.pop('steps', 0)))

  def add(self, metrics: Metrics) -> None:
    """Metrics [count] of the next steps; they stay on the device."""
    self._pending.append(metrics)

  def stored(self) -> dict[str, float]:
    """What `restored` takes."""
    self._fetch()
    sums = {'steps': float(self._count), **self._sums} if self._count else {}
    return {f'window/{k}': v for k, v in sums.items()}

  def means(self) -> dict[str, Any]:
    """{} without steps."""
    self._fetch()
    measured, row = self._sums.get(_telemetry.STEPS), {}
    for name, total in self._sums.items():
      if not name.startswith(_telemetry.PREFIX):
        row[name] = total / self._count
      elif measured and (vector := name.rpartition('/')[0]).endswith(_telemetry.COUNTS):
        row.setdefault(vector, []).append(total)
      elif measured:
        row[name] = total if name == _telemetry.STEPS else total / measured
    return row

  def clear(self) -> None:
    """Begins the next window."""
    self._sums, self._count = {}, 0
    self._pending.clear()

  def _fetch(self) -> None:
    """One transfer from the device."""
    for block in jax.device_get(self._pending):
      for name, values in block.items():
        # A vector is kept entry by entry: a checkpoint's metrics are numbers.
        columns = [values] if values.ndim == 1 else values.T
        for i, column in enumerate(columns):
          key = name if values.ndim == 1 else f'{name}/{i:03d}'
          for value in column.tolist():
            self._sums[key] = self._sums.get(key, 0.0) + value
      self._count += len(next(iter(block.values())))
    self._pending.clear()


def make_dispatch(parts: experiment.Experiment, pipeline, size: int):
  """(state, resident, block) -> (state, metrics [count]): `count` training steps in one call.

  The CPU takes one step a call: XLA's control flow around convolutions is slow there.
  """
  step_fn = parts.step_fn

  def one(state: TrainState, resident: Any, row: Any) -> tuple[TrainState, Metrics]:
    return step_fn(state, pipeline.batch(resident, row))

  def many(state: TrainState, resident: Any, block: Any) -> tuple[TrainState, Metrics]:
    if size == 1 or jax.tree.leaves(block)[0].shape[0] == 1:
      row = jax.tree.map(lambda x: x[0], block)
      state, step_metrics = one(state, resident, row)
      return state, jax.tree.map(lambda x: x[None], step_metrics)
    return jax.lax.scan(lambda state, row: one(state, resident, row), state, block)

  shardings = jax.tree.map(lambda x: x.sharding, parts.abstract_state())
  return jax.jit(many, donate_argnums=0, out_shardings=(shardings, None))


def steps_per_call(config: Config) -> int:
  """Steps in one dispatch: as configured, else 1 on CPUs and 25 elsewhere."""
  if config.steps_per_call is not None:
    return config.steps_per_call
  return 1 if jax.default_backend() == 'cpu' else 25


def _loop(
  parts, sets: Sets, run, checkpoints, state: TrainState, window: Window, first: int, last: int
) -> TrainState:
  config, info = parts.config, parts.info
  cadence = _cadence(config, info)
  pipeline = parts.make_pipeline()
  size = steps_per_call(config)
  if (
    pipeline.mode == 'streamed'
  ):  # a block holds the images of all its steps, and several are alive
    step_bytes = info.batch_size * math.prod(parts.source.image_shape)
    size = max(1, min(size, STREAMED_BLOCK_BYTES // step_bytes))
  dispatch = make_dispatch(parts, pipeline, size)
  online = evaluation.Online(parts, sets)
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
      if _due(step, cadence.log, done):
        row = window.means()
        watchdog.alive()
        row['learning_rate'] = float(parts.learning_rate(step - 1))
        row |= progress.update(step, row['loss'], pipeline.wait_seconds)
        writer.write_scalars(step, row)
        _stop_if_not_finite(row, step, checkpoints, writer)
        if _due(step, cadence.log, False):  # the last row may lie off the grid
          window.clear()
      scores = {}
      if _due(step, cadence.evaluate, done):
        watchdog.pause()
        progress.pause()
        scores = online(state)
        writer.write_scalars(step, scores)
        progress.resume()
        watchdog.alive()
      stop = interrupt.requested()
      if _due(step, cadence.save, done) or stop:
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


def _due(step: int, period: int, done: bool) -> bool:
  return done or bool(period and step % period == 0)


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
