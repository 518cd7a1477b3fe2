"""Evaluation of a run: online metrics during training, and protocols at its end."""

from __future__ import annotations

import functools
import hashlib
import json
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from clr_jax.core.activity import activity
from clr_jax.core.config_tree import Config, to_dict
from clr_jax.core.consensus import from_process_0
from clr_jax.core.names import check_name
from clr_jax.core.options import sweep
from clr_jax.core.storage import atomic_write, read_file
from clr_jax.core.types import TrainState
from clr_jax.data import Source, absolute_name
from clr_jax.data.pairs import describe
from clr_jax.evaluation import registry as protocols
from clr_jax.evaluation.of_file import subject_of_file
from clr_jax.evaluation.probing.features import extract
from clr_jax.evaluation.probing.rank import rankme
from clr_jax.evaluation.probing.sets import Sets, check_size, evaluation_sets
from clr_jax.evaluation.probing.subject import FEATURES, Kind, Subject, described
from clr_jax.evaluation.protocols import PROTOCOLS
from clr_jax.evaluation.protocols.knn import knn
from clr_jax.experiment.build import Experiment, build_experiment, shared_statistics
from clr_jax.experiment.recorded import recorded_defaults
from clr_jax.experiment.schema import keys_without_effect
from clr_jax.rundir import results, weights, workdir
from clr_jax.rundir.codec import jsonable
from clr_jax.rundir.config_records import config_records, read_config
from clr_jax.rundir.identity import check_data, hash_in, open_run, refuse_foreign
from clr_jax.rundir.paths import is_moved, refuse_lost_data, with_absolute_paths
from clr_jax.rundir.table import format_table

BANK, QUERIES = 4096, 1024  # largest numbers of images in the online evaluation
_IDENTITY = ('step', 'protocol', 'metric', 'features', 'params', 'data_checksum', 'config_hash')


