"""Checkpoints of a run: asynchronous, atomic, finite, and portable between devices.

Uses Orbax's CheckpointManager. Beside the state it stores a list of its leaves and the metrics of
the step (`meta`), which distinguishes a checkpoint of another model from a damaged one.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from absl import logging
from etils import epath

from clr_jax.core import signals
from clr_jax.core.consensus import from_process_0, in_all_processes
from clr_jax.core.errors import UserError
from clr_jax.core.programs import host_jit
from clr_jax.core.storage import files_in, first_line, is_local, translate_errors
from clr_jax.core.types import Params, PyTree, TrainState
from clr_jax.rundir import checksums, orbax_log, removal
from clr_jax.rundir.codec import jsonable, number
from clr_jax.rundir.leaves import check_same, describe
from clr_jax.rundir.removal import LastAndBest
from clr_jax.rundir.workdir import Workdir

T = TypeVar('T')

_LAST_WAIT_SECONDS = 20  # time a failed process waits for a checkpoint that is being written


class SaveFailed(Exception):
  """Raised if a checkpoint could not be written; earlier ones remain."""


class Checkpoints:
  """Checkpoints of a run, a context manager; every process must make the same calls.

  Args:
    workdir: workdir of the run, or its path.
    keep_last: number of newest checkpoints to keep.
    keep_best: name of a metric, higher is better, whose best checkpoint is also kept.
    read_only: write and clean up nothing (another process may be training there).

  Raises:
    UserError: keep_last < 1.
  """

  def __init__(
    self,
    workdir: Workdir | epath.PathLike,
    *,
    keep_last: int = 2,
    keep_best: str | None = None,
    read_only: bool = False,
  ):
    if keep_last < 1:
      raise UserError(f'keep_last={keep_last} would delete every checkpoint: keep at least 1')
    workdir = workdir if isinstance(workdir, Workdir) else Workdir(workdir)
    self._workdir = workdir
    self._folder = workdir.checkpoints
    self._saving = 0  # the step of the last save
    self._background: threading.Thread | None = None
    self._given_up = threading.Event()  # a save failed
    self._scores: dict[int, float] = {}
    self._keep_best = keep_best
    self._damaged: set[int] = set()
    self._written = contextlib.ExitStack()
    with translate_errors(self._folder):
      files_in(self._folder)  # raises an error if it cannot be read
      if read_only and not self._folder.exists():
        raise UserError(f'{workdir.path} has no checkpoints: give the workdir of a run')
    # Orbax's own metrics are not used: a single damaged metrics file would break its manager.
    options: dict[str, Any] = (
      {'read_only': True, 'save_interval_steps': 0, 'create': False}
      if read_only
      else {
        'preservation_policy': LastAndBest(keep_last, self._scores),
        'cleanup_tmp_directories': True,
        # A process killed while deleting would leave a partial checkpoint.
        'todelete_subdir': removal.REMOVED,
        'async_options': ocp.AsyncOptions(post_finalization_callback=self._seal),
      }
    )
    orbax_log.shorten()
    with translate_errors(self._folder):
      self._manager = ocp.CheckpointManager(
        self._folder, options=ocp.CheckpointManagerOptions(lightweight_initialize=True, **options)
      )
    if not read_only:
      self._in_background(lambda: removal.delete_removed(self._folder))
    for step in self._manager.all_steps() if keep_best else ():
      self._note_score(step, self.metrics(step))

  def latest_step(self) -> int | None:
    """Step of the newest checkpoint, which may still be being written; None without any."""
    return max(self._manager.all_steps(), default=None)

  def best_step(self) -> int | None:
    """Step of the checkpoint with the highest `keep_best` metric; None if none has it."""
    steps = [s for s in self._manager.all_steps() if s in self._scores]
    return max(steps, key=lambda s: (self._scores[s], s), default=None)

  def save(
    self,
    step: int,
    state: TrainState,
    *,
    metrics: Mapping[str, float] | None = None,
    window: Mapping[str, Any] | None = None,
    unevaluated: bool = False,
    force: bool = False,
  ) -> bool:
    """Starts writing `state`, which may be donated once this returns.

    If `metrics['loss']` or any parameter is not finite, it logs a warning and writes nothing, so
    that the last checkpoint is a good one.

    Args:
      step: number of the checkpoint.
      state: the complete train state.
      metrics: numbers of this step to store; `keep_best` names one of them.
      window: JSON values to store, the metrics accumulated since the last log row.
      unevaluated: True to record that the evaluation of this step is missing.
      force: replace a checkpoint of the same step, which is kept otherwise.

    Returns:
      True if the state is being written.
    """
    metrics = {name: float(value) for name, value in (metrics or {}).items()}
    if not math.isfinite(metrics.get('loss', 0.0)):
      logging.warning('step %d is not saved: the loss is %s', step, metrics['loss'])
      return False
    if not bool(_all_finite(state.params)):
      logging.warning('step %d is not saved: a parameter is not finite', step)
      return False
    exists = step in self._manager.all_steps() and step not in self._damaged
    if exists and not force:
      return False
    self.wait()
    if exists:
      self._manager.delete(step)
    for damaged in sorted(self._damaged):
      self._set_aside(damaged)
    self._damaged.clear()
    self._note_score(step, metrics)
    self._saving = step
    meta = {
      'leaves': describe(state),
      'metrics': jsonable(metrics),
      'window': jsonable(window or {}),
      'unevaluated': unevaluated,
    }
    args = ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta))
    # force: this code decides; Orbax would reject a step before the latest.
    with _writing(self._folder):
      saved = self._manager.save(step, args=args, force=True)
    self._in_background(self._complete)
    return saved

  def restore(self, abstract: TrainState, step: int | None = None) -> TrainState:
    """Restores the saved state bit for bit, with the shardings of `abstract` (on any devices).

    A damaged newest checkpoint is skipped with a printed message; the next `save` moves it to
    `damaged/` of the workdir, and the run repeats its steps.

    Args:
      abstract: shapes, dtypes and shardings, as ShapeDtypeStruct or as arrays.
      step: step of a specific checkpoint instead of the newest good one.

    Raises:
      UserError: no (good) checkpoint, or a checkpoint of another method or model.
    """

    def read(step: int) -> TrainState:
      saved = self._meta(step)['leaves']
      check_same(saved, describe(abstract), f'checkpoint {step} in {self._folder}')
      handler = ocp.StandardCheckpointHandler()
      return self._read(handler, step, 'state', ocp.args.StandardRestore(abstract))

    return self._newest_good(read, step)[1]

  def restore_leaves(
    self, choose: Callable[[Mapping[str, Any]], PyTree], step: int | None = None
  ) -> tuple[int, PyTree]:
    """Restores (step, some leaves) of the newest good checkpoint.

    Args:
      choose: maps {'params/...': [shape, dtype]} of the checkpoint to a nested dict of
        ShapeDtypeStruct with shardings, {'params': {...}, 'state': {...}}.
      step: step of a specific checkpoint instead.
    """

    def read(step: int) -> PyTree:
      chosen = choose(self._meta(step)['leaves'])
      args = ocp.args.PyTreeRestore(
        chosen,
        restore_args=ocp.checkpoint_utils.construct_restore_args(chosen),
        partial_restore=True,
      )
      return self._read(ocp.PyTreeCheckpointHandler(), step, 'state', args)

    return self._newest_good(read, step)

  def leaves(self, step: int) -> Mapping[str, Any]:
    """{'params/...': [shape, dtype]} of a checkpoint; {}, with a warning, if it is damaged."""
    return self._beside(step, 'leaves')

  def metrics(self, step: int) -> Mapping[str, float]:
    """Numbers saved beside a checkpoint; {}, with a warning, if it is damaged."""
    return self._beside(step, 'metrics')

  def window(self, step: int) -> Mapping[str, Any]:
    """Accumulated metrics saved beside a checkpoint; {}, with a warning, if it is damaged."""
    return self._beside(step, 'window')

  def is_unevaluated(self, step: int) -> bool:
    """True if the evaluation of this step was missing when it was saved."""
    return bool(self._beside(step, 'unevaluated'))

  def wait(self) -> None:
    """Waits until everything is on disk; raises SaveFailed for errors since the last wait."""
    self._finish(self._manager.wait_until_finished)

  def close(self) -> None:
    """Waits and releases the background threads; raises SaveFailed as `wait` does."""
    self._finish(self._manager.close)

  def _finish(self, finish: Callable[[], None]) -> None:
    try:
      with _writing(self._folder):
        finish()
    except SaveFailed:
      self._given_up.set()
      raise
    if self._background is not None:
      self._background.join()

  def __enter__(self) -> Checkpoints:
    self._written.enter_context(signals.before_end(self.wait))
    return self

  def __exit__(self, kind: type[BaseException] | None, *exc) -> None:
    self._written.close()
    if kind is None or jax.process_count() == 1:
      self.close()
      return
    # If only this process failed, the others may never complete the pending checkpoint with it.
    closing = threading.Thread(target=self._close_quietly, daemon=True)
    closing.start()
    closing.join(_LAST_WAIT_SECONDS)

  def _close_quietly(self) -> None:
    with contextlib.suppress(SaveFailed):
      self.close()

  def _newest_good(self, read: Callable[[int], T], step: int | None) -> tuple[int, T]:
    self.wait()
    # Training may continue in the folder: every process must use the same checkpoint.
    steps = from_process_0(sorted(self._manager.all_steps(), reverse=True))
    if step is not None and step not in steps:
      raise UserError(f'{self._folder} has no checkpoint {step}: there are {sorted(steps)}')
    candidates = steps if step is None else [step]
    if not candidates:
      raise UserError(f'{self._folder} holds no checkpoint: train the run first')
    reasons = []
    for candidate in candidates:
      value, reason = None, ''
      try:
        part = jax.process_index(), jax.process_count()
        reason = checksums.damage(self._folder / str(candidate), *part)
        value = None if reason else read(candidate)
      # Out of memory does not mean that the file is damaged.
      except (UserError, MemoryError, jax.errors.JaxRuntimeError):
        raise
      except Exception as error:  # Orbax and TensorStore raise many kinds for a damaged file
        reason = first_line(error)
      # Each process reads its own part: if one fails, all use an earlier checkpoint.
      if in_all_processes(not reason):
        self._skip(candidates[: len(reasons)], reasons, candidate)
        return candidate, cast(T, value)
      reasons.append(f'{candidate} ({reason or "another process cannot read its part"})')
    if step is not None:
      raise UserError(
        f'the checkpoint {reasons[0]} in {self._folder} is damaged: give another step, or none for '
        f'the newest readable one'
      )
    raise UserError(
      f'no checkpoint in {self._folder} can be read, tried {", ".join(reasons)}: train it again in '
      f'a new workdir'
    )

  def _skip(self, steps: Sequence[int], reasons: list[str], used: int) -> None:
    if not steps:
      return
    self._damaged.update(steps)
    if jax.process_index() == 0:
      print(f'skipped damaged checkpoint {", ".join(reasons)} and took step {used}', flush=True)

  def _set_aside(self, step: int) -> None:
    """Moves the files of a damaged checkpoint out of the folder of checkpoints."""
    if jax.process_index() == 0:
      with _writing(self._folder):
        place = removal.set_aside(self._workdir, step)
      print(f'the damaged checkpoint {step} is now {place}', flush=True)
    self._manager.delete(step)  # object stores have copied it; on disks this updates the manager

  def _seal(self) -> None:
    """Called in process 0 when all files are written, before the checkpoint becomes visible."""
    written = self._folder / str(self._saving)
    if is_local(written):
      written = written.with_name(f'{self._saving}.orbax-checkpoint-tmp')
    checksums.write(written)

  def _in_background(self, work: Callable[[], None]) -> None:
    """Runs work of process 0 on a disk in a thread beside the training; `wait` waits for it."""
    if is_local(self._folder) and jax.process_index() == 0:
      self._background = threading.Thread(target=work, daemon=True)
      self._background.start()

  def _complete(self) -> None:
    """Finishes a save after Orbax."""
    while self._manager.is_saving_in_progress() and not self._given_up.wait(0.05):
      pass
    with contextlib.suppress(OSError):  # the save failed, or the disk is full
      checksums.write_late(self._folder / str(self._saving))
    removal.delete_removed(self._folder)

  def _meta(self, step: int) -> dict[str, Any]:
    return self._read(ocp.JsonCheckpointHandler(), step, 'meta', ocp.args.JsonRestore())

  def _read(self, handler: ocp.CheckpointHandler, step: int, item: str, args: Any) -> Any:
    """Reads without Orbax's manager, in which processes wait for one that has failed."""
    return handler.restore(self._folder / str(step) / item, args=args)

  def _beside(self, step: int, key: str) -> dict[str, Any]:
    try:
      return number(self._meta(step).get(key, {}))
    except Exception as error:  # restoring it will show whether it is damaged
      logging.warning('cannot read the contents of checkpoint %d: %s', step, first_line(error))
      return {}

  def _note_score(self, step: int, metrics: Mapping[str, float]) -> None:
    self._scores.pop(step, None)
    score = metrics.get(self._keep_best or '', math.nan)
    if math.isfinite(score):
      self._scores[step] = score


@contextlib.contextmanager
def _writing(folder: epath.Path) -> Iterator[None]:
  """Context manager for errors of writing: Orbax and TensorStore raise many types."""
  try:
    yield
  except Exception as error:
    raise SaveFailed(
      f'no checkpoint can be written to {folder} ({orbax_log.reason_of(error)})'
    ) from error


@host_jit
def _all_finite(params: Params) -> jax.Array:
  floats = [x for x in jax.tree.leaves(params) if jnp.issubdtype(x.dtype, jnp.inexact)]
  return jnp.asarray([jnp.isfinite(x).all() for x in floats]).all()
