"""From a config to the parts of a run: data, views, method, optimizer, mesh; checked at once."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from absl import logging
from jax.sharding import Mesh

from clr_jax import augment, data, models, optim
from clr_jax.core.config_tree import Config, to_dict
from clr_jax.core.errors import UserError
from clr_jax.core.names import look_up
from clr_jax.core.types import Array, Batch, Method, RunInfo, Schedule, TrainState
from clr_jax.data.pipeline import Pipeline, make_pipeline
from clr_jax.experiment.method import make_method
from clr_jax.experiment.train_step import StepFn, init_state, make_train_step
from clr_jax.ops import sharding
from clr_jax.optim import schedules

# exp(1 / T) is the largest that float32 holds: log(3.4e38) = 88.7.
LOWEST_TEMPERATURE = 0.0113

_DTYPES = {'float32': None, 'bfloat16': jnp.bfloat16}  # None: that of images and parameters


@dataclasses.dataclass(frozen=True, eq=False)
class Experiment:
  """Everything that a config names, built and checked; no array is on a device yet.

  What is derived from the attributes is built once. `dataclasses.replace(experiment, mesh=...)`
  is the same experiment on another mesh.

  Attributes:
    config: as given.
    info: sizes of the run.
    source: the training set.
    test: the test set, or None.
    views, method, tx, learning_rate: see `clr_jax.core.types`.
    plain: the method without what wraps it, for passes over images that are not trained on.
    mesh: over all devices.
  """

  config: Config
  info: RunInfo
  source: data.Source
  test: data.Source | None
  views: augment.Views
  plain: Method
  method: Method
  tx: optax.GradientTransformationExtraArgs
  learning_rate: Schedule
  mesh: Mesh

  @property
  def shard_optimizer(self) -> bool:
    return self.config.get('shard_optimizer', False)  # not in workdirs of earlier versions

  @functools.cached_property
  def step_fn(self) -> StepFn:
    """The train step, to be jitted by the caller."""
    return make_train_step(
      self.method, self.views, self.tx, mesh=self.mesh, shard_optimizer=self.shard_optimizer
    )

  @functools.cached_property
  def abstract_state(self) -> TrainState:
    """Shapes, dtypes and shardings of the train state; nothing is computed."""
    shapes = jax.eval_shape(self._init_fn, jax.random.key(0))
    return jax.tree.map(
      lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
      shapes,
      sharding.train_state_shardings(self.mesh, shapes, shard_optimizer=self.shard_optimizer),
    )

  @functools.cached_property
  def shardings(self) -> TrainState:
    """Where each array of the train state lies on the mesh."""
    return jax.tree.map(lambda x: x.sharding, self.abstract_state)

  def init(self) -> TrainState:
    """The state of step 0, each array where it belongs on the mesh."""
    return self._jitted_init(jax.random.key(self.config.seed))

  def check_shapes(self) -> None:
    """Traces one step without compiling: shapes that do not fit are refused before any work."""
    batch = jax.eval_shape(lambda: example_batch(self.source, self.info.batch_size))
    jax.eval_shape(self.step_fn, self.abstract_state, batch)

  @functools.cached_property
  def _jitted_init(self) -> Callable[[Array], TrainState]:
    return jax.jit(self._init_fn, out_shardings=self.shardings)

  def _init_fn(self, key: Array) -> TrainState:
    return init_state(key, example_batch(self.source), self.method, self.views, self.tx)

  def make_pipeline(self) -> Pipeline:
    """Starts feeding: uploads a resident data set, or starts the workers of a streamed one."""
    options = self.config.data
    return make_pipeline(
      self.source,
      batch_size=self.info.batch_size,
      seed=self.config.seed,
      mesh=self.mesh,
      mode=options.mode,
      workers=options.workers,
    )


def example_batch(source: data.Source, size: int = 2) -> Batch:
  """Zeros in the shape of the source's batches."""
  label = None if source.num_classes is None else jnp.zeros([size], jnp.int32)
  image = jnp.zeros([size, *source.image_shape], jnp.uint8)
  return Batch(image=image, label=label, index=jnp.arange(size, dtype=jnp.int32))


def build_experiment(config: Config, *, devices: Sequence[Any] | None = None) -> Experiment:
  """Builds and checks all parts of a run.

  Raises:
    UserError: in one sentence, for everything that could not work. Nothing is compiled before.
  """
  mesh = sharding.make_mesh(devices)
  source, test = _load_data(config.data)
  views = _make_views(config.augment)
  info = _run_info(config, source, views)
  _check_batch(info, mesh, config.get('accumulate', 1))
  _check_views(views, source)
  _check_numbers(config)
  backbone = make_backbone(config, source)
  plain, method = make_method(config, backbone, info)
  learning_rate = _make_schedule(config, info)
  tx = _make_optimizer(config, method, learning_rate)
  return Experiment(config, info, source, test, views, plain, method, tx, learning_rate, mesh)


