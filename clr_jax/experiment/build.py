"""Builds and checks the parts of a run: data, views, method, optimizer, mesh."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from clr_jax import augment, data, models, optim
from clr_jax.core import compile_cache
from clr_jax.core.config_tree import Config, to_dict
from clr_jax.core.errors import UserError, about
from clr_jax.core.options import keyword_only
from clr_jax.core.programs import host_jit
from clr_jax.core.registry import check_made
from clr_jax.core.types import Array, Batch, Method, RunInfo, Schedule, TrainState
from clr_jax.data import pairs
from clr_jax.data.pipeline import RESIDENT_LIMIT, Pipeline, abstract_data, make_pipeline
from clr_jax.experiment.method import make_method
from clr_jax.experiment.schema import check_config, keys_without_effect, switched_off
from clr_jax.experiment.sources import open_source
from clr_jax.experiment.train_step import StepFn, init_state, joins_arrays, make_train_step
from clr_jax.ops import sharding
from clr_jax.optim import schedules
from clr_jax.rundir.identity import hash_config

_SAMPLE = 64  # images in the checksum of data that training does not decode as a whole
_DTYPES = {'float32': None, 'bfloat16': 'bfloat16'}  # None: dtype of images and parameters


@dataclasses.dataclass(frozen=True, eq=False)
class Experiment:
  """Everything that a config names, built and checked; nothing is on a device yet.

  Derived values are cached. `dataclasses.replace(experiment, mesh=...)` is the same experiment on
  another mesh.

  Attributes:
    config: the config.
    info: facts about the run.
    source: the training set.
    test: the test set, or None.
    views, method, tx, learning_rate: see `clr_jax.core.types`.
    plain: the method without wrappers, for passes over images without training.
    mesh: mesh over all devices.
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
    return self.config.shard_optimizer

  @functools.cached_property
  def backbone(self) -> nn.Module:
    """The backbone's module, for any batch and device."""
    return make_backbone(self.config, self.source.image_shape[-1], self.source.name)

  @functools.cached_property
  def config_hash(self) -> str:
    """Hash, 12 hex digits, of the keys that affect the trained parameters."""
    return hash_config(to_dict(self.config), keys_without_effect(self.config))

  @functools.cached_property
  def step_fn(self) -> StepFn:
    """The train step; the caller jits it."""
    return make_train_step(
      self.method, self.views, self.tx, mesh=self.mesh, shard_optimizer=self.shard_optimizer
    )

  @functools.cached_property
  def abstract_state(self) -> TrainState:
    """Shapes, dtypes and shardings of the train state, without computing it."""
    shapes = jax.eval_shape(self._init_fn, jax.random.key(0))
    return jax.tree.map(
      lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
      shapes,
      sharding.train_state_shardings(self.mesh, shapes, shard_optimizer=self.shard_optimizer),
    )

  @functools.cached_property
  def shardings(self) -> TrainState:
    """Shardings of the train state on the mesh."""
    return jax.tree.map(lambda x: x.sharding, self.abstract_state)

  def init(self) -> TrainState:
    """Computes the state of step 0 in its shardings."""
    return self._jitted_init(jax.random.key(self.config.seed))

  def check_shapes(self) -> None:
    """Traces one step without compiling it, to find errors before any work.

    Raises:
      UserError: shapes that do not fit together, or arrays that do not fit on the devices.
    """
    self._check_memory()
    batch = jax.eval_shape(lambda: example_batch(self.source, self.info.batch_size))
    jax.eval_shape(self.step_fn, self.abstract_state, batch)

  def data_facts(self) -> dict[str, Any]:
    """Facts for `check_data`, with pixels if training decodes all of them anyway."""
    source, mode = self.source, self.config.data.mode
    resident = mode != 'streamed' and source.nbytes <= RESIDENT_LIMIT
    if resident:
      source.arrays()  # decodes once, for the checksum and for the device
    # Data at a path may be moved, and must then be recognized.
    sampled = data.path_of(source.name) is not None
    return {
      'number': source.num_examples,
      'image shape': self._trained_shape,
      'canvas': source.whole and source.whole.canvas,
      'classes': source.num_classes,
      'checksum': source.checksum() if resident else None,
      'sample': source.checksum(_SAMPLE) if sampled else None,
    }

  @property
  def _trained_shape(self) -> list[int]:
    """[H, W, C] of the images that are trained on; of whole ones that of their views."""
    if self.source.whole is None:
      return [*self.source.image_shape]
    return [self.config.augment.size] * 2 + [self.source.image_shape[2]]

  def _check_memory(self) -> None:
    leaves, _ = jax.tree_util.tree_flatten_with_path(self.abstract_state)
    sizes = {jax.tree_util.keystr(path, simple=True, separator='/'): x for path, x in leaves}
    largest = max(sizes, key=lambda name: nbytes_of(sizes[name]))
    info, size = self.info, self.config.augment.size
    views = 4 * info.batch_size * info.num_views * size * size * self.source.image_shape[-1]
    gradients = sum(map(nbytes_of, jax.tree.leaves(self.abstract_state.params)))
    needed = sum(map(nbytes_of, sizes.values())) + gradients + views // self.mesh.size
    there = sharding.memory_of(self.mesh)
    if there is not None and needed > there:
      raise UserError(
        f'the training state, its gradient and the views of a batch, without activations, take '
        f'{needed / 2**30:,.1f} GiB on each device, which has {there / 2**30:,.1f} GiB: lower '
        f'model.width, the sizes of method, augment.size or batch_size '
        f'(the largest array is {largest} {list(sizes[largest].shape)})'
      )

  @functools.cached_property
  def _jitted_init(self) -> Callable[[Array], TrainState]:
    return host_jit(self._init_fn, called_once=True, out_shardings=self.shardings)

  def _init_fn(self, key: Array) -> TrainState:
    return init_state(key, example_batch(self.source), self.method, self.views, self.tx)

  def make_pipeline(self) -> Pipeline:
    """Makes the input pipeline: uploads a resident data set, or starts workers for streaming."""
    options = self.config.data
    return make_pipeline(
      self.source,
      batch_size=self.info.batch_size,
      seed=self.config.seed,
      mesh=self.mesh,
      mode=options.mode,
      workers=options.workers,
    )

  def abstract_data(self) -> tuple[Any, Any]:
    """Shapes and shardings of the inputs of a step from `make_pipeline`; see `data.pipeline`."""
    return abstract_data(
      self.source, batch_size=self.info.batch_size, mesh=self.mesh, mode=self.config.data.mode
    )


