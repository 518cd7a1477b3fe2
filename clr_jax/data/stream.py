"""Reading batches while the accelerator computes: Grain reads, a thread keeps blocks ready.

No JAX here: Grain's worker processes import this module (Grain itself imports JAX).
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import queue
import re
import shutil
import signal
import sys
import threading
from collections.abc import Generator, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
from absl import flags

from clr_jax.core import signals
from clr_jax.core.errors import EXIT_FAILED, RunStopped, UserError
from clr_jax.core.storage import first_line
from clr_jax.data.base import NUM_THREADS, Source, rows_at_once
from clr_jax.data.order import batch_indices

T = TypeVar('T')
Chunks = Sequence[tuple[int, int]]  # (first step, number of steps) of each block
_SHARED_MEMORY = '/dev/shm'  # of Linux
_LEAST_SHARED = 64 * 1024  # smaller arrays go through the pipe: a file for each would be slower
_LOCKS = 128 * 1024  # bytes of the locks and events of one reader process, a page each
_DELETED_LATER = 50  # arrays that Grain may keep before it deletes them
_ENDED = re.compile(r'terminated unexpectedly with exit code (-?\d+)')


class StepParts:
  """Random access to the rows that this process reads, in the order of training.

  A part is a run of rows of one step. Part p is a pure function of p, so that threads, worker
  processes and restarts cannot change the order.
  """

  def __init__(
    self,
    source: Source,
    *,
    seed: int,
    batch_size: int,
    steps: np.ndarray,
    rows: np.ndarray,
    labels: bool,
  ):
    """steps: [S] steps to read, in this order; rows: [R] positions in the batch to read."""
    self._source = source
    self._seed = seed
    self._batch_size = batch_size
    self._steps = steps
    self._rows = rows
    self._labels = labels
    self.part_rows = _part_rows(source, len(rows))
    self.parts_per_step = len(rows) // self.part_rows

  def __len__(self) -> int:
    return len(self._steps) * self.parts_per_step

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    step, part = divmod(int(index), self.parts_per_step)
    order = batch_indices(
      self._seed,
      self._steps[step],
      num_examples=self._source.num_examples,
      batch_size=self._batch_size,
    )
    examples = order[self._rows[part * self.part_rows : (part + 1) * self.part_rows]]
    image, label, extent = self._source.load_whole(examples)
    out = {'image': image, 'index': examples}
    if self._labels and label is not None:
      out['label'] = label
    if extent is not None:
      out['extent'] = extent
    return out


def read_blocks(
  source: Source,
  chunks: Chunks,
  *,
  seed: int,
  batch_size: int,
  rows: np.ndarray,
  labels: bool,
  workers: int,
) -> Generator[dict[str, np.ndarray], None, None]:
  """Blocks of this process's rows: {'image': [count, R, H, W, C], 'index': [count, R], ...}.

  'label' [count, R] and 'extent' [count, R, 2] are there where the source has them.

  Raises:
    UserError: Grain is not installed, or a file is damaged.
    RunStopped: a reader process was killed.
  """
  try:
    import grain  # late: it imports JAX, and resident data does not need it
  except ImportError as error:
    raise UserError(
      'streaming needs Grain: pip install grain, or keep the data resident: data.mode=resident'
    ) from error
  steps = np.concatenate([np.arange(first, first + count) for first, count in chunks])
  parts = StepParts(source, seed=seed, batch_size=batch_size, steps=steps, rows=rows, labels=labels)
  ahead = max(2 * NUM_THREADS, parts.parts_per_step)
  dataset = grain.MapDataset.source(parts).to_iter_dataset(
    grain.ReadOptions(num_threads=NUM_THREADS, prefetch_buffer_size=ahead)
  )
  if workers:
    if not flags.FLAGS.is_parsed():  # Grain reads its own flags here; a notebook parses none
      flags.FLAGS.mark_as_parsed()
    buffered = _buffered(parts.parts_per_step, workers)
    shared = _fits_shared_memory(shared_bytes(source, rows=len(rows), workers=workers))
    options = grain.experimental.DatasetOptions(
      min_shm_size=_LEAST_SHARED if shared else sys.maxsize
    )
    dataset = grain.experimental.WithOptionsIterDataset(dataset, options).mp_prefetch(
      grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=buffered),
      worker_init_fn=_end_with_parent,
    )
    _track_shared_memory()
  reader = iter(dataset)
  try:
    with _named_end_of(workers):
      for _, count in chunks:
        yield _assemble(reader, count, len(rows), parts.part_rows)
  finally:
    reader.close()


def _part_rows(source: Source, rows: int) -> int:
  """Rows of a part: as many as one thread decodes at a time, or the next divisor of the rows."""
  most = rows_at_once(source.stored_shape)
  return next(n for n in range(min(most, rows), 0, -1) if rows % n == 0)


def _buffered(parts_per_step: int, workers: int) -> int:
  """Parts that each reader process keeps ready: those of two steps, together."""
  return -(-2 * parts_per_step // workers)


def shared_bytes(source: Source, *, rows: int, workers: int) -> int:
  """Shared memory that reader processes take at most; 0 without any.

  Args:
    source: source of the images.
    rows: number of rows of a batch that this process reads.
    workers: reader processes.
  """
  if not workers:
    return 0
  part = _part_rows(source, rows)
  parts = workers * (2 * _buffered(rows // part, workers) + 2) + _DELETED_LATER
  return parts * part * math.prod(source.stored_shape)


def check_workers(workers: int) -> None:
  """UserError if no process that reads the data can be started here."""
  if not workers:
    return
  _track_shared_memory()
  try:
    multiprocessing.get_context('spawn').Lock()
    reason = '' if _fits_shared_memory(workers * _LOCKS) else 'it is full'
  except (ImportError, OSError) as error:
    reason = first_line(error)
  if reason:
    raise UserError(
      f'data.workers={workers} needs shared memory ({reason}): make room in {_SHARED_MEMORY}, or '
      f'set data.workers=0 to read with threads'
    )


def _fits_shared_memory(size: int) -> bool:
  """True if `size` bytes are free; SIGBUS kills a process that writes to full shared memory."""
  if sys.platform != 'linux':  # macOS has no such file system
    return True
  try:
    return shutil.disk_usage(_SHARED_MEMORY).free >= size
  except OSError:
    return False


def _track_shared_memory() -> None:
  """Starts the process that removes, without a message, what a killed run leaves in shared memory.

  If Python starts it, a closed terminal ends it, and it prints warnings.
  """
  if os.name != 'posix':
    return
  from multiprocessing import resource_tracker  # there is none on Windows

  before = os.environ.get('PYTHONWARNINGS')
  os.environ['PYTHONWARNINGS'] = 'ignore'  # read by that process
  try:
    with signals.blocked():
      resource_tracker.ensure_running()
  finally:
    if before is None:
      del os.environ['PYTHONWARNINGS']
    else:
      os.environ['PYTHONWARNINGS'] = before


def _end_with_parent(worker: int, workers: int) -> None:
  """Makes a reader process end with the main process, however that ends."""
  del worker, workers
  parent = multiprocessing.parent_process()
  assert parent is not None

  def wait() -> None:
    parent.join()  # reads a pipe whose other end the parent holds
    os._exit(1)

  threading.Thread(target=wait, daemon=True).start()


@contextlib.contextmanager
def _named_end_of(workers: int) -> Iterator[None]:
  """One sentence for a reader process that was killed."""
  try:
    yield
  except RuntimeError as error:
    found = _ENDED.search(str(error))
    if found is None:
      raise
    code = int(found[1])
    known = -code in signal.valid_signals() if code < 0 else False
    how = f'was killed by {signal.Signals(-code).name}' if known else f'ended with code {code}'
    advice = {
      -getattr(signal, 'SIGBUS', 0): f'make {_SHARED_MEMORY} larger, which is full',
      -getattr(signal, 'SIGKILL', 0): f'lower data.workers={workers} if the memory is full',
    }.get(code, 'see its own message above, if there is one')
    raise RunStopped(
      f'a process that reads the data {how}: {advice}, or set data.workers=0; run the same command '
      f'to resume from the last checkpoint',
      EXIT_FAILED,
    ) from error


def _assemble(reader: Iterator, count: int, num_rows: int, part_rows: int) -> dict[str, np.ndarray]:
  """Joins the next `count` steps to one block."""
  block: dict[str, np.ndarray] = {}
  for start in range(0, count * num_rows, part_rows):
    for key, value in next(reader).items():
      if key not in block:
        block[key] = np.empty((count * num_rows, *value.shape[1:]), value.dtype)
      block[key][start : start + part_rows] = value
  return {k: v.reshape(count, num_rows, *v.shape[1:]) for k, v in block.items()}


def keep_ahead(items: Generator[T, None, None], depth: int) -> Generator[T, None, None]:
  """Runs a generator in a thread, at most `depth` items ahead; errors are raised in the consumer.

  Closing the result (or leaving its loop) stops the thread and closes `items`.
  """
  ready: queue.Queue[tuple[str, Any]] = queue.Queue(maxsize=depth)
  stopped = threading.Event()

  def put(kind: str, value: Any) -> bool:
    while not stopped.is_set():
      try:
        ready.put((kind, value), timeout=0.1)
        return True
      except queue.Full:
        continue
    return False

  def work() -> None:
    # The processes that it starts ignore what a terminal sends to all of a command.
    with signals.blocked(), contextlib.closing(items):
      hand_on()

  def hand_on() -> None:
    try:
      for item in items:
        if not put('item', item):
          break
      else:
        put('end', None)
    except BaseException as error:  # handed to the consumer
      put('error', error)

  thread = threading.Thread(target=work, name='clr_jax-data', daemon=True)
  thread.start()
  try:
    while True:
      kind, value = ready.get()
      if kind == 'end':
        return
      if kind == 'error':
        raise value
      yield value
  finally:
    stopped.set()
    thread.join()
