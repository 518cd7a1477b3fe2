"""Evaluation of several checkpoints of a run by one protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from clr_jax.core.activity import activity
from clr_jax.core.config_tree import Config
from clr_jax.evaluation import registry as protocols
from clr_jax.evaluation.probing.sets import check_size, evaluation_sets
from clr_jax.evaluation.probing.subject import Subject
from clr_jax.evaluation.runner import evaluate
from clr_jax.experiment.build import build_experiment
from clr_jax.experiment.recorded import recorded_defaults
from clr_jax.experiment.schema import keys_without_effect
from clr_jax.rundir import results, weights
from clr_jax.rundir.config_records import read_config
from clr_jax.rundir.identity import hash_in
from clr_jax.rundir.paths import refuse_lost_data, with_absolute_paths
from clr_jax.rundir.workdir import Workdir


def evaluate_steps(
  config: Config,
  directory: str,
  protocol: str,
  options: Mapping[str, Any],
  steps: Sequence[int],
) -> list[dict[str, Any]]:
  """Measures the trained features of some checkpoints; existing results are reused.

  Args:
    config: config of the run.
    directory: workdir of the run.
    protocol: name of the protocol.
    options: options of the protocol.
    steps: steps of the checkpoints.

  Returns:
    All records of the run, oldest first; at the end those that could not be written.

  Raises:
    UserError: no such checkpoint, or sets or options that the protocol cannot measure.
  """
  run, config = Workdir(directory), with_absolute_paths(config)
  refuse_lost_data(config, read_config(run), run)
  experiment = build_experiment(config, probe=False)
  sets = evaluation_sets(experiment)
  sets.refuse_unlabeled()
  check_size(experiment, sets)
  protocols.check(sets, protocol, options, ['trained'])
  protocols.check_classes(sets, protocol)
  config_hash = hash_in(run, config, keys_without_effect(config), recorded_defaults(config))
  keep, unwritten = not results.why_not_kept(run), []
  for step in steps:
    label = f'{run.path.name}, step {step:,}: '
    with activity(f'{label}{protocol.replace("_", "-")}'):
      network = weights.restore_network(run, experiment.abstract_state, step)
      subject = Subject(experiment, sets, network, run=run)
      unwritten += evaluate(subject, run, config_hash, protocol, options, keep=keep, label=label)
  return [*results.read_results(run), *unwritten]
