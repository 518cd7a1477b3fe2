"""Times both training programs alternately."""

from __future__ import annotations

import functools
from typing import Any, cast

import jax

from clr_jax.bench import torch_reference
from clr_jax.bench.step import TimedLoop, describe, format_options, spread
from clr_jax.core.config_tree import Config
from clr_jax.core.errors import UserError
from clr_jax.core.programs import compiler_options
from clr_jax.experiment.build import Experiment, build_experiment
from clr_jax.models.resnet import ResNet
from clr_jax.rundir import provenance

WARM_UP = 5  # steps; torch.compile records CUDA graphs in the third
TRIED = 3  # steps timed three times with each memory layout


def compare(
  config: Config, *, repeats: int = 5, steps: int = 20, compile_mode: str = 'off'
) -> dict[str, Any]:
  """Compares the training program of `config` on the first device with PyTorch.

  Repeats of both alternate, so that other load on the machine affects both.

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
  theirs, version, warm_up, layouts = _make_peer(experiment, backend, compile_mode)
  theirs.forget_peak()
  seconds: dict[str, list[float]] = {'clr_jax': [], 'torch': []}
  with TimedLoop(experiment, pipeline, repeats=1 + repeats, steps=steps) as ours:
    for _ in range(1 + repeats):
      seconds['clr_jax'].append(ours.repeat())
      seconds['torch'].append(theirs.run(ours.steps))
  for spent in seconds.values():
    del spent[0]  # each finds its place in memory beside the other
  params = jax.tree.leaves(experiment.abstract_state.params['backbone'])
  images = ours.steps * experiment.info.batch_size
  pairs = zip(seconds['clr_jax'], seconds['torch'], strict=True)
  return {
    'config': describe(config),
    'device': {'clr_jax': jax.devices()[0].device_kind, 'torch': theirs.device_name()},
    'code_version': provenance.code_version(),
    'compiler_options': compiler_options() or {},
    'libraries': {**provenance.libraries(), 'torch': version},
    'repeats': repeats,
    'steps': ours.steps,
    'steps_per_call': ours.steps_per_call,
    'deterministic': config.deterministic,
    'torch_compile': compile_mode,
    'torch_layouts': layouts,
    'torch_threads': theirs.threads(),
    'views': theirs.view_steps,
    'num_views': experiment.info.num_views,
    'backbone_parameters': {
      'clr_jax': sum(x.size for x in params),
      'torch': sum(p.numel() for p in theirs.backbone.parameters()),
    },
    'compile_seconds': {'clr_jax': sum(ours.compile_seconds.values()), 'torch_warm_up': warm_up},
    'torch_peak_bytes': theirs.peak_bytes(),
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


def _make_peer(
  experiment: Experiment, device: str, compile_mode: str
) -> tuple[Any, str, float, dict[str, float]]:
  """Returns (PyTorch training, its version, seconds of its first steps, and of steps by layout)."""
  # PyTorch is optional (extra `peer`), and so are modules that import it.
  import torch  # pyright: ignore[reportMissingImports]

  from clr_jax.bench.torch_reference import training  # imports PyTorch

  if device == 'cuda' and not torch.cuda.is_available():
    raise UserError('PyTorch sees no GPU: install it with CUDA, or set JAX_PLATFORMS=cpu')
  if experiment.source.whole is not None:
    raise UserError(
      f'the images of {experiment.source.name} differ in size, and PyTorch is given those of one '
      f'size only: set data.image_size'
    )
  images, labels = experiment.source.arrays()
  make = functools.partial(
    training.Training,
    experiment.config,
    cast(ResNet, experiment.backbone),
    experiment.info,
    torch.tensor(images, device=device),
    None if labels is None else torch.tensor(labels, device=device),
    learning_rate=float(experiment.learning_rate(1)),
    compile_mode=compile_mode,
  )
  peers = {layout: make(layout=layout) for layout in training.LAYOUTS}
  warm_up = {layout: peer.run(WARM_UP) for layout, peer in peers.items()}
  # Alternate the layouts; the minimum is the time with the least disturbance.
  rounds = [{k: peer.run(TRIED) / TRIED for k, peer in peers.items()} for _ in range(3)]
  seconds = {layout: min(r[layout] for r in rounds) for layout in peers}
  fastest = min(seconds, key=seconds.__getitem__)
  return peers[fastest], torch.__version__, warm_up[fastest], seconds


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
PyTorch does: {', '.join(report['views'])} of the views; backbone of {count['torch']:,} parameters \
(clr-jax {count['clr_jax']:,}), heads, loss, optimizer, averages and queues; no online probe, no \
metrics

{lines}
ratio    {ratio['median']:10.2f} (min {ratio['min']:.2f}, max {ratio['max']:.2f}), \
{report['repeats']} pairs of {report['steps']} steps: speed of clr-jax / speed of PyTorch"""
