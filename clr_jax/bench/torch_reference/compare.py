"""Times both training programs alternately."""

from __future__ import annotations

from typing import Any

import jax

from clr_jax.bench import torch_reference
from clr_jax.bench.step import TimedLoop, describe, format_options, spread
from clr_jax.bench.torch_reference.process import Peer, Task
from clr_jax.core.config_tree import Config
from clr_jax.core.errors import UserError
from clr_jax.core.programs import compiler_options
from clr_jax.experiment.build import Experiment, build_experiment
from clr_jax.rundir import provenance


def compare(
  config: Config, *, repeats: int = 5, steps: int = 20, compile_mode: str = 'off'
) -> dict[str, Any]:
  """Compares the training program of `config` on the first device with PyTorch.

  Repeats of both alternate, so that other load on the machine affects both. PyTorch runs in a
  process of its own, with the C library's settings that its users have.

  Args:
    config: config of a run; both use its whole batch.
    repeats: timed repeats of each.
    steps: training steps per repeat, rounded up to whole calls of the JAX program.
    compile_mode: one of `clr_jax.bench.torch_reference.COMPILE`.

  Returns:
    JSON values: 'samples_per_second' of 'clr_jax' and 'torch' (median, min, max), and 'ratio', the
    same for the ratio of JAX's to PyTorch's speed in neighboring repeats. 'torch_layouts': seconds
    per step of PyTorch with each memory layout before the repeats, of which the faster is used.

  Raises:
    UserError: bad input, an unsupported config, or no PyTorch for this device.
  """
  if repeats < 1 or steps < 1:
    raise UserError(f'repeats={repeats} and steps={steps} must be at least 1: raise them')
  torch_reference.check(config)
  backend = _backend()
  experiment = build_experiment(config, devices=jax.devices()[:1])
  pipeline = experiment.make_pipeline()
  if pipeline.mode != 'resident':
    raise UserError('--peer compares steps on resident images: set data.mode=resident')
  seconds: dict[str, list[float]] = {'clr_jax': [], 'torch': []}
  with (
    Peer(task(experiment, backend, compile_mode)) as theirs,
    TimedLoop(experiment, pipeline, repeats=1 + repeats, steps=steps) as ours,
  ):
    for _ in range(1 + repeats):
      seconds['clr_jax'].append(ours.repeat())
      seconds['torch'].append(theirs.run(ours.steps))
    facts, peak_bytes = theirs.facts, theirs.peak_bytes()
  for spent in seconds.values():
    del spent[0]  # each finds its place in memory
  params = jax.tree.leaves(experiment.abstract_state.params['backbone'])
  images = ours.steps * experiment.info.batch_size
  pairs = zip(seconds['clr_jax'], seconds['torch'], strict=True)
  return {
    'config': describe(config),
    'device': {'clr_jax': jax.devices()[0].device_kind, 'torch': facts.device_name},
    'code_version': provenance.code_version(),
    'compiler_options': compiler_options() or {},
    'libraries': {**provenance.libraries(), 'torch': facts.version},
    'repeats': repeats,
    'steps': ours.steps,
    'steps_per_call': ours.steps_per_call,
    'deterministic': config.deterministic,
    'torch_compile': compile_mode,
    'torch_layouts': facts.layouts,
    'torch_threads': facts.threads,
    'views': facts.view_steps,
    'num_views': experiment.info.num_views,
    'backbone_parameters': {
      'clr_jax': sum(x.size for x in params),
      'torch': facts.parameters,
    },
    'compile_seconds': {
      'clr_jax': sum(ours.compile_seconds.values()),
      'torch_warm_up': facts.warm_up,
    },
    'torch_peak_bytes': peak_bytes,
    'samples_per_second': {
      name: spread([images / s for s in spent]) for name, spent in seconds.items()
    },
    'ratio': spread([torch / own for own, torch in pairs]),
  }


def _backend() -> str:
  """PyTorch's name of the platform that JAX uses."""
  if jax.process_count() > 1:
    raise UserError('--peer compares one device with one: start a single process')
  backend = {'cpu': 'cpu', 'gpu': 'cuda'}.get(jax.default_backend())
  if backend is None:
    raise UserError(f'--peer runs on CPUs and GPUs, not on {jax.default_backend()}')
  return backend


def task(experiment: Experiment, device: str, compile_mode: str) -> Task:
  """Describes the training of `experiment` for PyTorch's `device`, 'cpu' or 'cuda'."""
  if experiment.source.whole is not None:
    raise UserError(
      f'the images of {experiment.source.name} differ in size, and PyTorch is given those of one '
      f'size only: set data.image_size'
    )
  images, labels = experiment.source.arrays()
  return Task(
    device=device,
    config=experiment.config,
    like=experiment.backbone,
    info=experiment.info,
    images=images,
    labels=labels,
    learning_rate=float(experiment.learning_rate(1)),
    compile_mode=compile_mode,
  )


def format_report(report: dict[str, Any]) -> str:
  """Formats the report of `compare`."""
  config, ratio, count = report['config'], report['ratio'], report['backbone_parameters']
  torch = f'torch {report["libraries"]["torch"]}, compile {report["torch_compile"]}'
  layouts = sorted(report['torch_layouts'].items(), key=lambda item: item[1])
  tried = ', '.join(f'{layout} {1e3 * seconds:.2f} ms a step' for layout, seconds in layouts)
  lines = '\n'.join(
    f'{name:8} {s["median"]:10.1f} samples/s (min {s["min"]:.1f}, max {s["max"]:.1f}), '
    f'{1e3 * config["batch_size"] / s["median"]:.2f} ms a step'
    for name, s in report['samples_per_second'].items()
  )
  return f"""\
{config['method']} on {config['data']}, {config['model']}, {config['precision']}, \
batch {config['batch_size']}, {report['num_views']} views (config {config['hash']})
clr-jax {report['code_version']} on {report['device']['clr_jax']}, \
{format_options(report['compiler_options'])}, \
{report['steps_per_call']} step(s) a call, config.deterministic={report['deterministic']} (PyTorch \
is free to choose any algorithm)
{torch}, on {report['device']['torch']}, {report['torch_threads']} thread(s), the faster of its \
memory layouts ({tried})
PyTorch, in a process of its own, does: {', '.join(report['views'])} of the views; backbone of \
{count['torch']:,} parameters (clr-jax {count['clr_jax']:,}), heads, loss, optimizer, averages and \
queues; no online probe, no metrics

{lines}
ratio    {ratio['median']:10.2f} (min {ratio['min']:.2f}, max {ratio['max']:.2f}), \
{report['repeats']} pairs of {report['steps']} steps: speed of clr-jax / speed of PyTorch"""
