"""Reading batches while the accelerator computes: Grain reads, a thread keeps blocks ready.

No JAX here: Grain's worker processes import this module (Grain itself imports JAX).
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
from absl import flags

from clr_jax.core.errors import UserError
from clr_jax.data.base import NUM_THREADS, Source, rows_at_once
from clr_jax.data.order import batch_indices

T = TypeVar('T')
Chunks = Sequence[tuple[int, int]]  # (first step, number of steps) of each block


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
    most = rows_at_once(source.image_shape)
    self.part_rows = next(n for n in range(min(most, len(rows)), 0, -1) if len(rows) % n == 0)
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
    images, labels = self._source.load(examples)
    out = {'image': images, 'index': examples}
    if self._labels and labels is not None:
      out['label'] = labels
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
  """Blocks of this process's rows: {'image': [count, R, H, W, C], 'index': [count, R], 'label'}.

  Raises:
    UserError: Grain is not installed, or a file is damaged.
  """
  try:
    import grain  # late: it imports JAX, and resident data do without it
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
    buffered = -(-2 * parts.parts_per_step // workers)
    dataset = dataset.mp_prefetch(
      grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=buffered)
    )
  reader = iter(dataset)
  try:
    for _, count in chunks:
      yield _assemble(reader, count, len(rows), parts.part_rows)
  finally:
    reader.close()


def _assemble(reader: Iterator, count: int, num_rows: int, part_rows: int) -> dict[str, np.ndarray]:
  """The next `count` steps as one block."""
  block: dict[str, np.ndarray] = {}
  for start in range(0, count * num_rows, part_rows):
    for key, value in next(reader).items():
      if key not in block:
        block[key] = np.empty((count * num_rows, *value.shape[1:]), value.dtype)
      block[key][start : start + part_rows] = value
  return {k: v.reshape(count, num_rows, *v.shape[1:]) for k, v in block.items()}


def keep_ahead(items: Generator[T, None, None], depth: int) -> Generator[T, None, None]:
  """Runs a generator in a thread, at most `depth` items ahead; errors come out where they belong.

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
    try:
      for item in items:
        if not put('item', item):
          break
      else:
        put('end', None)
    except BaseException as error:  # handed to the consumer
      put('error', error)
    finally:
      items.close()

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
