"""How fast the host reads training images, without any step."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from clr_jax import data
from clr_jax.bench.step import describe
from clr_jax.core.config_tree import Config
from clr_jax.core.errors import UserError
from clr_jax.data import stream
from clr_jax.data.base import rows_at_once
from clr_jax.data.encoded import EncodedSource
from clr_jax.experiment.sources import open_source
from clr_jax.rundir import provenance

_IMAGES = 512  # that one core reads, at most


def measure(config: Config, *, repeats: int, steps: int) -> dict[str, Any]:
  """Times the reading alone: no step runs, and no device is sent anything.

  Args:
    config: config of a run, with `data` (including `data.workers`) and `batch_size`.
    repeats: rounds, in each of which all that is compared has its turn; medians count.
    steps: batches of a round.

  Returns:
    JSON values. 'core_ms': milliseconds of one core for an image, as training reads it ('read') and
    decoded only ('decode', of encoded images). 'images_per_second' with all workers. 'image_bytes'
    sent to a device.

  Raises:
    UserError: what `open_source` refuses, a batch larger than the data set, a damaged file.
  """
  source = open_source(config, config.data.name, config.data.train_split)
  if config.batch_size > source.num_examples:
    raise UserError(
      f'batch_size={config.batch_size} is larger than the data set ({source.num_examples} '
      f'examples): lower batch_size'
    )
  stream.check_workers(config.data.workers)
  one_core: dict[str, Callable[[], float]] = {'read': lambda: _read_ms(source)}
  if isinstance(source, EncodedSource):
    one_core['decode'] = lambda: _decode_ms(source)
  core = _in_turns(one_core, repeats)
  rate = _in_turns({'rate': lambda: _rate(source, config, steps)}, repeats)['rate']
  return {
    'config': describe(config),
    'code_version': provenance.code_version(),
    'images': source.num_examples,
    'image_bytes': math.prod(source.stored_shape),
    'workers': config.data.workers,
    'cores': os.cpu_count(),
    'core_ms': core,
    'images_per_second': rate,
    'cores_for_1000_images_per_second': core['read'],
  }


def format_report(found: Mapping[str, Any]) -> str:
  """The result of `measure` for people."""
  core, rate = found['core_ms'], found['images_per_second']
  how = f'{found["workers"]} processes' if found['workers'] else 'threads'
  decode = f', decoding alone {core["decode"]:.2f} ms' if 'decode' in core else ''
  lines = [
    f'{found["config"]["data"]}, {found["images"]:,} images, batch {found["config"]["batch_size"]}',
    f'one core       {core["read"]:.2f} ms an image{decode}',
    f'{how:15}{rate:,.0f} images/s on {found["cores"]} cores',
    f'sent           {found["image_bytes"]:,} bytes an image',
    f'needed         {found["cores_for_1000_images_per_second"]:.1f} cores for an accelerator that '
    f'trains on 1,000 images/s (clr-jax bench says its number)',
  ]
  return '\n'.join(lines)


def _in_turns(measured: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, float]:
  """The median of each, measured in turns."""
  rounds = [{name: run() for name, run in measured.items()} for _ in range(repeats)]
  return {name: float(np.median([found[name] for found in rounds])) for name in measured}


def _read_ms(source: data.Source) -> float:
  count, size = min(_IMAGES, source.num_examples), rows_at_once(source.stored_shape)
  start = time.thread_time()
  for first in range(0, count, size):  # so few that this thread reads them
    source.load_whole(np.arange(first, min(first + size, count)))
  return 1e3 * (time.thread_time() - start) / count


def _decode_ms(source: EncodedSource) -> float:
  count = min(_IMAGES, source.num_examples)
  start = time.thread_time()
  source.decode_only(np.arange(count))
  return 1e3 * (time.thread_time() - start) / count


def _rate(source: data.Source, config: Config, steps: int) -> float:
  """Images a second, from when the first batch is there."""
  blocks = stream.read_blocks(
    source,
    [(step, 1) for step in range(steps + 1)],
    seed=config.seed,
    batch_size=config.batch_size,
    rows=np.arange(config.batch_size),
    labels=False,
    workers=config.data.workers,
  )
  with contextlib.closing(blocks):
    next(blocks)
    start = time.perf_counter()
    for _ in blocks:
      pass
    return steps * config.batch_size / (time.perf_counter() - start)
