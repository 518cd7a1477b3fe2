"""Labeled sets for the evaluation of a run: its own, or those named by `config.eval`."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from clr_jax import data
from clr_jax.core.errors import UserError, about
from clr_jax.data import pairs
from clr_jax.experiment.build import Experiment
from clr_jax.experiment.sources import open_source

# TFDS data sets whose labeled splits are not called train and test.
SPLITS: Mapping[str, tuple[str, str]] = {
  **dict.fromkeys(
    (
      'imagenet2012',
      'imagenet2012_subset',
      'imagenet100',
      'imagenet_resized',
      'imagenette',
      'imagewang',
    ),
    ('train', 'validation'),
  ),
  'food101': ('train', 'validation'),
  'places365_small': ('train', 'validation'),
  'i_naturalist2017': ('train', 'validation'),
  'i_naturalist2018': ('train', 'validation'),
  'i_naturalist2021': ('train', 'val'),
  'eurosat': ('train[:80%]', 'train[80%:]'),  # it has only one split
}
_HOW = 'name labeled data with eval.data, eval.train_split and eval.test_split'


class Sets(NamedTuple):
  """Training set of a probe or bank of kNN, and test set.

  Attributes:
    train: training images.
    test: test images; None if there are none.
  """

  train: data.Source
  test: data.Source | None

  @property
  def labeled(self) -> bool:
    """True if both sets are labeled, with two or more classes."""
    return not self.missing

  @property
  def missing(self) -> str:
    """Reason why they cannot be evaluated, to follow 'there', or ''."""
    if self.test is None:
      return 'is no test set'
    if self.train.num_classes is None or self.test.num_classes is None:
      return 'are no labels'
    return 'is one class only' if self.train.num_classes == 1 else ''

  @property
  def names(self) -> str:
    """Names of the sets, such as 'digits train, test'."""
    splits = [s.split for s in self if s is not None]
    return f'{self.train.name} {", ".join(splits)}'

  def checksum(self) -> str:
    """Checksums of both sets, and how whole images are evaluated, separated by spaces."""
    found = [s.checksum() for s in self if s is not None]
    if whole := self.train.whole:
      how = '' if whole.interpolation == 'bilinear' else f'/{whole.interpolation}'
      found.append(f'{whole.size}/{whole.shorter}{how}')
    return ' '.join(found)

  def refuse_unlabeled(self) -> None:
    """Raises a UserError unless both sets exist and are labeled."""
    if self.test is None:
      raise UserError('evaluation needs a test set: set data.test_split or eval.test_split')
    for source in self:
      if source is not None and source.num_classes is None:
        raise UserError(
          f'evaluation needs labels and {source.name} {source.split} has none: {_HOW}'
        )
    if self.train.num_classes == 1:
      raise UserError(
        f'evaluation needs two classes or more and {self.train.name} {self.train.split} has one: '
        f'{_HOW}'
      )

  def refuse_other_classes(self) -> None:
    """Raises a UserError if the test set has classes that the training set does not have."""
    if self.test is not None:
      pairs.refuse_other_classes(self.test, self.train)

  def refuse_unseen_classes(self) -> None:
    """Raises a UserError if a class of test images has no training image."""
    if self.test is not None:
      pairs.refuse_unseen_classes(self.test, self.train)

  def alike(self, train_key: str, test_key: str) -> Sets:
    """Renumbers the classes of the test set as in the training set.

    Args:
      train_key, test_key: config keys of their splits.

    Raises:
      UserError: they share images, or the test set has classes that the training set does not have.
    """
    if self.test is None:
      return self
    test = pairs.numbered_as(self.test, self.train)
    pairs.refuse_shared_images(test, test_key, self.train, train_key)
    return Sets(self.train, test)


def evaluation_sets(experiment: Experiment) -> Sets:
  """Loads the sets of `eval.data`, `eval.train_split` and `eval.test_split`.

  None means the value of `config.data`. Images may have another size; they are resized like
  training images if `data.image_size` is set.

  Raises:
    UserError: unknown data, sets that are named and unlabeled, images that do not fit, test images
      that are trained on, or classes that only the test set has.
  """
  own, asked = experiment.config.data, experiment.config.eval
  name = asked.get('data') or own.name

  def load(split: str, trained: data.Source | None) -> data.Source:
    if trained is not None and (name, split) == (own.name, trained.split):
      return trained
    return open_source(experiment.config, name, split, like=experiment.source)

  def where(key: str) -> dict[str, str]:
    """Keys of the loaded data: those of `eval` if set, else those of `data`."""
    data_key = 'eval__data' if asked.get('data') else 'data__name'
    split_key = f'eval__{key}' if asked.get(key) else f'data__{key}'
    return {data_key: name, split_key: asked.get(key) or own[key]}

  with about(**where('train_split')):
    train = load(asked.get('train_split') or own.train_split, experiment.source)
  test_split = asked.get('test_split') or own.test_split
  with about(**where('test_split')):
    sets = Sets(train, load(test_split, experiment.test) if test_split else None)
  if any(asked.get(key) for key in ('data', 'train_split', 'test_split')):
    sets.refuse_unlabeled()
    _check_images(sets, experiment.source)
  keys = [f'{"eval" if asked.get(k) else "data"}.{k}' for k in ('train_split', 'test_split')]
  sets = sets.alike(*keys)
  if sets.test is not None:
    pairs.refuse_shared_images(sets.test, keys[1], experiment.source, 'data.train_split')
  return sets


def check_size(experiment: Experiment, sets: Sets) -> None:
  """Raises a UserError if the network does not take images of the evaluation, by scale or size."""
  size, shape = experiment.config.augment.size, sets.train.image_shape
  side = min(shape[:2])
  if max(size, side) > 2 * min(size, side):
    raise UserError(
      f'training views have sides of {size} pixels but the images of the evaluation, '
      f'{sets.train.name}, {side}: set augment.size and data.image_size to similar sizes'
    )
  if shape[:2] != (size, size):  # otherwise tracing the training step finds the same
    state, image = experiment.abstract_state, jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    jax.eval_shape(experiment.method.represent, state.params, state.state, image)


def target_sets(
  experiment: Experiment,
  name: str,
  *,
  train_split: str | None = None,
  test_split: str | None = None,
) -> Sets:
  """Loads another data set with images converted to the size and channels of the run.

  Args:
    experiment: the run; its images are square.
    name: see `data.load_source`; TFDS data are in `config.data.data_dir`.
    train_split, test_split: None = those of SPLITS, else 'train' and 'test'.

  Raises:
    UserError: unknown data, a set without labels, other classes in the test set, test images that
      are trained on, or a run whose images are not square.
  """
  height, width, channels = experiment.source.image_shape
  whole = experiment.source.whole
  if height != width:
    raise UserError(
      f'the images of {experiment.source.name} are {height}x{width} but transfer makes images '
      'square: train with data.image_size'
    )
  usual = SPLITS.get(name.partition(':')[0].partition('/')[0], ('train', 'test'))
  splits = train_split or usual[0], test_split or usual[1]
  load = functools.partial(
    data.load_source,
    name,
    data_dir=experiment.config.data.data_dir,
    image_size=height if whole is None else None,
    whole=whole and whole._replace(always=True),
    channels=1 if channels == 1 else 3,
  )
  loaded = []
  for key, split in zip(('train_split', 'test_split'), splits, strict=True):
    with about(target=name, **{key: split}):
      loaded.append(load(split=split))
  sets = Sets(*loaded)
  sets.refuse_unlabeled()
  sets = sets.alike('train_split', 'test_split')
  assert sets.test is not None  # refused before
  pairs.refuse_shared_images(sets.test, 'test_split', experiment.source, 'data.train_split')
  return sets


def _check_images(sets: Sets, trained_on: data.Source) -> None:
  assert sets.test is not None  # refused before
  if sets.test.image_shape != sets.train.image_shape:
    raise UserError(
      f'the test images of {sets.names} are {sets.test.image_shape} and the others '
      f'{sets.train.image_shape}: set data.image_size or choose another eval.data'
    )
  channels = sets.train.image_shape[-1]
  if channels != trained_on.image_shape[-1]:
    raise UserError(
      f'the images of {sets.names} have {channels} channel(s) and those of the training set, '
      f'{trained_on.name}, {trained_on.image_shape[-1]}: choose another '
      'eval.data, or the protocol transfer, which converts images'
    )