class Online:
  """Online metrics during training: kNN, the online probe on test images, RankMe.

  They use at most 4,096 training and 1,024 test images, evenly spaced over the sets and always the
  same, so they are not comparable with numbers for the whole sets. kNN and RankMe use the sets of
  the evaluation; the probe has learned the classes of the training set and uses its test set.
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


def _online_metrics(experiment: Experiment, sets: Sets) -> list[str]:
  """Names of the metrics of `Online`."""
  test, has_probe = experiment.test, experiment.config.probe.enabled
  names = {
    'online_knn_top1': sets.labeled,
    'online_probe_top1': has_probe and test is not None and test.num_classes is not None,
    'rankme': True,
  }
  return [name for name, there in names.items() if there]


def _spread(num_examples: int, most: int) -> np.ndarray:
  size = min(most, num_examples)
  return np.arange(size) * num_examples // size


def check(experiment: Experiment) -> Sets:
  """Loads the sets of the evaluation and checks everything that uses them.

  Raises:
    UserError: an unknown protocol, option or kind of features, too few labels, unsuitable sets, or
      a `keep_best` that is not a metric of `Online`.
  """
  sets = evaluation_sets(experiment)
  check_size(experiment, sets)
  if best := experiment.config.keep_best:
    check_name(_online_metrics(experiment, sets), best, 'metric of keep_best')
  for kind in experiment.config.eval.features:
    check_name(FEATURES, kind, 'eval.features')
  for name, options in _asked(experiment).items():
    prefix = f'eval.protocols.{name}.'
    protocols.check(sets, name, options, _kinds(experiment, name), prefix=prefix)
    protocols.check_network(experiment, sets, name)
    protocols.check_classes(sets, name)
  return sets


def say_data(experiment: Experiment, sets: Sets) -> None:
  """Prints the data of training and evaluation, with omissions."""
  _say({'training images': experiment.source, 'test images': experiment.test, **_roles(sets)})
  if shared := shared_statistics(experiment.config, experiment.source.image_shape[-1]):
    _warn(shared)


def _roles(sets: Sets) -> dict[str, Source | None]:
  return {'evaluation, training images': sets.train, 'evaluation, test images': sets.test}


def _say(sources: Mapping[str, Source | None]) -> None:
  """Prints a line per source with its role, in process 0."""
  said: list[Source] = []
  for what, source in sources.items():
    if source is not None and source not in said and jax.process_index() == 0:
      said.append(source)
      print(describe(what, source), file=sys.stderr, flush=True)


def _asked(experiment: Experiment) -> dict[str, dict[str, Any]]:
  """{protocol: options} of `config.eval`."""
  asked = to_dict(experiment.config.eval.protocols)
  return {name: options for name, options in asked.items() if options is not None}


def _kinds(experiment: Experiment, name: str) -> list[Kind]:
  """`config.eval.features`, without pixels for protocols that need a network."""
  kinds = experiment.config.eval.features
  return [kind for kind in kinds if kind != 'pixels' or not protocols.needs_network(name)]


def offline(
  experiment: Experiment,
  sets: Sets,
  state: TrainState,
  run: workdir.Workdir,
  config_hash: str,
) -> None:
  """Runs the protocols of `config.eval` at the end of training and prints the run's table.

  Without a test set or without labels it prints one sentence instead. Existing results of this step
  (from a run that was killed during evaluation) are reused.
  """
  say = functools.partial(print, flush=True) if jax.process_index() == 0 else lambda _: None
  asked = _asked(experiment)
  if asked and not sets.labeled:
    say(f'the evaluation ({", ".join(asked)}) is skipped: there {sets.missing}')
  elif asked:
    subject = Subject(experiment, sets, state, run=run)
    names = {
      kind: [name for name in asked if kind in _kinds(experiment, name)]
      for kind in experiment.config.eval.features
    }
    number, total = 0, sum(map(len, names.values()))
    for kind, own in names.items():
      of_kind = subject.of_kind(kind)
      for name in own:
        number += 1
        label = f'evaluation {number} of {total}: '
        evaluate(of_kind, run, config_hash, name, asked[name], label=label)
    say(format_table(results.read_results(run)))


def evaluate(
  subject: Subject,
  run: workdir.Workdir,
  config_hash: str,
  name: str,
  options: Mapping[str, Any],
  *,
  overwrite: bool = False,
  say: bool = False,
  keep: bool = True,
  label: str = '',
) -> list[dict[str, Any]]:
  """Measures by one protocol and records every number as soon as it is available.

  Args:
    subject: subject to measure, with labeled sets.
    run: workdir for the results.
    config_hash: hash of the run's config.
    name: name of the protocol.
    options: options of the protocol; several values of an option are measured one by one.
    overwrite: False reuses existing results of the same options at this step, except damaged ones.
    say: True prints the sets.
    keep: False writes nothing.
    label: start of the line that shows the activity.

  Returns:
    The records that were not written.
  """
  units = protocols.units(name, options)
  # All targets are checked and loaded before the first one is measured.
  pairs = [(protocols.on_target(name, subject, unit), unit) for unit in units]
  if say:
    for sets in dict.fromkeys(on.sets for on, _ in pairs):
      _say(_roles(sets))
  unwritten = []
  for number, (on, unit) in enumerate(pairs, 1):
    found = results.find_results(run)
    facts = {'step': on.step, 'data_checksum': on.checksum, 'config_hash': config_hash}
    of_file = {'weights': on.file} if on.kind == 'weights' else {}
    marker = _Marker.of(run, on, name, {**unit, **of_file}, config_hash)
    lost = marker.lost(found, {**facts, 'protocol': name, 'features': on.kind})
    whole = {file: record for file, record in found.records.items() if file not in (lost or ())}
    recorded = {_identity(record): file for file, record in whole.items()}
    done = not overwrite and lost is not None and not lost
    (done,) = from_process_0([done])  # computing features needs all processes
    if done:
      continue
    for file in () if overwrite else lost or ():
      why = found.damaged.get(file, 'its arrays cannot be read')
      known = file in found.damaged or file in found.records
      state = f'damaged ({why})' if known else 'gone'
      _warn(f'the result {run.results / file} is {state} and is measured again')
    files = []
    part = f', {number} of {len(pairs)}' if len(pairs) > 1 else ''
    what = f'{label}{name.replace("_", "-")} on {described(on.kind)}{part}'
    with activity(what, enabled=jax.process_index() == 0):
      for measurement in PROTOCOLS.factory(name)(on, **unit):
        measurement = measurement._replace(params={**measurement.params, **of_file})
        known = recorded.get(_identity({**measurement._asdict(), **facts}))
        if known is not None and not overwrite:
          files.append(known)  # written before the run was killed
          continue
        stamp = {
          **facts,
          'checkpoint': str(run.checkpoints / str(on.step)) if on.kind == 'trained' else None,
          'data': on.sets.names,
          'seed': on.experiment.config.seed,
        }
        if keep:
          files.append(results.write_result(run, measurement, **stamp))
        else:
          unwritten.append(results.make_record(measurement, **stamp))
    if keep:
      marker.write(files)
      for file in set(lost or ()) - set(files):
        results.set_aside(run, file)
  return unwritten


class _Marker(NamedTuple):
  """File that marks a measurement as complete and lists the files of its records."""

  path: epath.Path

  @classmethod
  def of(
    cls,
    run: workdir.Workdir,
    subject: Subject,
    name: str,
    options: Mapping[str, Any],
    config_hash: str,
  ) -> _Marker:
    depends_on = json.dumps([options, subject.checksum, config_hash], sort_keys=True)
    digest = hashlib.sha256(depends_on.encode()).hexdigest()[:12]
    return cls(run.results / 'complete' / f'{subject.step}-{name}-{subject.kind}-{digest}')

  def lost(self, found: results.Found, facts: Mapping[str, Any]) -> list[str] | None:
    """Files that were written but are unreadable now; None if it was never complete.

    Args:
      found: the readable results.
      facts: common fields of the records, for markers of earlier versions, which list no files.
    """
    try:
      files = read_file(self.path).decode().splitlines() if self.path.exists() else None
    except (OSError, ValueError):
      return None
    if files:
      return [file for file in files if not found.is_whole(file)]
    if files is None:
      return None
    damaged = [file for file in found.damaged if f'-{facts["protocol"]}-' in file]
    known = any(facts.items() <= record.items() for record in found.records.values())
    return damaged if damaged or known else None

  def write(self, files: Sequence[str]) -> None:
    if jax.process_index() == 0:
      atomic_write(self.path, '\n'.join(files))


def _warn(sentence: str) -> None:
  if jax.process_index() == 0:
    print(sentence, file=sys.stderr, flush=True)


def _identity(record: Mapping[str, Any]) -> str:
  """Identity of a record, equal for a measurement and its record."""
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
  overwrite: bool = False,
  prefix: str = '',
  file: str = '',
) -> list[dict[str, Any]]:
  """Evaluates a checkpoint of the run in `directory`, or weights of a file on the run's data.

  Args:
    config: config of the run; `config.eval` may name other sets.
    options: options of the protocol.
    kinds: kinds of features, some of FEATURES.
    step: step of the checkpoint; None = the newest.
    overwrite: False reuses existing results of the same options.
    prefix: text before an option in messages, see `protocols.units`.
    file: file of weights in a layout of `init_from`, which replaces 'trained'; there need not be a
      run yet.

  Returns:
    All records of the run, oldest first.
  """
  run, config = workdir.Workdir(directory), with_absolute_paths(config)
  for kind in kinds:
    check_name(FEATURES, kind, '--features')
  recorded = None if file and not config_records(run) else read_config(run)
  if recorded is None:
    refuse_foreign(run)
  else:
    refuse_lost_data(config, recorded, run)
  experiment = build_experiment(config, probe=protocols.needs_probe(protocol) and not file)
  sets = evaluation_sets(experiment)
  sets.refuse_unlabeled()
  check_size(experiment, sets)
  protocols.check(sets, protocol, options, kinds, prefix=prefix)
  protocols.check_network(experiment, sets, protocol)
  protocols.check_classes(sets, protocol)
  subject = subject_of_file(experiment, sets, file) if file else None
  if recorded is None:
    open_run(run, config, keys_without_effect(config), experiment.data_facts())
  elif is_moved(absolute_name(recorded.data.name), config.data.name):
    check_data(run, experiment.data_facts(), moved=True, strict=False)
  results.find_results(run)  # raises an error if they cannot be read
  refusal = results.why_not_kept(run) if jax.process_index() == 0 else ''
  if refusal:
    _warn(f'{run.path} cannot be written ({refusal}): the results are printed and not kept')
  if subject is None:
    network = weights.restore_network(run, experiment.abstract_state, step)
    subject = Subject(experiment, sets, network, run=run)
  config_hash = hash_in(run, config, keys_without_effect(config), recorded_defaults(config))
  unwritten = []
  if file:
    kinds = ['weights' if kind == 'trained' else kind for kind in kinds]
  for i, kind in enumerate(kinds):
    how: dict[str, Any] = {'overwrite': overwrite, 'say': i == 0, 'keep': not refusal}
    unwritten += evaluate(subject.of_kind(kind), run, config_hash, protocol, options, **how)
  return [*results.read_results(run), *unwritten]


def open_subject(config: Config, directory: str, *, step: int | None = None) -> Subject:
  """Loads the trained network of a checkpoint, with the sets of `config.eval`, labeled or not.

  Args:
    config: config of the run.
    directory: workdir of the run.
    step: step of the checkpoint; None = the newest.

  Raises:
    UserError: there is no such checkpoint.
  """
  run = workdir.Workdir(directory)
  refuse_lost_data(config, read_config(run), run)
  experiment = build_experiment(config, probe=False)
  network = weights.restore_network(run, experiment.abstract_state, step)
  return Subject(experiment, evaluation_sets(experiment), network, run=run)
