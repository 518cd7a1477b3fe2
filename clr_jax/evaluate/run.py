"""Evaluation of a run: a few numbers while it trains, the protocols asked for at its end."""

from __future__ import annotations

import functools
import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np

from clr_jax import experiment, weights, workdir
from clr_jax.config import check_keys, component, to_dict
from clr_jax.evaluate.features import Features, estimate_batch_stats, extract, pixels
from clr_jax.evaluate.knn import DISTANCES, WEIGHTS, knn
from clr_jax.evaluate.linear import check_solver_options, linear, solver_options
from clr_jax.evaluate.rank import rankme
from clr_jax.evaluate.sets import Sets, evaluation_sets
from clr_jax.lookup import check_name
from clr_jax.table import format_table
from clr_jax.types import Config, TrainState, UserError

PROTOCOLS: Mapping[str, Callable] = {'knn': knn, 'linear': linear}
FEATURES = ('trained', 'untrained', 'pixels')
BANK, QUERIES = 4096, 1024  # images of the online evaluation, at most


class Online:
  """What a curve over training shows: kNN, the online probe on test images, RankMe.

  The features are of at most 4,096 training and 1,024 test images, spread evenly over the sets and
  the same every time: the numbers are not comparable with those of the whole sets. kNN and RankMe
  are of the evaluation's sets; the probe has learned the classes of the training set, so it is
  tested on the test set of that.
  """

  def __init__(self, parts: experiment.Experiment, sets: Sets):
    self._parts, self._sets = parts, sets
    self._knn = to_dict(parts.config.eval.protocols).get('knn') or {}

  def __call__(self, state: TrainState) -> dict[str, float]:
    parts, start = self._parts, time.perf_counter()
    take = functools.partial(
      extract, parts.method.represent, state.params, state.state, mesh=parts.mesh
    )
    train, test = self._sets
    bank = take(train, indices=_spread(train.num_examples, BANK))
    row = {'rankme': rankme(bank.h)}
    if test is not None and self._sets.labeled:
      queries = take(test, indices=_spread(test.num_examples, QUERIES))
      row['online_knn_top1'] = knn(bank, queries, **self._knn)[0].value
    test = parts.test
    if 'probe' in state.params and test is not None and test.num_classes is not None:
      some = _spread(test.num_examples, QUERIES)
      logits = take(test, indices=some, key='probe_logits')
      row['online_probe_top1'] = float((logits.h.argmax(-1) == logits.label).mean())
    row['online_seconds'] = time.perf_counter() - start
    return row


def _spread(num_examples: int, most: int) -> np.ndarray:
  size = min(most, num_examples)
  return np.arange(size) * num_examples // size


def check(parts: experiment.Experiment) -> Sets:
  """The sets of the evaluation; refuses at the start what `offline` could not do after hours.

  Raises:
    UserError: an unknown protocol, option or kind of features, too few labels, or unfit sets.
  """
  sets = evaluation_sets(parts)
  for kind in parts.config.eval.features:
    check_name(FEATURES, kind, 'eval.features')
  for name, options in _asked(parts).items():
    check_name(PROTOCOLS, name, 'protocol')
    check_keys(parameters(name), options, f'config.eval.protocols.{name}')
    _check_options(sets, name, options)
  return sets


def _check_options(sets: Sets, name: str, options: Mapping[str, Any]) -> None:
  """UserError for option values of a protocol that it would refuse only after the features."""
  for key, least in (('k', 1), ('draws', 1), ('epochs', 1), ('batch_size', 1)):
    if options.get(key, least) < least:
      raise UserError(f'{name}: {key}={options[key]} must be at least {least}')
  if options.get('temperature', 1.0) <= 0:
    raise UserError(f'{name}: temperature={options["temperature"]} must be positive')
  for key, choices in (('distance', DISTANCES), ('weights', WEIGHTS)):
    if key in options:
      check_name(choices, options[key], f'{name} {key}')
  if name == 'linear':
    own = {*parameters('linear')} - {*solver_options()}
    check_solver_options(
      options.get('solver', 'lbfgs'), {k: v for k, v in options.items() if k not in own}
    )
  for fraction in np.atleast_1d(options.get('label_fraction', 1.0)).tolist():
    labels = round(fraction * sets.train.num_examples)
    if not 0 < fraction <= 1 or (sets.labeled and labels < (sets.train.num_classes or 0)):
      raise UserError(
        f'{name}: label_fraction={fraction} is {labels} labels: it must be at most 1 and give one '
        f'to each of {sets.train.num_classes} classes'
      )


def _asked(parts: experiment.Experiment) -> dict[str, dict[str, Any]]:
  """Protocol -> options, as `config.eval` asks for them."""
  protocols = to_dict(parts.config.eval.protocols)
  return {name: options for name, options in protocols.items() if options is not None}


def offline(
  parts: experiment.Experiment,
  sets: Sets,
  state: TrainState,
  run: workdir.Workdir,
  config_hash: str,
) -> None:
  """The evaluation that `config.eval` asks for, at the end of training; prints the run's table.

  Without a test set or without labels it is skipped with one sentence. What was measured at this
  step already (by a run that was killed while it evaluated) is not measured again.
  """
  say = functools.partial(print, flush=True) if jax.process_index() == 0 else lambda _: None
  protocols = _asked(parts)
  if protocols and not sets.labeled:
    missing = 'is no test set' if sets.test is None else 'are no labels'
    say(f'the evaluation ({", ".join(protocols)}) is skipped: there {missing}')
  elif protocols:
    kinds = parts.config.eval.features
    evaluate(parts, sets, state, run, config_hash, protocols, kinds, again=False)
    say(format_table(workdir.read_results(run)))


