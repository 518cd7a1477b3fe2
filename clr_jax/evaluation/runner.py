"""Evaluation of a run: a few numbers while it trains, the protocols asked for at its end."""

from __future__ import annotations

import functools
import hashlib
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from clr_jax.core.config_tree import Config, to_dict
from clr_jax.core.consensus import from_process_0
from clr_jax.core.names import check_name
from clr_jax.core.storage import write_whole
from clr_jax.core.types import TrainState
from clr_jax.evaluation import registry as protocols
from clr_jax.evaluation.probing.features import extract
from clr_jax.evaluation.probing.rank import rankme
from clr_jax.evaluation.probing.sets import Sets, evaluation_sets
from clr_jax.evaluation.probing.subject import FEATURES, Subject
from clr_jax.evaluation.protocols.knn import knn
from clr_jax.evaluation.registry import PROTOCOLS
from clr_jax.experiment.build import Experiment, build_experiment
from clr_jax.rundir import results, weights, workdir
from clr_jax.rundir.codec import jsonable
from clr_jax.rundir.identity import read_config_hash
from clr_jax.rundir.results import Measurement
from clr_jax.rundir.table import format_table

BANK, QUERIES = 4096, 1024  # images of the online evaluation, at most


class Online:
  """What a curve over training shows: kNN, the online probe on test images, RankMe.

  The features are of at most 4,096 training and 1,024 test images, spread evenly over the sets and
  the same every time: the numbers are not comparable with those of the whole sets. kNN and RankMe
  are of the evaluation's sets; the probe has learned the classes of the training set, so it is
  tested on the test set of that.
  """

  def __init__(self, experiment: Experiment, sets: Sets):
    self._experiment, self._sets = experiment, sets
    self._knn = to_dict(experiment.config.eval.protocols).get('knn') or {}

  def __call__(self, state: TrainState) -> dict[str, float]:
    experiment, start = self._experiment, time.perf_counter()
    take = functools.partial(
      extract, experiment.method.represent, state.params, state.state, mesh=experiment.mesh
    )
    train, test = self._sets
    bank = take(train, indices=_spread(train.num_examples, BANK))
    row = {'rankme': rankme(bank.h)}
    if test is not None and self._sets.labeled:
      queries = take(test, indices=_spread(test.num_examples, QUERIES))
      row['online_knn_top1'] = knn(bank, queries, **self._knn)[0].value
    test = experiment.test
    if 'probe' in state.params and test is not None and test.num_classes is not None:
      some = _spread(test.num_examples, QUERIES)
      logits = take(test, indices=some, key='probe_logits')
      row['online_probe_top1'] = float((logits.h.argmax(-1) == logits.label).mean())
    row['online_seconds'] = time.perf_counter() - start
    return row


def _spread(num_examples: int, most: int) -> np.ndarray:
  size = min(most, num_examples)
  return np.arange(size) * num_examples // size


def check(experiment: Experiment) -> Sets:
  """The sets of the evaluation; refuses at the start what `offline` could not do after hours.

  Raises:
    UserError: an unknown protocol, option or kind of features, too few labels, or unfit sets.
  """
  sets = evaluation_sets(experiment)
  for kind in experiment.config.eval.features:
    check_name(FEATURES, kind, 'eval.features')
  for name, options in _asked(experiment).items():
    protocols.check(sets, name, options, _kinds(experiment, name))
  return sets


def _asked(experiment: Experiment) -> dict[str, dict[str, Any]]:
  """Protocol -> options, as `config.eval` asks for them."""
  asked = to_dict(experiment.config.eval.protocols)
  return {name: options for name, options in asked.items() if options is not None}


def _kinds(experiment: Experiment, name: str) -> list[str]:
  """`config.eval.features`, for a protocol that needs a network without the pixels."""
  check_name(PROTOCOLS, name, 'protocol')
  kinds = experiment.config.eval.features
  return [kind for kind in kinds if kind != 'pixels' or not PROTOCOLS[name].network]


