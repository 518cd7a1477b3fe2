"""Evaluation of a run: a few numbers while it trains, the protocols asked for at its end."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from clr_jax import checkpoint, experiment, workdir
from clr_jax.config import component, to_dict
from clr_jax.evaluate.features import Features, estimate_batch_stats, extract, pixels
from clr_jax.evaluate.knn import knn
from clr_jax.evaluate.linear import linear, solver_options
from clr_jax.evaluate.rank import rankme
from clr_jax.table import format_table
from clr_jax.types import TrainState, UserError

PROTOCOLS: Mapping[str, Callable] = {'knn': knn, 'linear': linear}
FEATURES = ('trained', 'untrained', 'pixels')
BANK, QUERIES = 4096, 1024  # images of the online evaluation, at most


class Online:
  """What a curve over training shows: kNN, the online probe on test images, RankMe.

  The features are of at most 4,096 training and 1,024 test images, spread evenly over the sets and
  the same every time: the numbers are not comparable with those of the whole sets.
  """

  def __init__(self, parts: experiment.Experiment):
    self._parts = parts

  def __call__(self, state: TrainState) -> dict[str, float]:
    parts, start = self._parts, time.perf_counter()
    take = functools.partial(
      extract, parts.method.represent, state.params, state.state, mesh=parts.mesh
    )
    bank = take(parts.source, indices=_spread(parts.source.num_examples, BANK))
    row = {'rankme': rankme(bank.h)}
    if parts.test is not None and bank.label is not None:
      some = _spread(parts.test.num_examples, QUERIES)
      queries = take(parts.test, indices=some)
      row['online_knn_top1'] = knn(bank, queries)[0].value
      if 'probe' in state.params:
        logits = take(parts.test, indices=some, key='probe_logits')
        row['online_probe_top1'] = float((logits.h.argmax(-1) == logits.label).mean())
    row['online_seconds'] = time.perf_counter() - start
    return row


def _spread(num_examples: int, most: int) -> np.ndarray:
  size = min(most, num_examples)
  return np.arange(size) * num_examples // size


def offline(
  parts: experiment.Experiment, state: TrainState, run: workdir.Workdir, config_hash: str
) -> None:
  """The evaluation that `config.eval` asks for, at the end of training; prints the run's table.

  What was recorded at this step already (by a run that was killed while it evaluated) stays.
  """
  protocols = {k: v for k, v in to_dict(parts.config.eval.protocols).items() if v is not None}
  evaluate(parts, state, run, config_hash, protocols, parts.config.eval.features, again=False)
  if jax.process_index() == 0:
    print(format_table(workdir.read_results(run)), flush=True)


def evaluate(
  parts: experiment.Experiment,
  state: TrainState,
  run: workdir.Workdir,
  config_hash: str,
  protocols: Mapping[str, Mapping[str, Any]],
  kinds: Iterable[str],
  *,
  again: bool = True,
) -> None:
  """Runs protocols on kinds of features and records every number.

  Args:
    parts: the experiment.
    state: of the step to evaluate; it is not changed.
    run: where the results go.
    config_hash: of the run.
    protocols: name -> options of the function in PROTOCOLS.
    kinds: some of FEATURES.
    again: False leaves out what is recorded for this step already.

  Raises:
    UserError: no test set, no labels, an unknown protocol or option.
  """
  if not protocols:
    return
  for name in protocols:
    if name not in PROTOCOLS:
      raise UserError(f'unknown protocol {name!r}: there are {", ".join(PROTOCOLS)}')
  if parts.test is None:
    raise UserError('evaluation needs a test set: set data.test_split')
  if parts.source.num_classes is None or parts.test.num_classes is None:
    raise UserError(f'evaluation needs labels and {parts.source.name} has none: use labeled data')
  step = int(state.step)
  recorded = {
    (r['protocol'], r['features']) for r in workdir.read_results(run) if r['step'] == step
  }
  for kind in kinds:
    wanted = {k: v for k, v in protocols.items() if again or (k, kind) not in recorded}
    if not wanted:
      continue
    train, test = features(parts, state, kind)
    for name, options in wanted.items():
      for measurement in PROTOCOLS[name](train, test, features=kind, **options):
        workdir.write_result(
          run,
          measurement,
          step=step,
          checkpoint=str(run.checkpoints / str(step)) if kind == 'trained' else None,
          config_hash=config_hash,
          data_checksum=parts.source.checksum(),
          seed=parts.config.seed,
        )


def features(
  parts: experiment.Experiment, state: TrainState, kind: str
) -> tuple[Features, Features]:
  """Features of the training and the test set.

  Args:
    kind: 'trained' (of `state`), 'untrained' (the network of step 0, its BatchNorm statistics
      estimated on the training images) or 'pixels'.
  """
  if kind == 'pixels':
    return pixels(parts.source), pixels(parts.test)
  if kind == 'untrained':
    state = parts.init()
    statistics = estimate_batch_stats(
      parts.method,
      state.params,
      state.state,
      parts.source,
      num_views=parts.info.num_views,
      seed=parts.config.seed,
    )
    state = state.replace(state=statistics)
  elif kind != 'trained':
    raise UserError(f'features must be among {", ".join(FEATURES)}, not {kind!r}')
  take = functools.partial(
    extract, parts.method.represent, state.params, state.state, mesh=parts.mesh
  )
  return take(parts.source), take(parts.test)


# ---------------------------------------------------------------- clr-jax evaluate
def parameters(protocol: str) -> ConfigDict:
  """All options of a protocol with their defaults, as `--params.KEY=VALUE` may set them."""
  config = component(PROTOCOLS[protocol])
  del config['features']  # chosen by --features
  if protocol == 'linear':
    config.label_fraction = (1.0,)
    config.update(solver_options())
  return config


def evaluate_workdir(
  config: ConfigDict,
  directory: str,
  protocol: str,
  options: Mapping[str, Any],
  kinds: Iterable[str],
  *,
  step: int | None = None,
) -> None:
  """Evaluates a checkpoint of the run in `directory` and prints the run's table.

  Args:
    config: of the run.
    options: of the protocol.
    kinds: some of FEATURES.
    step: of the checkpoint; None = the newest.
  """
  run = workdir.Workdir(directory)
  for kind in kinds:
    if kind not in FEATURES:
      raise UserError(f'--features takes {", ".join(FEATURES)}, not {kind!r}')
  parts = experiment.make(config)
  with checkpoint.Checkpoints(run, keep_last=config.keep_last) as checkpoints:
    state = checkpoints.restore(parts.abstract_state(), step)
  config_hash = workdir.hash_config(to_dict(config))
  evaluate(parts, state, run, config_hash, {protocol: options}, kinds)
  if jax.process_index() == 0:
    print(format_table(workdir.read_results(run)), flush=True)