def _load_data(options: Config) -> tuple[data.Source, data.Source | None]:
  load = functools.partial(
    data.load_source,
    options.name,
    data_dir=options.data_dir,
    image_size=options.image_size,
  )
  source = load(split=options.train_split)
  test = load(split=options.test_split) if options.test_split else None
  if test is not None and test.image_shape != source.image_shape:
    raise UserError(
      f'test images are {test.image_shape} and training images {source.image_shape}: '
      f'set data.image_size'
    )
  return source, test


def _make_views(options: Config) -> augment.Views:
  return augment.get(**to_dict(options))


def _run_info(config: Config, source: data.Source, views: augment.Views) -> RunInfo:
  if config.batch_size > source.num_examples:
    raise UserError(
      f'batch_size={config.batch_size} is larger than the data set '
      f'({source.num_examples} examples): lower batch_size'
    )
  if not 0 < config.num_epochs < float('inf'):
    raise UserError(f'num_epochs={config.num_epochs} must be positive and finite')
  steps_per_epoch = data.steps_per_epoch(
    num_examples=source.num_examples, batch_size=config.batch_size
  )
  total_steps = round(config.num_epochs * steps_per_epoch)
  if total_steps < 1:
    raise UserError(f'num_epochs={config.num_epochs} is less than one step: raise num_epochs')
  return RunInfo(
    num_examples=source.num_examples,
    num_classes=source.num_classes,
    batch_size=config.batch_size,
    num_views=views.num_views,
    steps_per_epoch=steps_per_epoch,
    total_steps=total_steps,
  )


def _check_batch(info: RunInfo, mesh: Mesh, parts: int) -> None:
  least = mesh.size * max(parts, 1)
  if info.batch_size % least:
    passes = f' in {parts} passes (accumulate)' if parts > 1 else ''
    raise UserError(
      f'batch_size={info.batch_size} does not divide over {mesh.size} devices{passes}: '
      f'use a multiple of {least}'
    )


def _check_views(views: augment.Views, source: data.Source) -> None:
  if source.image_shape[-1] not in (1, 3):
    raise UserError(
      f'{source.name} has images of shape {source.image_shape}: the last axis must be 1 (grey) or '
      f'3 (RGB) channels'
    )


def _check_numbers(config: Config) -> None:
  """Values that would end in a division by zero or in a silent NaN."""
  sizes = [
    key
    for key, value in config.method.items()
    if not isinstance(value, bool)
    and ('temperature' in key or key.endswith('_dim') or key.startswith('num_'))
  ]
  for part, keys in (('model', ('width',)), ('augment', ('size',)), ('method', sizes)):
    for key in keys:
      value = config[part].get(key)
      if isinstance(value, (int, float)) and not 0 < value < float('inf'):
        raise UserError(f'{part}.{key}={value} must be positive and finite')
  for key in sizes:
    value = config.method.get(key)
    if 'temperature' not in key or not isinstance(value, (int, float)):
      continue
    lowest = value**2 if config.method.get('temperature_twice') else value
    if lowest < LOWEST_TEMPERATURE:
      logging.warning(
        'method.%s=%s: exp(1 / temperature) overflows float32, so that code without our log-domain '
        'form gives infinities here; to compare with it use a temperature of at least %s',
        key,
        value,
        LOWEST_TEMPERATURE,
      )
  if not 0 <= config.optimizer.learning_rate < float('inf'):
    raise UserError(
      f'optimizer.learning_rate={config.optimizer.learning_rate} must be finite and not negative'
    )


def make_backbone(config: Config, source: data.Source) -> nn.Module:
  """The backbone of `config.model` in `config.precision`, for images with the source's channels."""
  dtype = look_up(_DTYPES, config.precision, 'precision')
  backbone = models.get(**to_dict(config.model), dtype=dtype)
  channels = source.image_shape[-1]
  for key in ('mean', 'std'):
    if len(getattr(backbone, key)) not in (1, channels):
      raise UserError(
        f'model.{key} has {len(getattr(backbone, key))} values and {source.name} has {channels} '
        f'channel(s): give one value, or one a channel'
      )
  return backbone


def _make_schedule(config: Config, info: RunInfo) -> Schedule:
  options = config.optimizer
  peak = schedules.scaled_lr(options.learning_rate, info.batch_size, options.scaling)
  return schedules.get_schedule(
    **to_dict(config.schedule),
    peak=peak,
    steps_per_epoch=info.steps_per_epoch,
    total_steps=info.total_steps,
  )


def _make_optimizer(
  config: Config, method: Method, learning_rate: Schedule
) -> optax.GradientTransformationExtraArgs:
  options = to_dict(config.optimizer)
  del options['learning_rate'], options['scaling']  # in the schedule
  return optim.build(method.groups, learning_rate=learning_rate, sam=to_dict(config.sam), **options)
