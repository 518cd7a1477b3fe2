"""Evaluation of a run: a few numbers while it trains, the protocols asked for at its end."""

from __future__ import annotations

import functools
import hashlib
import json
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from clr_jax.core.config_tree import Config, to_dict
from clr_jax.core.consensus import from_process_0
from clr_jax.core.names import check_name
from clr_jax.core.options import sweep
from clr_jax.core.storage import atomic_write
from clr_jax.core.types import TrainState
from clr_jax.data import Source
from clr_jax.data.pairs import describe
from clr_jax.evaluation import registry as protocols
from clr_jax.evaluation.probing.features import extract
from clr_jax.evaluation.probing.rank import rankme
from clr_jax.evaluation.probing.sets import Sets, evaluation_sets
from clr_jax.evaluation.probing.subject import FEATURES, Kind, Subject
from clr_jax.evaluation.protocols import PROTOCOLS
from clr_jax.evaluation.protocols.knn import knn
from clr_jax.experiment.build import Experiment, build_experiment
from clr_jax.rundir import results, weights, workdir
from clr_jax.rundir.codec import jsonable
from clr_jax.rundir.table import format_table

BANK, QUERIES = 4096, 1024  # images of the online evaluation, at most
_IDENTITY = ('step', 'protocol', 'metric', 'features', 'params', 'data_checksum', 'config_hash')


class Online:
  """The numbers of the curves over training: kNN, the online probe on test images, RankMe.

  The features are of at most 4,096 training and 1,024 test images, spread evenly over the sets and
  the same every time: the numbers are not comparable with those of the whole sets. kNN and RankMe
  are of the evaluation's sets; the probe has learned the classes of the training set, so it is
  tested on the test set of that.
  """

  def __init__(self, experiment: Experiment, sets: Sets):
    self._experiment, self._sets = experiment, sets
    asked = to_dict(experiment.config.eval.protocols).get('knn') or {}
    self._knn = next(sweep(knn, asked))

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
  """The sets of the evaluation, which must allow what `offline` is to do at the end of training.

  Raises:
    UserError: an unknown protocol, option or kind of features, too few labels, or unfit sets.
  """
  sets = evaluation_sets(experiment)
  for kind in experiment.config.eval.features:
    check_name(FEATURES, kind, 'eval.features')
  for name, options in _asked(experiment).items():
    protocols.check(sets, name, options, _kinds(experiment, name))
    protocols.check_classes(sets, name)
  return sets


def say_data(experiment: Experiment, sets: Sets) -> None:
  """Tells the terminal what a run trains and is evaluated on, and what was left out of it."""
  _say({'training images': experiment.source, 'test images': experiment.test, **_roles(sets)})


def _roles(sets: Sets) -> dict[str, Source | None]:
  return {'evaluation, training images': sets.train, 'evaluation, test images': sets.test}


def _say(sources: Mapping[str, Source | None]) -> None:
  """A line for each source by process 0, with its role in front."""
  said: list[Source] = []
  for what, source in sources.items():
    if source is not None and source not in said and jax.process_index() == 0:
      said.append(source)
      print(describe(what, source), file=sys.stderr, flush=True)


def _asked(experiment: Experiment) -> dict[str, dict[str, Any]]:
  """Protocol -> options, as `config.eval` asks for them."""
  asked = to_dict(experiment.config.eval.protocols)
  return {name: options for name, options in asked.items() if options is not None}


def _kinds(experiment: Experiment, name: str) -> list[Kind]:
  """`config.eval.features`, for a protocol that needs a network without the pixels."""
  kinds = experiment.config.eval.features
  return [kind for kind in kinds if kind != 'pixels' or not protocols.needs_network(name)]


def offline(
  experiment: Experiment,
  sets: Sets,
  state: TrainState,
  run: workdir.Workdir,
  config_hash: str,
) -> None:
  """Evaluates as `config.eval` asks, at the end of training, and prints the run's table.

  Without a test set or without labels it is skipped with one sentence. Results that exist for this
  step (of a run that was killed while it evaluated) are reused.
  """
  say = functools.partial(print, flush=True) if jax.process_index() == 0 else lambda _: None
  asked = _asked(experiment)
  if asked and not sets.labeled:
    say(f'the evaluation ({", ".join(asked)}) is skipped: there {sets.missing}')
  elif asked:
    subject = Subject(experiment, sets, state, run=run)
    for kind in experiment.config.eval.features:
      of_kind = subject.of_kind(kind)
      for name, options in asked.items():
        if kind in _kinds(experiment, name):
          evaluate(of_kind, run, config_hash, name, options)
    say(format_table(results.read_results(run)))


def evaluate(
  subject: Subject,
  run: workdir.Workdir,
  config_hash: str,
  name: str,
  options: Mapping[str, Any],
  *,
  again: bool = False,
  say: bool = False,
) -> None:
  """Measures by one protocol and records every number as soon as it is there.

  Args:
    subject: to be measured; its sets are labeled.
    run: where the results go.
    config_hash: of the run.
    name: of the protocol.
    options: of the protocol; several values of an option are measured one after the other.
    again: False reuses the results of the same options at this step.
    say: tells the terminal what the sets are.
  """
  units = protocols.units(name, options)
  # All targets are refused or loaded before the first one is measured.
  pairs = [(protocols.on_target(name, subject, unit), unit) for unit in units]
  if say:
    for sets in dict.fromkeys(on.sets for on, _ in pairs):
      _say(_roles(sets))
  recorded = set() if again else set(map(_identity, results.read_results(run)))
  for on, unit in pairs:
    marker = _marker(run, on, name, unit, config_hash)
    (done,) = from_process_0([marker.exists() and not again])  # features take all processes
    if done:
      continue
    facts = {'step': on.step, 'data_checksum': on.checksum, 'config_hash': config_hash}
    for measurement in PROTOCOLS.factory(name)(on, **unit):
      if _identity({**measurement._asdict(), **facts}) in recorded:
        continue  # written before the run was killed
      results.write_result(
        run,
        measurement,
        **facts,
        checkpoint=str(run.checkpoints / str(on.step)) if on.kind == 'trained' else None,
        data=on.sets.names,
        seed=on.experiment.config.seed,
      )
    if jax.process_index() == 0:
      atomic_write(marker, '')


def _marker(
  run: workdir.Workdir, subject: Subject, name: str, options: Mapping[str, Any], config_hash: str
) -> epath.Path:
  """The empty file that says that all records of one measurement are written."""
  depends_on = json.dumps([options, subject.checksum, config_hash], sort_keys=True)
  digest = hashlib.sha256(depends_on.encode()).hexdigest()[:12]
  return run.results / 'complete' / f'{subject.step}-{name}-{subject.kind}-{digest}'


def _identity(record: Mapping[str, Any]) -> str:
  """Tells a record from others; equal for the measurement and for its record."""
  return json.dumps(jsonable([record[key] for key in _IDENTITY]), sort_keys=True)


# ---------------------------------------------------------------- clr-jax evaluate
def evaluate_workdir(
  config: Config,
  directory: str,
  protocol: str,
  options: Mapping[str, Any],
  kinds: Sequence[Kind],
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
    again: False reuses the results of the same options.

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
  protocols.check_classes(sets, protocol)
  network = weights.restore_network(run, experiment.abstract_state, step)
  subject = Subject(experiment, sets, network, run=run)
  for i, kind in enumerate(kinds):
    how = {'again': again, 'say': i == 0}
    evaluate(subject.of_kind(kind), run, experiment.config_hash, protocol, options, **how)
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
