"""Views: (key, uint8 images [B, H, W, C]) -> {'global': float32 [B, V, size, size, C], ...}.

With `extent` [B, 2] the images lie on canvases (`clr_jax.augment.canvas`) and have their own sizes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from annotated_types import Ge, Le

from clr_jax.augment import policies
from clr_jax.augment.canvas import Canvas
from clr_jax.augment.policies import Chain, Policy
from clr_jax.augment.presets import PRESETS
from clr_jax.core.errors import UserError
from clr_jax.core.options import takes_options_of
from clr_jax.core.registry import Registry
from clr_jax.core.types import Array


def to_float(images: Array) -> Array:
  """Integer pixels 0..255 as float32 in [0, 1]; float images are taken to be in [0, 1] already.

  Example:
    >>> to_float(jnp.array([0, 255], jnp.uint8)).tolist()
    [0.0, 1.0]
  """
  if jnp.issubdtype(images.dtype, jnp.integer):
    return images.astype(jnp.float32) / 255
  return images.astype(jnp.float32)


@dataclasses.dataclass(frozen=True)
class Views:
  """A `ViewFn`: view v of the batch is `policies[v](fold_in(key, v), images)`.

  The views are stacked on axis 1, never concatenated along the (sharded) batch.

  Attributes:
    policies: one per view of 'global' [B, V, size, size, C].
    local_policies: one per view of 'local' [B, L, s, s, C]; without any there is no such entry.
    jigsaw: policy that makes 'jigsaw' [B, P, s, s, C], shuffled patches; None = no such entry.
    together: whether all views of one policy are made by one set of operations, which halves the
      number of kernels on accelerators; the draws are the same.

  Example:
    >>> views = Views((policies.none(size=8),) * 2)
    >>> images = jnp.zeros([4, 8, 8, 1], jnp.uint8)
    >>> jax.eval_shape(views, jax.random.key(0), images)['global'].shape
    (4, 2, 8, 8, 1)
  """

  policies: tuple[Policy, ...]
  local_policies: tuple[Policy, ...] = ()
  jigsaw: Policy | None = None
  together: bool = False

  @property
  def num_views(self) -> int:
    """V, the number of global views."""
    return len(self.policies)

  @property
  def num_local(self) -> int:
    """L, the number of local views."""
    return len(self.local_policies)

  def __call__(self, key: Array, images: Array, extent: Array | None = None) -> dict[str, Array]:
    """Makes the views; `jax.eval_shape` gives their shapes without running it.

    Args:
      key: PRNG key.
      images: [B, H, W, C].
      extent: [B, 2] height and width of each image, if they lie on canvases.

    Raises:
      UserError: unless images are [B, H, W, C] with C = 1 or 3.
    """
    if images.ndim != 4 or images.shape[-1] not in (1, 3):
      raise UserError(f'images must be [batch, height, width, 1 or 3 channels], not {images.shape}')
    given = to_float(images) if extent is None else Canvas(images, extent)
    return self._made(key, given)

  def boxes(self, key: Array, images: Array, extent: Array | None = None) -> dict[str, list[Any]]:
    """The boxes that the views are cut from, given the same arguments.

    Returns:
      Entry of the views -> [B, 4] left, top, right, bottom of each view (of 'jigsaw' of the one
      crop), None for a view that is cut from no box.
    """
    given = images if extent is None else Canvas(images, extent)
    keys = self._keys(key)
    jigsaw = [] if self.jigsaw is None else [self.jigsaw]
    made_by = [*self.policies, *self.local_policies, *jigsaw]
    found: Any = [
      policy.box(keys[i], given) if isinstance(policy, Chain) else None
      for i, policy in enumerate(made_by)
    ]
    v, count = self.num_views, self.num_views + self.num_local
    parts = {'global': found[:v], 'local': found[v:count], 'jigsaw': found[count:]}
    return {name: part for name, part in parts.items() if part}

  def _keys(self, key: Array) -> Array:
    """A key for each view, the last one for the jigsaw."""
    return policies.fold_in_each(key, self.num_views + self.num_local + 1)

  def _made(self, key: Array, images: Array | Canvas) -> dict[str, Array]:
    count = self.num_views + self.num_local
    keys = self._keys(key)
    views = {'global': self._stacked(self.policies, keys[: self.num_views], images)}
    if self.local_policies:
      views['local'] = self._stacked(self.local_policies, keys[self.num_views : count], images)
    if self.jigsaw is not None:
      views['jigsaw'] = self.jigsaw(keys[count], images)
    return views

  def _stacked(self, made_by: tuple[Policy, ...], keys: Array, images: Any) -> Array:
    if self.together and len(set(made_by)) == 1:
      return jax.vmap(made_by[0], (0, None), 1)(keys, images)
    return jnp.stack([policy(keys[v], images) for v, policy in enumerate(made_by)], 1)


def multi(policy: Policy, num_views: int) -> Views:
  """`num_views` independent views of one policy.

  Raises:
    UserError: if num_views is less than 1.

  Example:
    >>> multi(policies.none(size=8), 4).num_views
    4
  """
  if num_views < 1:
    raise UserError(f'num_views must be at least 1, not {num_views}')
  return Views((policy,) * num_views)


def single(policy: Policy) -> Views:
  """One view (supervised training, the linear probe).

  Example:
    >>> single(policies.none(size=8)).num_views
    1
  """
  return multi(policy, 1)


def pair(policy: Policy) -> Views:
  """Two views of one policy (SimCLR).

  Example:
    >>> pair(policies.none(size=8)).num_views
    2
  """
  return multi(policy, 2)


def triplet(policy: Policy) -> Views:
  """Three views of one policy (self-supervised TCL).

  Example:
    >>> triplet(policies.none(size=8)).num_views
    3
  """
  return multi(policy, 3)


def asymmetric(first: Policy, second: Policy) -> Views:
  """Two views, each with its policy, always in this order (BYOL).

  Example:
    >>> views = asymmetric(policies.strong(size=8), policies.weak(size=8))
    >>> views.num_views
    2
  """
  return Views((first, second))


def multicrop(first: Policy, second: Policy, local: Policy, num_local: int) -> Views:
  """Two large views and `num_local` of a policy of smaller size (SwAV, DINO).

  Example:
    >>> large, small = policies.none(size=8), policies.none(size=4)
    >>> views = multicrop(large, large, small, 3)
    >>> (views.num_views, views.num_local)
    (2, 3)
  """
  return Views((first, second), (local,) * num_local)


def _of_policy(policy: Callable[..., Policy]) -> Callable[..., Views]:
  @takes_options_of(policy)
  def make_views(*, num_views: Annotated[int, Ge(1), Le(64)] = 2, **options: Any) -> Views:
    """Independent views of a policy.

    Args:
      num_views: number of views of each image.
    """
    return multi(policy(**options), num_views)

  return make_views


def _of_preset(preset: Callable[..., Any]) -> Callable[..., Views]:
  @takes_options_of(preset)
  def make_views(**options: Any) -> Views:
    return Views(*preset(**options))

  return make_views


# The views of `config.augment`: independent ones of a policy, or those of a preset.
REGISTRY: Registry[Callable[..., Views]] = Registry(
  'augmentation',
  {
    **{name: _of_policy(policies.factory(name)) for name in policies.names()},
    **{name: _of_preset(preset) for name, preset in PRESETS.items()},
  },
  entry_points='clr_jax.augmentations',
)
names, factory, make = REGISTRY.names, REGISTRY.factory, REGISTRY.make
register = REGISTRY.register
"""Decorates a function (*, size, ...) -> Views, which `config.augment.name` can then name."""
