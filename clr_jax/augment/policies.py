"""Augmentation policies: factories that return (key, images [B, H, W, C]) -> [B, size, size, C].

Images are float in [0, 1] with C = 1 or 3, or those of a `Canvas`. All contrastive policies are
`simclr_family` with other numbers; the presets with one policy per view are tables over it in
`presets.py`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
from annotated_types import Ge, Le, Lt

from clr_jax.augment import autoaugment as aa
from clr_jax.augment import canvas, filters, geometry
from clr_jax.augment import random_ops as ops
from clr_jax.augment.canvas import Canvas
from clr_jax.core.bounds import Padding, Pixels, Probability, Share, ShareRange, Strength, ZoomRange
from clr_jax.core.errors import UserError
from clr_jax.core.option_texts import described_by
from clr_jax.core.options import OnlyWith
from clr_jax.core.registry import Registry
from clr_jax.core.types import Array

Policy = Callable[[Array, Any], Array]
"""(key, images [B, H, W, C] or a `Canvas`) -> [B, size, size, C]; see `Chain`."""

_RATIO = (3 / 4, 4 / 3)

Jitter = tuple[Strength, Strength, Strength, Annotated[float, Ge(0), Le(0.5)]]
"""Brightness, contrast, saturation and hue; see `color_jitter`."""
NumOps = Annotated[int, Ge(0), Le(20)]
Magnitude = Annotated[int, Ge(0), Le(30)]
_WITH_NOISE = OnlyWith('noise_sigma', 'noise_variance')
_WITH_SALT = OnlyWith('salt_pepper')


def fold_in_each(key: Array, count: int) -> Array:
  """[count] keys, fold_in(key, i) for each i, made by one operation instead of `count`."""
  return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(count, dtype=jnp.uint32))


@dataclasses.dataclass(frozen=True)
class Chain:
  """A policy: applies the steps in order; step i gets fold_in(key, i).

  Attributes:
    steps: the first gets the images or a canvas; each other one the result of the one before.
  """

  steps: tuple[Policy, ...]

  def __call__(self, key: Array, images: Array | Canvas) -> Array:
    """Augments the images."""
    keys = fold_in_each(key, len(self.steps))
    made: Any = images
    for i, step in enumerate(self.steps):
      made = step(keys[i], made)
    return made

  def box(self, key: Array, images: Array | Canvas) -> Array | None:
    """[B, 4] left, top, right, bottom of the part that is cut out; None without a random crop."""
    first: Any = self.steps[0]
    return (
      first.box(fold_in_each(key, len(self.steps))[0], images) if hasattr(first, 'box') else None
    )


def chain(*steps: Policy) -> Chain:
  """A policy that applies these steps in order.

  Example:
    >>> brighter = chain(lambda key, images: images + 0.25, lambda key, images: images * 2)
    >>> brighter(jax.random.key(0), jnp.zeros([1, 1, 1, 1])).item()
    0.5
  """
  return Chain(steps)


class _ResizedCrop(NamedTuple):
  size: int
  scale: tuple[float, float]
  ratio: tuple[float, float]
  method: geometry.Resampling

  def __call__(self, key: Array, images: Array | Canvas) -> Array:
    return ops.random_resized_crop(key, images, **self._asdict())

  def box(self, key: Array, images: Array | Canvas) -> Array:
    return ops.crop_box(key, images, scale=self.scale, ratio=self.ratio)


def _resize(size: int) -> Policy:
  """Resizes each image to size x size without keeping its aspect."""

  def resize(key: Array, images: Array | Canvas) -> Array:
    del key
    with jax.named_scope('crop'):
      if isinstance(images, Canvas):
        return canvas.resize(images, size)
      return geometry.resize(images, size)

  return resize


def simclr_family(
  *,
  size: Pixels,
  crop_scale: ShareRange = (0.08, 1.0),
  crop_ratio: ZoomRange = _RATIO,
  method: geometry.Resampling = 'bilinear',
  flip_p: Probability = 0.5,
  jitter: Jitter = (0.4, 0.4, 0.4, 0.1),
  jitter_strength: Annotated[float, Ge(0), Le(10)] = 1.0,
  jitter_p: Probability = 0.8,
  gray_p: Probability = 0.2,
  blur_p: Probability = 0.0,
  blur_sigma: ZoomRange = (0.1, 2.0),
  blur_kernel: Pixels | None = None,
  solarize_p: Probability = 0.0,
  solarize_threshold: Probability = 0.5,
  rand_ops: NumOps = 0,
  rand_magnitude: Magnitude = 9,
  noise_sigma: Strength | None = None,
  noise_variance: Strength | None = None,
  noise_p: Annotated[Probability, _WITH_NOISE] = 0.5,
  noise_mean: Annotated[Sequence[Probability] | None, _WITH_NOISE] = None,
  noise_std: Annotated[Sequence[Share] | None, _WITH_NOISE] = None,
  salt_pepper: Probability = 0.0,
  salt_pepper_p: Annotated[Probability, _WITH_SALT] = 0.5,
  salt_pepper_per: Annotated[filters.Per, _WITH_SALT] = 'pixel',
  salt_pepper_ratio: Annotated[Probability, _WITH_SALT] = 0.5,
) -> Policy:
  """Random resized crop, flip, jitter, gray, blur, solarize, RandAugment, noise: those with p > 0.

  Args:
    size: side of the views in pixels.
    crop_scale: range of the crop's share of the image area.
    crop_ratio: range of the crop's width / height.
    method: interpolation of the crop: 'bilinear' (torchvision's default) or 'bicubic' (google
      simclr, solo-learn).
    flip_p: probability of the left-right flip.
    jitter: brightness, contrast, saturation and hue of `color_jitter`, all times jitter_strength;
      (0.4, 0.4, 0.4, 0.1) is MoCo v2's.
    jitter_strength: factor of the four numbers of jitter.
    jitter_p: probability of color jitter.
    gray_p: probability of removing the color.
    blur_p: probability of a Gaussian blur.
    blur_sigma: range of the blur's sigma in pixels.
    blur_kernel: odd number of taps of the blur; None = a tenth of the side (google simclr).
    solarize_p: probability of solarization.
    solarize_threshold: pixels from this value on, in [0, 1], are inverted.
    rand_ops: number of RandAugment's operations; 0 = none.
    rand_magnitude: their magnitude, of torchvision's 31 bins.
    noise_sigma: standard deviation of Gaussian noise, for pixels in [0, 1]; None = no noise.
    noise_variance: its square, in place of noise_sigma.
    noise_p: probability of the noise.
    noise_mean, noise_std: statistics of the channels, for noise on normalized pixels, clipped to
      [0, 1] there (`gaussian_noise`'s clip_normalized); both or none.
    salt_pepper: share of the pixels that become black or white; 0 = none.
    salt_pepper_p: probability of salt and pepper.
    salt_pepper_per: 'pixel' replaces all channels together, 'element' each by itself.
    salt_pepper_ratio: share of white among the replaced pixels; 0.5 ("50-50", the TAMU report).

  Source: SimCLR (arXiv:2002.05709, appendix A), with solo-learn's order of the steps. The flip
  commutes with the other steps.

  Raises:
    UserError: if one of noise_mean and noise_std is missing.
  """
  if (noise_mean is None) != (noise_std is None):
    raise UserError('noise_mean and noise_std come together: set both or none')
  part = functools.partial
  jittered = jitter_p > 0 and jitter_strength > 0 and any(jitter)
  strengths = zip(('brightness', 'contrast', 'saturation', 'hue'), jitter, strict=True)
  colors = {name: jitter_strength * value for name, value in strengths}
  noisy = noise_sigma is not None or noise_variance is not None
  clip = (noise_mean, noise_std) if noise_mean and noise_std else None
  noise = {'sigma': noise_sigma, 'variance': noise_variance, 'clip_normalized': clip}
  salt = {'amount': salt_pepper, 'salt_ratio': salt_pepper_ratio, 'per': salt_pepper_per}
  steps: list[tuple[bool, Policy]] = [
    (True, _ResizedCrop(size, crop_scale, crop_ratio, method)),
    (flip_p > 0, part(ops.random_flip, p=flip_p)),
    (jittered, part(ops.color_jitter, **colors, p=jitter_p)),
    (gray_p > 0, part(ops.random_grayscale, p=gray_p)),
    (blur_p > 0, part(ops.random_blur, sigma=blur_sigma, kernel_size=blur_kernel, p=blur_p)),
    (solarize_p > 0, part(ops.random_solarize, threshold=solarize_threshold, p=solarize_p)),
    (rand_ops > 0, part(aa.rand_augment, num_ops=rand_ops, magnitude=rand_magnitude)),
    (noisy, part(filters.gaussian_noise, **noise, p=noise_p)),
    (salt_pepper > 0, part(filters.salt_and_pepper, **salt, p=salt_pepper_p)),
  ]
  return chain(*(step for used, step in steps if used))


# Presets: `simclr_family` with other defaults; every argument of it can still be given.

# google-research/simclr: jitter strength 0.5, no blur on CIFAR; 1 and blur_p 0.5 on ImageNet. The
# operations are torchvision's (google: contrast channel by channel, ratio uniform, not its log).
simclr = functools.partial(
  simclr_family, method='bicubic', jitter=(0.8, 0.8, 0.8, 0.2), jitter_strength=0.5
)
# Optimization-AI/SogCLR; no blur on CIFAR, blur_p 1 on ImageNet. The TAMU report adds blur (kernel
# 9, p 0.5 or 1), noise_variance 9e-4 or salt_pepper 0.05.
sogclr = functools.partial(simclr_family, jitter=(0.4, 0.4, 0.2, 0.1), blur_kernel=9)
# HobbitLong/SupContrast; SimAugment in the TCL paper.
supcon = functools.partial(simclr_family, crop_scale=(0.2, 1.0))
# Training images of the linear probe (facebookresearch/moco main_lincls, SogCLR's too).
rrc_flip = functools.partial(simclr_family, jitter_p=0.0, gray_p=0.0)
# ReSSL (arXiv:2107.09282): the teacher's view, and the student's, which is MoCo v2's augmentation.
weak = functools.partial(rrc_flip, crop_scale=(0.2, 1.0))
strong = functools.partial(supcon, blur_p=0.5)
# InfoMin's augmentation D (PyContrast). Magnitude 30, the last of 31 bins, is its 10 of 10; its
# random spread of the magnitude is left out.
infomin = functools.partial(strong, jitter=(0.8, 0.8, 0.8, 0.2), rand_ops=2, rand_magnitude=30)


def crop_flip(
  *, size: Pixels, padding: Padding = 4, mode: geometry.PaddingMode = 'constant'
) -> Policy:
  """Resize if needed, pad-and-crop, flip: supervised training on CIFAR (He et al. 2016).

  Images of another aspect are resized to size x size, too.

  Args:
    size: side of the views in pixels.
    padding: pixels added on each side before the crop.
    mode: their values: 'constant' (black) or 'reflect'.
  """
  crop = functools.partial(ops.random_crop, size=size, padding=padding, mode=mode)
  return chain(_resize(size), crop, ops.random_flip)


@described_by(crop_flip)
def autoaugment(
  *, size: Pixels, padding: Padding = 4, policy: aa.PolicyName = 'cifar10', fill: Probability = 0.0
) -> Policy:
  """`crop_flip`, then AutoAugment: TCL's supervised runs (its SupCon baseline too).

  Args:
    policy: the data set that the policy was found for, or 'tcl', that of CIFAR-10 as the code of
      TCL has it.
    fill: value of pixels from outside of the image, in [0, 1].
  """
  augment = functools.partial(aa.auto_augment, policy=policy, fill=fill)
  return chain(crop_flip(size=size, padding=padding), augment)


@described_by(crop_flip)
def randaugment(
  *,
  size: Pixels,
  padding: Padding = 4,
  num_ops: NumOps = 2,
  magnitude: Magnitude = 9,
  fill: Probability = 0.0,
) -> Policy:
  """`crop_flip`, then RandAugment with torchvision's defaults.

  Args:
    num_ops: number of operations applied in sequence.
    magnitude: magnitude of all operations, of torchvision's 31 bins.
    fill: value of pixels from outside of the image, in [0, 1].
  """
  augment = functools.partial(aa.rand_augment, num_ops=num_ops, magnitude=magnitude, fill=fill)
  return chain(crop_flip(size=size, padding=padding), augment)


@described_by(ops.color_jitter)
@described_by(ops.random_affine)
def affine(
  *,
  size: Pixels,
  degrees: Annotated[float, Ge(0), Le(180)] = 15.0,
  translate: Probability = 0.1,
  scale: ZoomRange = (0.8, 1.2),
  shear: Annotated[float, Ge(0), Lt(90)] = 10.0,
  brightness: Strength = 0.4,
  contrast: Strength = 0.4,
  noise_sigma: Strength = 0.05,
  noise_p: Probability = 1.0,
) -> Policy:
  """Small affine maps, intensity and noise: for digits and other images that must not be mirrored.

  The defaults are this library's, for the embedded digits at 16x16.

  Args:
    size: side of the views in pixels.
    noise_sigma: standard deviation of Gaussian noise, for pixels in [0, 1].
    noise_p: probability of the noise.
  """
  move = functools.partial(
    ops.random_affine,
    degrees=degrees,
    translate=(translate, translate),
    scale=scale,
    shear=shear,
  )
  intensity = functools.partial(
    ops.color_jitter, brightness=brightness, contrast=contrast, saturation=0.0, hue=0.0, p=1.0
  )
  noise = functools.partial(filters.gaussian_noise, sigma=noise_sigma, p=noise_p)
  return chain(_resize(size), move, intensity, noise)


def none(*, size: Pixels) -> Policy:
  """No augmentation: the image itself, resized if needed.

  Args:
    size: side of the views in pixels.
  """
  return _resize(size)


REGISTRY: Registry[Callable[..., Policy]] = Registry(
  'policy',
  {
    'simclr': simclr,
    'sogclr': sogclr,
    'supcon': supcon,
    'simclr_family': simclr_family,
    'rrc_flip': rrc_flip,
    'weak': weak,
    'strong': strong,
    'infomin': infomin,
    'crop_flip': crop_flip,
    'autoaugment': autoaugment,
    'randaugment': randaugment,
    'affine': affine,
    'none': none,
  },
)
names, factory, make = REGISTRY.names, REGISTRY.factory, REGISTRY.make
