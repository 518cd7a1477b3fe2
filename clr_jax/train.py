"""Training: one loop for every method, from a config to a trained, evaluated, resumable run."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from clu import parameter_overview
from ml_collections import ConfigDict

from clr_jax import checkpoint, experiment, metrics, workdir
from clr_jax.evaluate import run as evaluation
from clr_jax.runtime import Interrupt, Progress, Watchdog, profiler
from clr_jax.types import Metrics, TrainState


class RunStopped(Exception):
  """The run ended early on purpose: `code` is the process's exit code."""

  def __init__(self, message: str, code: int):
    super().__init__(message)
    self.code = code


def train(config: ConfigDict, directory: str) -> None:
  """Trains the run `directory` of `config` to its end, or goes on with it.

  Raises:
    UserError: bad input, before any work.
    RunStopped: preempted, or the loss is not finite; the state is saved.
  """
  parts = experiment.make(config)
  run = workdir.Workdir(directory)
  identity = workdir.open_run(run, config)
  with checkpoint.Checkpoints(run, keep_last=config.keep_last) as checkpoints:
    state, first_step = _start(parts, run, checkpoints)
    last_step = _last_step(config, parts.info)
    if first_step < last_step:
      if jax.process_index() == 0:
        parameter_overview.log_parameter_overview(state.params, include_stats='sharding')
      state = _loop(parts, run, checkpoints, state, first_step, last_step)
    evaluation.offline(parts, state, run, identity.config_hash)


def _start(parts, run, checkpoints) -> tuple[TrainState, int]:
  """The newest checkpoint's state, else a new one (from `init_from` if given)."""
  config = parts.config
  if checkpoints.latest_step() is not None:
    state = checkpoints.restore(parts.abstract_state())
    step = int(state.step)
    print(f'resumed {run.path} at step {step}', flush=True)
    return state, step
  state = parts.init()
  if config.init_from:
    params, method_state, report = checkpoint.restore_weights(
      config.init_from, state.params, state.state
    )
    print(report, flush=True)
    state = state.replace(params=params, state=method_state)
  return state, 0


def _last_step(config: ConfigDict, info) -> int:
  if config.stop_at_epoch is None:
    return info.total_steps
  return min(round(config.stop_at_epoch * info.steps_per_epoch), info.total_steps)


class Cadence(NamedTuple):
  """Every how many steps something happens; 0 = never (but evaluation and saving at the end)."""

  log: int
  evaluate: int
  save: int


def _cadence(config: ConfigDict, info) -> Cadence:
  def in_steps(epochs: float) -> int:
    return max(round(epochs * info.steps_per_epoch), 1) if epochs else 0

  return Cadence(config.log_every, in_steps(config.eval_every), in_steps(config.checkpoint_every))


def plan(first: int, last: int, cadence: Cadence, size: int) -> Iterator[tuple[int, int]]:
  """(step, count) of every dispatch: `count` is `size` or 1, and no cadence falls inside one.

  Dispatches lie on a grid that does not depend on where a run was resumed, so that the same
  compiled programs run over the same steps.
  """
  periods = [p for p in cadence if p]
  step = 0
  while step < last:
    boundary = min([last, *(step + p - step % p for p in periods)])
    while step < boundary:
      count = size if boundary - step >= size else 1
      if step >= first:
        yield step, count
      step += count


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


def steps_per_call(config: ConfigDict) -> int:
  """Steps in one dispatch: as configured, else 1 on CPUs and 25 elsewhere."""
  if config.steps_per_call is not None:
    return config.steps_per_call
  return 1 if jax.default_backend() == 'cpu' else 25


def _loop(parts, run, checkpoints, state: TrainState, first: int, last: int) -> TrainState:
  config, info = parts.config, parts.info
  cadence = _cadence(config, info)
  size = steps_per_call(config)
  pipeline = parts.make_pipeline()
  dispatch = make_dispatch(parts, pipeline, size)
  online = evaluation.Online(parts)
  pending: list[Metrics] = []
  # Two passes over the same plan: the pipeline reads ahead of the loop.
  calls = list(plan(first, last, cadence, size))
  with (
    metrics.MetricWriter(run, first_step=first) as writer,
    Interrupt() as interrupt,
    Watchdog(config.watchdog_seconds) as watchdog,
    Progress(first, last, info.batch_size, enabled=config.progress) as progress,
  ):
    for (step, count), block in zip(calls, pipeline.blocks(calls), strict=True):
      with profiler(config.profile, run.path / 'profile', step, count):
        state, step_metrics = dispatch(state, pipeline.resident, block)
      pending.append(step_metrics)
      step += count
      done = step == last
      if _due(step, cadence.log, done):
        row = _summary(pending)
        pending.clear()
        watchdog.alive()
        row['learning_rate'] = float(parts.learning_rate(step - 1))
        row |= progress.update(step, row['loss'], pipeline.wait_seconds)
        writer.write_scalars(step, row)
        _stop_if_not_finite(row, step, checkpoints, writer)
      if _due(step, cadence.evaluate, done):
        watchdog.pause()
        writer.write_scalars(step, online(state))
        watchdog.alive()
      stop = interrupt.requested(step)
      if _due(step, cadence.save, done) or stop:
        # Rows first: whatever a checkpoint promises to skip on resume must be on disk.
        writer.flush()
        checkpoints.save(step, state)
      if stop and not done:
        checkpoints.wait()
        raise RunStopped(
          f'stopped by {stop.name} at step {step} of {last}, saved: the same command goes on',
          stop.code,
        )
    checkpoints.wait()
  return state


def _due(step: int, period: int, done: bool) -> bool:
  return done or bool(period and step % period == 0)


def _summary(pending: list[Metrics]) -> dict[str, float]:
  """Means over the steps since the last row; one transfer from the device."""
  host = jax.device_get(pending)
  return {k: float(np.mean(np.concatenate([m[k] for m in host]))) for k in host[0]}


def _stop_if_not_finite(row, step: int, checkpoints, writer) -> None:
  if math.isfinite(row['loss']) and math.isfinite(row['update_norm']):
    return
  writer.flush()
  checkpoints.wait()
  good = checkpoints.latest_step()
  kept = 'no checkpoint was written yet' if good is None else f'the last good one is step {good}'
  raise RunStopped(
    f'the loss is {row["loss"]} and the norm of the update {row["update_norm"]} by step {step}; '
    f'{kept}: lower optimizer.learning_rate, or raise method.temperature, and start a new workdir',
    1,
  )
