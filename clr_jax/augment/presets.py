"""Presets whose views differ: tables of arguments of `simclr_family`.

A factory returns the fields of `Views`: global policies and local policies, one per view, and the
policy of the jigsaw patches if there is one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le

from clr_jax.augment import policies
from clr_jax.augment import random_ops as ops
from clr_jax.augment.policies import Policy, simclr_family
from clr_jax.core.bounds import Pixels, Probability, ShareRange
from clr_jax.core.errors import UserError
from clr_jax.core.options import OPTIONAL, OneOf, takes_options_of

ViewPolicies = (
  tuple[tuple[Policy, ...], tuple[Policy, ...]]
  | tuple[tuple[Policy, ...], tuple[Policy, ...], Policy]
)

_SIMCLR = (0.8, 0.8, 0.8, 0.2)
_MOCO = (0.4, 0.4, 0.4, 0.1)
_BYOL = (0.4, 0.4, 0.2, 0.1)

# solo-learn's two views; 'cifar' and 'imagenet' are their blur_p in its YAML configs.
_SOLO: dict[str, dict[str, Any]] = {
  'symmetric': {'views': [{'jitter': _SIMCLR}] * 2, 'cifar': (0.5, 0.5), 'imagenet': (0.5, 0.5)},
  'symmetric_weak': {'views': [{'jitter': _MOCO}] * 2, 'cifar': (0.5, 0.5), 'imagenet': (0.5, 0.5)},
  'asymmetric': {
    'views': [{'jitter': _BYOL}, {'jitter': _BYOL, 'solarize_p': 0.2}],
    'cifar': (0.0, 0.0),
    'imagenet': (1.0, 0.1),
  },
  # Strong view to the student, weak view to the teacher.
  'ressl': {
    'views': [{'jitter': _BYOL}, {'jitter_p': 0.0, 'gray_p': 0.0}],
    'cifar': (0.5, 0.0),
    'imagenet': (0.5, 0.0),
  },
  'vicreg': {
    'views': [{'jitter': _BYOL, 'crop_scale': (0.2, 1.0), 'solarize_p': 0.1}] * 2,
    'cifar': (0.0, 0.0),
    'imagenet': (0.5, 0.5),
  },
  'wmse': {
    'views': [{'jitter': _SIMCLR, 'crop_scale': (0.2, 1.0)}] * 2,
    'cifar': (0.0, 0.0),
    'imagenet': (0.2, 0.2),
  },
}
# Where the scripts behind the published CIFAR numbers differ; they never blur.
_SOLO_2022 = {'wmse': [{'jitter': _BYOL}] * 2, 'ressl': [{}, {'gray_p': 0.2}]}

Recipe = Literal['solo2022', 'solo', 'solo_imagenet100']
NumLocal = Annotated[int, Ge(0), Le(64)]


@takes_options_of(simclr_family, OPTIONAL)
def solo(preset: str, *, size: Pixels, recipe: Recipe = 'solo2022', **family: Any) -> ViewPolicies:
  """Two views as in solo-learn.

  Args:
    preset: symmetric (SimCLR, SwAV), symmetric_weak (MoCo v2+, SimSiam on CIFAR), asymmetric (BYOL,
      DINO, MoCo v3, NNCLR, Barlow Twins), ressl, vicreg or wmse.
    size: side of the views.
    recipe: 'solo2022' (scripts of the published CIFAR numbers, no blur), 'solo' (its current
      configs for CIFAR) or 'solo_imagenet100'.
    **family: arguments of `simclr_family` that replace the preset's in both views.
  """
  views = solo_options(preset, recipe)
  return tuple(simclr_family(size=size, **{**view, **family}) for view in views), ()


def solo_options(preset: str, recipe: Recipe) -> list[dict[str, Any]]:
  """Arguments of `simclr_family` of each view in `solo`, whose arguments these are."""
  row = _SOLO[preset]
  blurs = {'solo2022': (0.0, 0.0), 'solo': row['cifar'], 'solo_imagenet100': row['imagenet']}[
    recipe
  ]
  changes = _SOLO_2022.get(preset, [{}, {}]) if recipe == 'solo2022' else [{}, {}]
  # PIL does not truncate its blur; 13 taps reach three times the largest sigma.
  return [
    {'method': 'bicubic', 'blur_p': blur_p, 'blur_kernel': 13, **view, **change}
    for view, blur_p, change in zip(row['views'], blurs, changes, strict=True)
  ]


@takes_options_of(solo)
def ressl(
  *,
  size: Pixels,
  recipe: Recipe = 'solo2022',
  weak: Literal['resized', 'padded'] = 'resized',
  **family: Any,
) -> ViewPolicies:
  """ReSSL: a strong view for the student and a weak one for the teacher.

  Args:
    size: side of the views.
    weak: crop of the weak view: 'resized' as in the strong one (solo-learn, ReSSL's code), or
      'padded' by an eighth of the side ("random cropping" in the margins paper).
    **family: see `solo`.
  """
  (strong, resized), local = solo('ressl', size=size, recipe=recipe, **family)[:2]
  if weak == 'resized':
    return (strong, resized), local
  return (strong, policies.crop_flip(size=size, padding=max(1, size // 8))), local


def _local_size(size: int, local_size: int | None) -> int:
  return local_size or round(size * 96 / 224)


def _blur_like_pil(size: int) -> int:
  """Taps of a nearly untruncated blur, as PIL's: 13 (three sigmas), fewer in small images."""
  return max(2 * (size // 20) + 1, min(13, 2 * size - 1))


@takes_options_of(simclr_family, OPTIONAL)
def multicrop_swav(
  *,
  size: Pixels,
  num_local: NumLocal = 6,
  local_size: Pixels | None = None,
  global_scale: ShareRange = (0.14, 1.0),
  local_scale: ShareRange = (0.05, 0.14),
  **family: Any,
) -> ViewPolicies:
  """SwAV: two large crops and `num_local` small ones (96 to 224), all augmented alike.

  Args:
    size: side of the large views in pixels.
    num_local: number of small views.
    local_size: side of the small views; None = 96 / 224 of size.
    global_scale, local_scale: ranges of a large and of a small crop's share of the image area.
    **family: arguments of `simclr_family` that replace the preset's in all views.

  Source: facebookresearch/swav, ImageNet.
  """

  def make(size: int, scale: ShareRange) -> Policy:
    base = {'jitter': _SIMCLR, 'blur_p': 0.5, 'blur_kernel': _blur_like_pil(size)}
    return simclr_family(size=size, crop_scale=scale, **{**base, **family})

  large = make(size, global_scale)
  small = make(_local_size(size, local_size), local_scale)
  return (large,) * 2, (small,) * num_local


@takes_options_of(simclr_family, OPTIONAL)
def multicrop_dino(
  *,
  size: Pixels,
  num_local: NumLocal = 8,
  local_size: Pixels | None = None,
  global_scale: ShareRange = (0.4, 1.0),
  local_scale: ShareRange = (0.05, 0.4),
  **family: Any,
) -> ViewPolicies:
  """DINO: two large crops (blur 1; blur .1 and solarize .2) and `num_local` small ones (blur .5).

  Args:
    size: side of the large views in pixels.
    num_local: number of small views.
    local_size: side of the small views; None = 96 / 224 of size.
    global_scale, local_scale: ranges of a large and of a small crop's share of the image area.
    **family: arguments of `simclr_family` that replace the preset's in all views.

  Source: facebookresearch/dino, ImageNet.
  """

  def make(size: int, scale: ShareRange, **own: Any) -> Policy:
    base = {'method': 'bicubic', 'jitter': _BYOL, 'blur_kernel': _blur_like_pil(size), **own}
    return simclr_family(size=size, crop_scale=scale, **{**base, **family})

  first = make(size, global_scale, blur_p=1.0)
  second = make(size, global_scale, blur_p=0.1, solarize_p=0.2)
  local = make(_local_size(size, local_size), local_scale, blur_p=0.5)
  return (first, second), (local,) * num_local


@takes_options_of(simclr_family, OPTIONAL)
def infomin_jigsaw(
  *,
  size: Pixels,
  policy: Annotated[str, OneOf(tuple(policies.names()))] = 'infomin',
  grid: Annotated[int, Ge(1), Le(16)] = 3,
  jigsaw_size: Pixels | None = None,
  patch_size: Pixels | None = None,
  jigsaw_scale: ShareRange = (0.6, 1.0),
  jigsaw_flip_p: Probability = 0.5,
  **family: Any,
) -> ViewPolicies:
  """InfoMin: two views of a policy, and shuffled patches of a third, uncolored crop.

  Args:
    size: side of the views.
    policy: policy of the two views, 'infomin' (PyContrast's augmentation D).
    grid: the crop is cut into grid x grid cells, 3 (PyContrast).
    jigsaw_size: side of that crop; None = 255 / 224 of `size` (PyContrast).
    patch_size: side of the window cut out of each cell; None = 64 / 85 of the cell (PyContrast).
    jigsaw_scale: area of the crop, (.6, 1) (PyContrast).
    jigsaw_flip_p: .5 (PyContrast).
    **family: arguments of `simclr_family` that replace the policy's, if it is one of that family.

  Source: PyContrast's `build_transforms`, https://arxiv.org/abs/2005.10243.

  Raises:
    UserError: a patch larger than its cell, or errors of `policies.make`.
  """
  jigsaw_size = jigsaw_size or round(size * 255 / 224)
  cell = jigsaw_size // grid
  patch_size = patch_size or max(round(cell * 64 / 85), 1)
  if patch_size > cell:
    raise UserError(
      f'a patch of {patch_size} does not fit a cell of {cell} pixels: lower augment.patch_size or '
      'raise augment.jigsaw_size'
    )
  crop = policies.rrc_flip(size=jigsaw_size, crop_scale=jigsaw_scale, flip_p=jigsaw_flip_p)
  cut = functools.partial(ops.random_jigsaw, grid=grid, size=patch_size)
  main = policies.make(policy, size=size, **family)
  return (main, main), (), policies.chain(crop, cut)


SOLO = tuple(_SOLO)
"""Names of the presets of `solo`."""

PRESETS: Mapping[str, Callable[..., ViewPolicies]] = {
  **{name: functools.partial(solo, name) for name in SOLO},
  'ressl': ressl,
  'multicrop_swav': multicrop_swav,
  'multicrop_dino': multicrop_dino,
  'infomin_jigsaw': infomin_jigsaw,
}
