"""The images that a config names: whole where they differ in size, else of `data.image_size`."""

from __future__ import annotations

from typing import Literal

from clr_jax import data
from clr_jax.core.config_tree import Config
from clr_jax.core.errors import UserError
from clr_jax.data.whole import Whole, canvas_for


def whole_of(config: Config) -> Whole:
  """How images that differ in size are kept, for the views and the evaluation of a config.

  Raises:
    UserError: the evaluation would cut a larger square than there is, or an option of whole images
      has no effect.
  """
  canvas, image_size = config.data.get('canvas'), config.data.image_size
  crop, resize = config.eval.get('crop'), config.eval.get('resize')
  for key, value in {'data.canvas': canvas, 'eval.crop': crop, 'eval.resize': resize}.items():
    if value is not None and image_size is not None:
      raise UserError(
        f'{key}={value} is for whole images, which data.image_size={image_size} cuts: set one of '
        f'them to None'
      )
  size = crop or config.augment.size
  shorter = resize or round(size * 256 / 224)
  if shorter < size:
    raise UserError(
      f'eval.resize={shorter} is less than the side {size} of the square that is cut out of it: '
      f'raise eval.resize or lower eval.crop'
    )
  own = canvas_for(config.augment.size) if canvas is None else canvas
  return Whole(own, shorter, size, canvas is not None, config.eval.get('interpolation', 'bilinear'))


def open_source(
  config: Config,
  name: str,
  split: str,
  *,
  like: data.Source | None = None,
  channels: Literal[1, 3] | None = None,
) -> data.Source:
  """Opens a split of a data set and reads its images as those of the run.

  Args:
    config: config of the run.
    name, split, channels: see `data.load_source`.
    like: a source of the run; where its images are whole, these are, too.

  Raises:
    UserError: errors of `whole_of` and `data.load_source`, or `data.canvas` for images of one size.
  """
  whole, image_size = whole_of(config), config.data.image_size
  asked = whole.always
  if like is not None and like.whole is not None:
    whole = whole._replace(always=True)
  source = data.load_source(
    name,
    split=split,
    data_dir=config.data.data_dir,
    image_size=image_size,
    channels=channels,
    whole=whole if image_size is None else None,
  )
  if asked and source.whole is None and like is None:
    raise UserError(
      f'data.canvas={whole.canvas} is for images that differ in size, and those of {name} do not: '
      f'set it to None'
    )
  return source
