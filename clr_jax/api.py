"""Public functions of the library, which `clr_jax` exports."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from clr_jax.core.config_tree import Config, changed
from clr_jax.core.errors import UserError
from clr_jax.evaluation.encoder import load
from clr_jax.evaluation.registry import with_all_options
from clr_jax.evaluation.runner import evaluate_workdir
from clr_jax.exchange import export
from clr_jax.experiment import config_files
from clr_jax.experiment.recorded import read_recorded
from clr_jax.experiment.schema import check_config
from clr_jax.experiment.switching import names_in, switch
from clr_jax.rundir.config_records import refuse_no_run
from clr_jax.rundir.results import FeaturesOf, read_results
from clr_jax.rundir.workdir import Workdir
from clr_jax.training.loop import train

__all__ = ['evaluate', 'export', 'load', 'load_config', 'results', 'train']


def load_config(spec: str, values: Mapping[str, Any] | None = None) -> Config:
  """Loads a config file and sets values of keys, like `--config.KEY=VALUE`.

  A `name` that chooses options ('method.name', 'model.name', 'augment.name', 'optimizer.name',
  'schedule.name') rebuilds its section with the defaults of the named component. Values that the
  config sets are kept if the component has these options; dropped ones are printed on standard
  error.

  Args:
    spec: path of a config file or name of a packaged one; 'FILE:ARG' passes it an argument.
    values: values by dotted key.

  Returns:
    The config, checked and locked; that of `images` fits the images of 'data.name'.

  Raises:
    UserError: no such file, an error in it, an unknown key, or a value that is not allowed.

  Example:
    >>> config = load_config('quickstart:simclr', {'batch_size': 64, 'method.temperature': 0.5})
    >>> config.method.name, config.batch_size
    ('simclr', 64)
  """
  values = dict(values or {})
  if 'imports' in values:  # other values may name what they register
    values['imports'] = config_files.load_imports(values['imports'])
  config, complete = config_files.open_file(spec)
  check_config(config)
  said = switch(config, names_in(values))
  config = changed(config, values, known=with_all_options(config))
  check_config(config)
  said += complete(config, values)
  check_config(config)
  print(*(f'{sentence}\n' for sentence in said), sep='', end='', file=sys.stderr, flush=True)
  return config.lock()


def evaluate(
  workdir: epath.PathLike,
  protocol: str,
  *,
  features: Sequence[FeaturesOf] = ('trained',),
  config: Config | None = None,
  step: int | None = None,
  overwrite: bool = False,
  weights: str = '',
  **options: Any,
) -> list[dict[str, Any]]:
  """Evaluates a checkpoint of a run like `clr-jax evaluate`, and stores the results in the run.

  Args:
    workdir: directory of the run.
    protocol: 'knn', 'linear', ...; `clr-jax evaluate --help` lists them.
    features: some of 'trained', 'untrained' (the network of step 0) and 'pixels'.
    config: config with other values of `eval`, to evaluate on other data; default: the run's.
    step: step of the checkpoint; default: the newest.
    overwrite: measure again; False reuses existing results of the same options.
    weights: file with a backbone of another library to evaluate instead of the run's; with `config`
      the workdir need not be a run.
    options: options of the protocol; `clr-jax evaluate PROTOCOL --help` lists them.

  Returns:
    The records of this protocol in the run, oldest first; see `results`.

  Raises:
    UserError: no run, no checkpoint, or an unknown or unsuitable option.

  Example:
    >>> record = evaluate(workdir, 'knn', k=5)[-1]
    >>> record['metric'], record['params']['k'], record['value'] > 0.2
    ('top1', 5, True)
  """
  if 'again' in options:
    raise UserError('again is now called overwrite: write overwrite=True')
  directory = os.fspath(workdir)
  if config is None:
    config = read_recorded(directory)
  how = {'step': step, 'overwrite': overwrite, 'file': weights}
  found = evaluate_workdir(config, directory, protocol, options, features, **how)
  return [record for record in found if record['protocol'] == protocol]


def results(workdir: epath.PathLike) -> list[dict[str, Any]]:
  """Reads all records of a run, oldest first.

  A record has the metric, its value, the protocol and its params, the step, and everything else
  that the number depends on: see `clr_jax.rundir.results.write_result`.

  Raises:
    UserError: the directory is not a run.

  Example:
    >>> {record['protocol'] for record in results(workdir)}
    {'knn'}
  """
  run = Workdir(workdir)
  refuse_no_run(run)
  return read_results(run)