def offline(
  experiment: Experiment,
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
  asked = _asked(experiment)
  if asked and not sets.labeled:
    missing = 'is no test set' if sets.test is None else 'are no labels'
    say(f'the evaluation ({", ".join(asked)}) is skipped: there {missing}')
  elif asked:
    subjects = _subjects(experiment, sets, state, run)
    for kind in experiment.config.eval.features:
      for name, options in asked.items():
        if kind in _kinds(experiment, name):
          evaluate(subjects[kind], run, config_hash, name, options)
    say(format_table(results.read_results(run)))


def _subjects(
  experiment: Experiment,
  sets: Sets,
  network: TrainState | weights.Network,
  run: workdir.Workdir,
) -> dict[str, Subject]:
  """One of each kind; nothing is computed before it is asked for."""
  return {kind: Subject(experiment, sets, network, kind, run=run) for kind in FEATURES}


def evaluate(
  subject: Subject,
  run: workdir.Workdir,
  config_hash: str,
  name: str,
  options: Mapping[str, Any],
  *,
  again: bool = False,
) -> None:
  """Measures by one protocol and records every number when it is there.

  Args:
    subject: what to measure; its sets are labeled.
    run: where the results go.
    config_hash: of the run.
    name: of the protocol.
    options: of the protocol; several values of a swept one are measured one after the other.
    again: False leaves out what was measured, with the same options, at this step already.
  """
  units = list(protocols.units(name, options))
  on = PROTOCOLS[name].on
  subjects = [subject if on is None else on(subject, unit) for unit in units]
  for unit, subject in zip(units, subjects, strict=True):
    marker = _marker(run, subject, name, unit, config_hash)
    (done,) = from_process_0([marker.exists() and not again])  # features take all processes
    if done:
      continue
    recorded = [] if again else _recorded(run, subject, name, config_hash)
    for measurement in _measure(subject, name, unit):
      if _identity(measurement._asdict()) in recorded:
        continue  # written before the run was killed
      results.write_result(
        run,
        measurement,
        step=subject.step,
        checkpoint=str(run.checkpoints / str(subject.step)) if subject.kind == 'trained' else None,
        config_hash=config_hash,
        data=subject.sets.names,
        data_checksum=subject.checksum,
        seed=subject.experiment.config.seed,
      )
    if jax.process_index() == 0:
      write_whole(marker, '')


def _measure(subject: Subject, name: str, options: Mapping[str, Any]) -> Iterable[Measurement]:
  protocol = PROTOCOLS[name]
  whole = protocol.subject or protocol.network
  given = (subject,) if whole else subject.features
  return protocol.measure(*given, features=subject.kind, **options)


def _marker(
  run: workdir.Workdir, subject: Subject, name: str, options: Mapping[str, Any], config_hash: str
):
  """The empty file that says that all records of one evaluation are written."""
  depends_on = [options, subject.checksum]
  if config_hash != read_config_hash(run):
    depends_on.append(config_hash)  # flags changed what the network is, such as method.represent
  asked = hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()[:12]
  return run.results / 'complete' / f'{subject.step}-{name}-{subject.kind}-{asked}'


def _recorded(run: workdir.Workdir, subject: Subject, name: str, config_hash: str) -> list[str]:
  """What tells apart the measurements that are there already."""
  wanted = (subject.step, name, subject.checksum, config_hash)
  keys = 'step', 'protocol', 'data_checksum', 'config_hash'
  return [
    _identity(record)
    for record in results.read_results(run)
    if tuple(record[key] for key in keys) == wanted
  ]


def _identity(record: Mapping[str, Any]) -> str:
  return json.dumps(
    jsonable([record['metric'], record['features'], record['params']]), sort_keys=True
  )


# ---------------------------------------------------------------- clr-jax evaluate
def evaluate_workdir(
  config: Config,
  directory: str,
  protocol: str,
  options: Mapping[str, Any],
  kinds: Sequence[str],
  *,
  step: int | None = None,
  again: bool = False,
) -> list[dict[str, Any]]:
  """Evaluates a checkpoint of the run in `directory`.

  Args:
    config: of the run; `config.eval` may name other sets than it was trained on.
    options: of the protocol.
    kinds: some of FEATURES.
    step: of the checkpoint; None = the newest.
    again: measures again what was measured already.

  Returns:
    All records of the run, oldest first.
  """
  run = workdir.Workdir(directory)
  for kind in kinds:
    check_name(FEATURES, kind, '--features')
  experiment = build_experiment(config, probe=False)
  sets = evaluation_sets(experiment)
  sets.refuse_unlabeled()
  protocols.check(sets, protocol, options, kinds)
  network = weights.restore_network(run, experiment.abstract_state, step)
  subjects = _subjects(experiment, sets, network, run)
  for kind in kinds:
    evaluate(subjects[kind], run, experiment.config_hash, protocol, options, again=again)
  return results.read_results(run)


def open_subject(config: Config, directory: str, *, step: int | None = None) -> Subject:
  """The trained network of a checkpoint; its sets are those of `config.eval`, perhaps unlabeled.

  Args:
    config: of the run.
    directory: workdir of the run.
    step: of the checkpoint; None = the newest.

  Raises:
    UserError: there is no such checkpoint.
  """
  run = workdir.Workdir(directory)
  experiment = build_experiment(config, probe=False)
  network = weights.restore_network(run, experiment.abstract_state, step)
  return Subject(experiment, evaluation_sets(experiment), network, run=run)