def nbytes_of(leaf: jax.ShapeDtypeStruct) -> int:
  """Bytes of an array, or of its shard, on each device."""
  shape = leaf.sharding.shard_shape(leaf.shape) if leaf.sharding else leaf.shape
  return math.prod(shape) * leaf.dtype.itemsize


def example_batch(source: data.Source, size: int = 2) -> Batch:
  """Makes a batch of zeros in the shape of the source's batches."""
  label = None if source.num_classes is None else jnp.zeros([size], jnp.int32)
  image = jnp.zeros([size, *source.stored_shape], jnp.uint8)
  extent = None if source.whole is None else jnp.ones([size, 2], jnp.int32)
  return Batch(image=image, label=label, index=jnp.arange(size, dtype=jnp.int32), extent=extent)


def build_experiment(
  config: Config, *, devices: Sequence[Any] | None = None, probe: bool = True
) -> Experiment:
  """Builds and checks all parts of a run.

  Args:
    config: the config of the run.
    devices: devices of the mesh; None = all.
    probe: False leaves the online probe out, which needs the labels of the training set.

  Raises:
    UserError: anything that cannot work, in one sentence; nothing is compiled before.
  """
  check_config(config)
  compile_cache.use()
  mesh = sharding.make_mesh(devices)
  source, test = _load_data(config)
  on_cpu = sharding.on_cpu(mesh)
  views = dataclasses.replace(_make_views(config.augment), together=not on_cpu)
  info = _run_info(config, source, views)
  _check_batch(info, mesh, config.accumulate)
  _check_views(views, source)
  terms = _norm_terms(mesh, config)
  backbone = make_backbone(config, source.image_shape[-1], source.name, norm_terms=terms)
  used = config if probe else switched_off(config, 'probe')
  plain, method = make_method(used, backbone, info, unroll=on_cpu)
  learning_rate = _make_schedule(config, info)
  joined = joins_arrays(mesh, shard_optimizer=config.shard_optimizer)
  factors = {'backbone': models.fixed_factors(backbone)}
  tx = _make_optimizer(config, method, learning_rate, info.total_steps, joined, factors)
  return Experiment(config, info, source, test, views, plain, method, tx, learning_rate, mesh)


def _load_data(config: Config) -> tuple[data.Source, data.Source | None]:
  options, load = config.data, functools.partial(open_source, config, config.data.name)
  with about(data__name=options.name, data__train_split=options.train_split):
    source = load(options.train_split)
  with about(data__name=options.name, data__test_split=options.test_split):
    test = load(options.test_split, like=source) if options.test_split else None
  if test is not None and test.image_shape != source.image_shape:
    same = test.image_shape[-1] == source.image_shape[-1]
    mend = 'set data.image_size' if same else 'convert them to the same number of channels'
    raise UserError(
      f'test images are {test.image_shape} and training images {source.image_shape}: {mend}'
    )
  if test is not None:
    test = pairs.numbered_as(test, source)
    pairs.refuse_shared_images(test, 'data.test_split', source, 'data.train_split')
  return source, test


def _make_views(options: Config) -> augment.Views:
  views = augment.make(**to_dict(options))
  check_made(views, augment.Views, f'augmentation {options.name!r}')
  return views


