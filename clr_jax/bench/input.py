"""Speed at which the host reads training images, without any step, beside PyTorch's DataLoader."""

from __future__ import annotations

import contextlib
import importlib.util
import math
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from clr_jax import augment, data
from clr_jax.bench.step import describe, spread
from clr_jax.core.config_tree import Config, to_dict
from clr_jax.core.errors import UserError
from clr_jax.data import stream
from clr_jax.data.base import rows_at_once
from clr_jax.data.encoded import EncodedSource
from clr_jax.experiment.sources import open_source
from clr_jax.rundir import provenance

_IMAGES = 512  # images that one core reads, at most


def measure(config: Config, *, repeats: int = 5, steps: int = 20) -> dict[str, Any]:
  """Measures reading alone: no step runs, and nothing is sent to a device.

  Args:
    config: config of a run, with `data` (including `data.workers`) and `batch_size`.
    repeats: number of rounds; all compared readers take turns in each.
    steps: batches in each round.

  Returns:
    JSON values. 'core_ms': milliseconds of one core for an image as training reads it ('read') and
    decoded only ('decode', for encoded images). 'images_per_second' with all workers. 'peer': the
    same for PyTorch's DataLoader, which also cuts the views; None without PyTorch or for images
    that are not encoded. 'image_bytes': bytes of an image sent to a device.

  Raises:
    UserError: an error of `open_source`, repeats or steps below 1, a batch larger than the data
      set, or a damaged file.
  """
  if repeats < 1 or steps < 1:
    raise UserError(f'repeats={repeats} and steps={steps} must be at least 1: raise them')
  source = open_source(config, config.data.name, config.data.train_split)
  if config.batch_size > source.num_examples:
    raise UserError(
      f'batch_size={config.batch_size} is larger than the data set ({source.num_examples} '
      f'examples): lower batch_size'
    )
  stream.check_workers(config.data.workers)
  one_core: dict[str, Callable[[], float]] = {'read': lambda: _read_ms(source)}
  rates: dict[str, Callable[[], float]] = {'ours': lambda: _rate(source, config, steps)}
  peer: dict[str, Any] | None = None
  if isinstance(source, EncodedSource):
    one_core['decode'] = lambda: _decode_ms(source)
    if importlib.util.find_spec('torch'):
      rates['peer'], peer = _peer(source, config, steps)
  core = {name: found['median'] for name, found in _in_turns(one_core, repeats).items()}
  found = _in_turns(rates, repeats)
  return {
    'config': describe(config),
    'code_version': provenance.code_version(),
    'images': source.num_examples,
    'image_bytes': math.prod(source.stored_shape),
    'workers': config.data.workers,
    'cores': os.cpu_count(),
    'core_ms': core,
    'images_per_second': found['ours'],
    'peer': peer and {**peer, 'images_per_second': found['peer']},
    'cores_for_1000_images_per_second': core['read'],
  }


def format_report(found: Mapping[str, Any]) -> str:
  """Formats the result of `measure`."""
  core, rate, peer = found['core_ms'], found['images_per_second'], found['peer']
  decode = ''
  if 'decode' in core:
    ratio = core['read'] / core['decode']
    decode = f', {ratio:.2f} times as long as decoding alone ({core["decode"]:.2f} ms)'
  how = f'{found["workers"]} processes' if found['workers'] else 'threads'
  lines = [
    f'{found["config"]["data"]}, {found["images"]:,} images, batch {found["config"]["batch_size"]}',
    f'one core       {core["read"]:.2f} ms an image{decode}',
    f'{how:15}{_range(rate)} images/s on {found["cores"]} cores',
  ]
  if peer:
    where = f'{found["workers"]} processes' if found['workers'] else 'in one thread'
    lines.append(
      f'PyTorch        {_range(peer["images_per_second"])} images/s, DataLoader, {where}, '
      f'{peer["views"]} crops of {peer["size"]}x{peer["size"]} by PIL'
    )
  lines += [
    f'sent           {found["image_bytes"]:,} bytes an image',
    f'needed         {found["cores_for_1000_images_per_second"]:.1f} cores for an accelerator that '
    f'trains on 1,000 images/s (measured by clr-jax bench)',
  ]
  return '\n'.join(lines)


def _range(rate: Mapping[str, float]) -> str:
  return f'{rate["median"]:,.0f} ({rate["min"]:,.0f} to {rate["max"]:,.0f})'


def _in_turns(
  measured: Mapping[str, Callable[[], float]], repeats: int
) -> dict[str, dict[str, float]]:
  """Median, minimum and maximum of each, measured in turns."""
  rounds = [{name: run() for name, run in measured.items()} for _ in range(repeats)]
  return {name: spread([found[name] for found in rounds]) for name in measured}


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


def _skipped(config: Config) -> int:
  """Batches before the clock starts: those that readers may have ready when the first one is."""
  return 1 + 2 * config.data.workers


def _rate(source: data.Source, config: Config, steps: int) -> float:
  """Measures images a second of the reader of training."""
  skipped = _skipped(config)
  blocks = stream.read_blocks(
    source,
    [(step, 1) for step in range(steps + skipped)],
    seed=config.seed,
    batch_size=config.batch_size,
    rows=np.arange(config.batch_size),
    labels=False,
    workers=config.data.workers,
  )
  with contextlib.closing(blocks):
    for _ in range(skipped):
      next(blocks)
    start = time.perf_counter()
    for _ in blocks:
      pass
    return steps * config.batch_size / (time.perf_counter() - start)


def _peer(
  source: EncodedSource, config: Config, steps: int
) -> tuple[Callable[[], float], dict[str, Any]]:
  """Returns the measurement of PyTorch's DataLoader, and facts about it."""
  from clr_jax.bench.torch_reference import reading  # imports PyTorch, which is installed

  options = config.augment
  crops = reading.Crops(
    augment.make(**to_dict(options)).num_views,
    options.size,
    options.get('crop_scale') or (0.08, 1.0),
    options.get('crop_ratio') or (3 / 4, 4 / 3),
    options.get('method') or 'bilinear',
  )
  skipped, sizes = _skipped(config), (source.num_examples, config.batch_size)
  batches = [
    data.batch_indices(config.seed, step, num_examples=sizes[0], batch_size=sizes[1])
    for step in range(steps + skipped)
  ]
  measured = lambda: reading.rate(  # noqa: E731
    source, batches, crops, workers=config.data.workers, skipped=skipped
  )
  return measured, {'views': crops.views, 'size': crops.size}
