"""Sets keys of a config from its images, for configs that fit any data."""

from __future__ import annotations

import functools
from collections.abc import Collection
from typing import Any, NamedTuple

import numpy as np

from clr_jax import data
from clr_jax.core.config_tree import Config, to_dict, value_at
from clr_jax.core.errors import about
from clr_jax.core.options import typed
from clr_jax.data import survey
from clr_jax.data.whole import Whole, canvas_for
from clr_jax.experiment.schema import sections
from clr_jax.experiment.switching import switch

HELD_OUT = ('train[:90%:shuffled]', 'train[90%::shuffled]')
"""Splits of data without labeled images besides those used for training."""

_TEST_SPLITS = ('test', 'validation', 'val')
_VIEW, _READ = 224, 256  # largest sides of views and of the arrays from which they are cropped
_SMALL = 64  # largest side for a small network, whose first convolution has no stride
_LEAST = 16  # smaller images are enlarged
_SHARES = (0.01, 0.1, 1.0)
_PIXELS = 64 * 64 * 3  # most pixel values to evaluate as raw features
_NEIGHBORS, _BATCH = 200, 256


class _Splits(NamedTuple):
  """Splits of a data set; `test` is '' without labels to score, `why` explains the choice."""

  train: str
  test: str
  why: str


def fit_to_data(config: Config, given: Collection[str]) -> list[str]:
  """Sets keys that depend on the images of `config.data`, in place; keys in `given` stay.

  - `data.train_split`, `data.test_split`, and those of `eval` if `eval.data` names labeled images:
    the existing split, or a held-out tenth of the training images;
  - `augment.size`: the usual shorter side, at most 224; `data.canvas`: for views of this size, if
    the images are not squares of one size up to 224; else `data.image_size`: their side or 256;
  - `model`: `resnet_tiny` up to sides of 64 pixels, else `resnet18`, and the stem;
  - `model.mean`, `model.std`: statistics of 4,096 random training images, of fewer above
    64x64 pixels;
  - `augment`: no hue, saturation and grayscale for gray images;
  - `batch_size`: at most half of the images; queues are no longer than the data, and
    chunks of a batch (`w_mse`) no larger than the batch;
  - `schedule.warmup_epochs`: a tenth of `num_epochs`; `eval_every`, `checkpoint_every`: the same,
    but at least one epoch;
  - `eval`: label fractions with one label per class, k of kNN (the square root of the number of
    images, at most 200), and raw pixels if there are few.

  Args:
    config: with its final `data.name`, `seed` and `num_epochs`.
    given: dotted keys that the user has set.

  Returns:
    A sentence with all keys that were set, and sentences about sections that were rebuilt.

  Raises:
    UserError: images that cannot be read, with the key that names them.
  """
  values: dict[str, Any] = {}

  def put(**found: Any) -> None:
    values.update({k: v for k, v in _dotted(found).items() if k not in given})

  with about(data__name=config.data.name):
    source, splits = _open(config, given, put)
    mean, std = survey.pixel_statistics(source, seed=config.seed)
  put(data__train_split=splits.train, data__test_split=splits.test)
  put(model__mean=tuple(mean), model__std=tuple(std))
  size = values.get('augment.size', config.augment.size)
  said = _fit_model(config, size, given, put)
  if source.image_shape[-1] == 1:
    _fit_gray(config, put)
  _fit_lengths(config, source, put)
  evaluated = _fit_evaluation_sets(config, source, values, given, put)
  _fit_evaluation(config, evaluated, put)
  _write(config, values)
  reason = f' ({splits.why})' if 'data.test_split' in values else ''
  shown = ', '.join(f'{key}={value}' for key, value in values.items())
  return [*said, f'from the images{reason}: {shown}']


def _dotted(values: dict[str, Any]) -> dict[str, Any]:
  return {key.replace('__', '.'): value for key, value in values.items()}


def _write(config: Config, values: dict[str, Any]) -> None:
  """Sets dotted keys with the types of their options; `config` may lack some of them."""
  options = {path: part.options(config[path].name) if part.choices else {}
             for path, part in sections().items() if path in config}  # fmt: skip
  for key, value in values.items():
    path, _, leaf = key.rpartition('.')
    node = value_at(config, path) if path else config
    option = options.get(path, {}).get(leaf)
    with node.ignore_type():
      node[leaf] = value if option is None else typed(option, value)