def _run_info(config: Config, source: data.Source, views: augment.Views) -> RunInfo:
  if config.batch_size > source.num_examples:
    raise UserError(
      f'batch_size={config.batch_size} is larger than the data set '
      f'({source.num_examples} examples): lower batch_size'
    )
  steps_per_epoch = data.steps_per_epoch(
    num_examples=source.num_examples, batch_size=config.batch_size
  )
  total_steps = round(config.num_epochs * steps_per_epoch)
  if total_steps < 1:
    raise UserError(f'num_epochs={config.num_epochs} is less than one step: raise num_epochs')
  if total_steps >= 2**31:
    raise UserError(
      f'num_epochs={config.num_epochs} is {total_steps} steps, which overflows int32: lower '
      f'num_epochs or raise batch_size'
    )
  return RunInfo(
    num_examples=source.num_examples,
    # With one class, labels carry no information and accuracy is meaningless.
    num_classes=None if source.num_classes == 1 else source.num_classes,
    batch_size=config.batch_size,
    num_views=views.num_views,
    steps_per_epoch=steps_per_epoch,
    total_steps=total_steps,
  )


def _check_batch(info: RunInfo, mesh: Mesh, parts: int) -> None:
  least = mesh.size * parts
  if parts > 1 and info.batch_size < least:
    raise UserError(
      f'accumulate={parts} on {mesh.size} devices needs a batch_size of at least '
      f'{parts * mesh.size}, not {info.batch_size}: lower accumulate'
    )
  if info.batch_size % least:
    passes = f' in {parts} passes (accumulate)' if parts > 1 else ''
    raise UserError(
      f'batch_size={info.batch_size} is not divisible by {mesh.size} devices{passes}: '
      f'use a multiple of {least}'
    )


def _check_views(views: augment.Views, source: data.Source) -> None:
  if source.image_shape[-1] not in (1, 3):
    raise UserError(
      f'{source.name} has images of shape {source.image_shape}: the last axis must be 1 (gray) or '
      f'3 (RGB) channels'
    )


def _norm_terms(mesh: Mesh, config: Config) -> int:
  """`BatchNorm.terms` of the backbone: on GPUs at most 8, on TPUs one program takes any sum."""
  if sharding.on_cpu(mesh):
    return 0
  if not sharding.launches_matter(mesh):
    return 1
  return math.gcd(config.batch_size // (mesh.size * config.accumulate), 8)


def make_backbone(config: Config, channels: int, name: str, *, norm_terms: int = 0) -> nn.Module:
  """The backbone of `config.model` in `config.precision`.

  Args:
    channels: C of the images.
    name: name of the data set, for messages.
    norm_terms: see `BatchNorm.terms`; for backbones that have this option.

  Raises:
    UserError: pixel statistics for another number of channels.
  """
  options = to_dict(config.model)
  known = keyword_only(models.factory(options['name']))
  filled_in = {'dtype': _DTYPES[config.precision], 'norm_terms': norm_terms}
  backbone = models.make(**options, **{k: v for k, v in filled_in.items() if k in known})
  for key in ('mean', 'std'):
    if len(getattr(backbone, key)) not in (1, channels):
      raise UserError(
        f'model.{key} has {len(getattr(backbone, key))} values but {name} has {channels} '
        f'channel(s): give one value, or one per channel'
      )
  return backbone


def shared_statistics(config: Config, channels: int) -> str:
  """A sentence about pixel statistics with one value for all channels; '' if there are none."""
  neutral = {'mean': (0.0,), 'std': (1.0,)}  # leaves pixels unchanged
  keys = [k for k in neutral if len(config.model[k]) == 1 and config.model[k] != neutral[k]]
  values = ' and '.join(f'model.{key}={config.model[key]}' for key in keys)
  return f'{values}: one value for all {channels} channels' if keys and channels > 1 else ''


def _make_schedule(config: Config, info: RunInfo) -> Schedule:
  options = config.optimizer
  peak = schedules.scaled_lr(
    info.batch_size, learning_rate=options.learning_rate, scaling=options.scaling
  )
  return schedules.make(
    **to_dict(config.schedule),
    peak=peak,
    steps_per_epoch=info.steps_per_epoch,
    total_steps=info.total_steps,
  )


def _make_optimizer(
  config: Config,
  method: Method,
  learning_rate: Schedule,
  total_steps: int,
  joined: bool,
  factors: optim.Factors,
) -> optax.GradientTransformationExtraArgs:
  options = to_dict(config.optimizer)
  del options['learning_rate'], options['scaling']  # in the schedule
  name, sam = options.pop('name'), to_dict(config.sam)
  return optim.make(
    name,
    method.groups,
    joined,
    factors,
    total_steps,
    learning_rate=learning_rate,
    sam=sam,
    **options,
  )