def evaluate(
  parts: experiment.Experiment,
  sets: Sets,
  network: TrainState | weights.Network,
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
    sets: what to evaluate on.
    network: of the step to evaluate; it is not changed.
    run: where the results go.
    config_hash: of the run.
    protocols: name -> options of the function in PROTOCOLS.
    kinds: some of FEATURES.
    again: False leaves out what was measured, with the same options, at this step already.

  Raises:
    UserError: no test set, no labels, an unknown protocol or option.
  """
  if not protocols:
    return
  for name in protocols:
    check_name(PROTOCOLS, name, 'protocol')
  sets.refuse_unlabeled()
  step, checksum, names = int(network.step), sets.checksum(), list(protocols)
  for kind in kinds:
    done = [_marker(run, step, name, kind, protocols[name], checksum) for name in names]
    open_ = [i for i, marker in enumerate(done) if again or not marker.exists()]
    wanted = workdir.from_process_0(open_)  # extracting features takes all processes
    if not wanted:
      continue
    train, test = features(parts, sets, network, kind)
    for name, marker in ((names[i], done[i]) for i in wanted):
      records = [] if again else _records(run, step, name, kind)
      recorded = [_identity(r) for r in records if r['data_checksum'] == checksum]
      for measurement in PROTOCOLS[name](train, test, features=kind, **protocols[name]):
        if _identity(measurement._asdict()) in recorded:
          continue  # written before the run was killed
        workdir.write_result(
          run,
          measurement,
          step=step,
          checkpoint=str(run.checkpoints / str(step)) if kind == 'trained' else None,
          config_hash=config_hash,
          data=sets.names,
          data_checksum=checksum,
          seed=parts.config.seed,
        )
      if jax.process_index() == 0:
        workdir.write_whole(marker, '')


def _marker(run, step: int, name: str, kind: str, options: Mapping[str, Any], checksum: str):
  """The empty file that says that all records of one evaluation are written."""
  text = json.dumps([options, checksum], sort_keys=True)
  asked = hashlib.sha256(text.encode()).hexdigest()[:12]
  return run.results / 'complete' / f'{step}-{name}-{kind}-{asked}'


def _records(run, step: int, name: str, kind: str) -> list[dict[str, Any]]:
  wanted = (step, name, kind)
  records = workdir.read_results(run)
  return [r for r in records if (r['step'], r['protocol'], r['features']) == wanted]


def _identity(record: Mapping[str, Any]) -> str:
  return json.dumps(workdir.jsonable([record['metric'], record['params']]), sort_keys=True)


def features(
  parts: experiment.Experiment, sets: Sets, network: TrainState | weights.Network, kind: str
) -> tuple[Features, Features]:
  """Features of the training and the test set.

  Args:
    kind: 'trained' (of `network`), 'untrained' (the network of step 0, its BatchNorm statistics
      estimated on the run's own training images) or 'pixels'.
  """
  check_name(FEATURES, kind, 'features')
  if kind == 'pixels':
    return pixels(sets.train), pixels(sets.test)
  params, state = network.params, network.state
  if kind == 'untrained':
    first = parts.init()
    params = first.params
    state = estimate_batch_stats(
      parts.plain,
      params,
      first.state,
      parts.source,
      num_views=parts.info.num_views,
      seed=parts.config.seed,
    )
  take = functools.partial(extract, parts.method.represent, params, state, mesh=parts.mesh)
  return take(sets.train), take(sets.test)


# ---------------------------------------------------------------- clr-jax evaluate
def parameters(protocol: str) -> Config:
  """All options of a protocol with their defaults, as `--params.KEY=VALUE` may set them."""
  config = component(PROTOCOLS[protocol])
  del config['features']  # chosen by --features
  if protocol == 'linear':
    config.label_fraction = (1.0,)
    for key, value in solver_options().items():
      config[key] = (value,) if key in ('l2', 'base_lr') else value  # several values are a sweep
  return config


def evaluate_workdir(
  config: Config,
  directory: str,
  protocol: str,
  options: Mapping[str, Any],
  kinds: Iterable[str],
  *,
  step: int | None = None,
) -> None:
  """Evaluates a checkpoint of the run in `directory` and prints the run's table.

  Args:
    config: of the run; `config.eval` may name other sets than it was trained on.
    options: of the protocol.
    kinds: some of FEATURES.
    step: of the checkpoint; None = the newest.
  """
  run = workdir.Workdir(directory)
  for kind in kinds:
    check_name(FEATURES, kind, '--features')
  parts = experiment.make(_without_probe(config))
  sets = evaluation_sets(parts)
  sets.refuse_unlabeled()
  _check_options(sets, protocol, options)
  network = weights.restore_network(run, parts.abstract_state(), step)
  config_hash = workdir.hash_config(to_dict(config))
  evaluate(parts, sets, network, run, config_hash, {protocol: options}, kinds)
  if jax.process_index() == 0:
    print(format_table(workdir.read_results(run)), flush=True)


def _without_probe(config: Config) -> Config:
  """The online probe belongs to the labels of the training set; its encoder does not need it."""
  config = config.copy_and_resolve_references()
  config.probe.enabled = False
  return config