# ---------------------------------------------------------------- images
def _open(config: Config, given: Collection[str], put: Any) -> tuple[data.Source, _Splits]:
  """Opens the training images as the run will read them, and finds the splits."""
  own, size, usual = config.data, config.data.image_size, _VIEW
  train = own.train_split if 'data.train_split' in given else 'train'
  if 'data.image_size' not in given:
    choose = functools.partial(survey.drawn, seed=config.seed)
    sizes = data.sizes_of(own.name, split=train, data_dir=own.data_dir, choose=choose)
    usual = max(survey.usual_side(sizes), _LEAST)
    squares = len(np.unique(sizes)) == 1 and usual <= _VIEW
    if squares or not data.may_differ_in_size(own.name):
      size = usual if usual <= _VIEW else _READ
      put(data__image_size=size)
  put(augment__size=min(size or usual, _VIEW))
  whole = None
  if size is None:
    side = config.augment.size if 'augment.size' in given else min(usual, _VIEW)
    put(data__canvas=canvas_for(side))
    whole = Whole(own.canvas or canvas_for(side), round(side * _READ / _VIEW), side, always=True)
  load = functools.partial(
    data.load_source, own.name, data_dir=own.data_dir, image_size=size, whole=whole
  )
  splits = _choose_splits(own.name, own.data_dir, load, train)
  if {'data.train_split', 'data.test_split'} & set(given):
    splits = _Splits(train, own.test_split if 'data.test_split' in given else '', 'as given')
  return load(split=splits.train), splits


def _choose_splits(name: str, data_dir: str | None, load: Any, train: str = 'train') -> _Splits:
  source = load(split=train)
  if source.num_classes is None:
    return _Splits(train, '', 'no labels')
  if source.num_classes == 1:
    return _Splits(train, '', 'one class only')
  found = data.splits_of(name, data_dir)
  for split in _TEST_SPLITS:
    if split in found and load(split=split).num_classes is not None:
      return _Splits(train, split, f'the split {split} is there')
  return _Splits(*HELD_OUT, 'no labeled test split: a tenth is held out')


# ---------------------------------------------------------------- training
def _fit_model(config: Config, size: int, given: Collection[str], put: Any) -> list[str]:
  said = []
  if 'model.name' not in given and size > _SMALL:
    said = switch(config, {'model': 'resnet18'})
    put(model__name='resnet18')
  put(model__stem='cifar' if size <= _SMALL else 'imagenet')
  return said


def _fit_gray(config: Config, put: Any) -> None:
  """Leaves only brightness and contrast changes for gray images."""
  options = sections()['augment'].options(config.augment.name)
  if 'jitter' in options:
    default = options['jitter'].default
    jitter = config.augment.get('jitter') or (default if isinstance(default, tuple) else (0.4, 0.4))
    put(augment__jitter=(*jitter[:2], 0.0, 0.0), augment__gray_p=0.0)


def _fit_lengths(config: Config, source: data.Source, put: Any) -> None:
  n = source.num_examples
  put(batch_size=min(_BATCH, _power_of_two(n // 2)))
  batch, method = min(config.batch_size, _power_of_two(n // 2)), config.method
  if method.get('queue_length', 0) > n:
    put(method__queue_length=_power_of_two(n))
  if method.get('whitening_size', 0) > batch:  # w_mse whitens chunks of the batch
    put(method__whitening_size=batch, method__out_dim=min(method.out_dim, batch // 2))
  tenth = config.num_epochs / 10
  put(eval_every=max(tenth, 1.0), checkpoint_every=max(tenth, 1.0))
  if 'warmup_epochs' in config.schedule:
    put(schedule__warmup_epochs=tenth)


def _power_of_two(n: int) -> int:
  return 1 << max(n, 1).bit_length() - 1


# ---------------------------------------------------------------- evaluation
def _fit_evaluation_sets(
  config: Config, source: data.Source, values: dict[str, Any], given: Collection[str], put: Any
) -> data.Source:
  """Labeled training images of the evaluation, or the run's own."""
  name = config.eval.data
  if not name:
    return source
  size = values.get('data.image_size', config.data.image_size)
  whole = source.whole
  load = functools.partial(
    data.load_source, name, data_dir=config.data.data_dir, image_size=size, whole=whole
  )
  with about(eval__data=name):
    splits = _choose_splits(name, config.data.data_dir, load)
    put(eval__train_split=splits.train, eval__test_split=splits.test or 'test')
    return load(split=splits.train)


def _fit_evaluation(config: Config, source: data.Source, put: Any) -> None:
  n, classes = source.num_examples, source.num_classes or 0
  few = source.image_shape[0] * source.image_shape[1] * source.image_shape[2] <= _PIXELS
  put(eval__features=('trained', 'untrained', 'pixels') if few else ('trained', 'untrained'))
  protocols = to_dict(config.eval.protocols)
  if protocols.get('linear') is not None and classes > 1:
    shares = tuple(s for s in _SHARES if s == 1 or round(s * n) >= classes)
    put(eval__protocols__linear__label_fraction=shares)
  if protocols.get('knn') is not None:
    put(eval__protocols__knn__k=min(_NEIGHBORS, max(1, round(n**0.5))))
