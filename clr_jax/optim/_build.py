"""The optimizer of a run: one chain per parameter group, freezing, SAM outermost."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from clr_jax.core.bounds import NonNegative
from clr_jax.core.errors import UserError
from clr_jax.core.options import OnlyWith, check, keyword_only, takes_options_of
from clr_jax.core.registry import Registry
from clr_jax.core.types import Group, Params, PyTree, Schedule
from clr_jax.optim import _optimizers, _sam, schedules

Optimizer = Callable[..., optax.GradientTransformationExtraArgs]

_SAMS = {'sam': _sam.sam, 'noise_sam': _sam.noise_sam}
_MASKS = {
  'bias_and_norm': _optimizers.matrices,
  'bias_norm_and_position': _optimizers.products,
  'none': _optimizers.everything,
}
Factors = Mapping[str, Mapping[str, float]]
"""Factors of the updates by first key and name, such as {'backbone': {'conv1': 0.5}}."""


def _for_all_groups(make: Optimizer) -> Optimizer:
  """Makes the optimizer of a run from the optimizer of one group."""

  @takes_options_of(make)
  def optimizer(
    groups: Mapping[str, Group],
    joined: bool = False,
    factors: Factors | None = None,
    total_steps: int = 0,
    *,
    learning_rate: NonNegative | Schedule,
    weight_decay: NonNegative = 0.0,
    final_weight_decay: NonNegative | None = None,
    exclude_from_decay: Literal['auto', 'bias_and_norm', 'bias_norm_and_position', 'none'] = 'auto',
    clip_norm: NonNegative = 0.0,
    sam: Mapping[str, Any] | None = None,
    **hyper: Any,
  ) -> optax.GradientTransformationExtraArgs:
    """Builds one optax transformation for all parameters, which is always called as

    `tx.update(grads, state, params, grad_fn=lambda params, i: ...)`, `grad_fn` being the gradient
    of the same batch at other parameters; optimizers without SAM ignore it.

    Args:
      groups: settings of the parameters below some first keys; the others form 'default'. `lr`
        replaces `learning_rate`, `peak_of` holds it at its peak, `lr_scale` multiplies either. In
        the first `freeze_steps` updates nothing in the group changes, not even its momentum; its
        learning rate follows the run's step.
      joined: compute norms of many arrays in few kernels (`ops.many_arrays.norms`), for GPUs with
        unsharded optimizer state.
      factors: multiply the learning rate, and so the decay, of some names; 0 freezes them.
      total_steps: length of the run, for `final_weight_decay`.
      learning_rate: a number, or a function of the step.
      weight_decay: weight decay of all groups that do not have their own.
      final_weight_decay: weight decay at the end of the run, reached by half a cosine (DINO: .04 to
        .4); None keeps it constant.
      exclude_from_decay: 'bias_and_norm' excludes biases and normalization scales from weight decay
        (and trust ratio), 'bias_norm_and_position' also the positions and class token of a ViT,
        'none' excludes nothing; 'auto' follows published code: 'bias_and_norm' for LARS and AdamW,
        'none' for SGD and Adam.
      clip_norm: largest L2 norm of the gradient of each array, longer ones are scaled down (DINO:
        3, by clip_norm / (norm + 1e-6)); 0 leaves all as they are.
      sam: options of `sharpness_aware`, whose `name` defaults to 'sam'; None or {} for no SAM.
      hyper: options of the optimizer: momentum, nesterov, form, b1, ...

    Raises:
      UserError: an unknown or invalid option of SAM; in `tx.init`, a group without parameters.
    """
    if exclude_from_decay != 'auto':
      hyper['mask'] = _MASKS[exclude_from_decay]
    if joined and make is _optimizers.lars:
      hyper['joined'] = True

    decay_of_run = _decay(weight_decay, final_weight_decay, total_steps)

    def transform(group: Group) -> optax.GradientTransformationExtraArgs:
      rate = learning_rate if group.lr is None else group.lr
      rate = _delayed(_peak(rate, group.peak_of), group.freeze_steps)
      decay = decay_of_run if group.weight_decay is None else group.weight_decay
      decay = _delayed(decay, group.freeze_steps)
      tx = make(_scaled(rate, group.lr_scale), decay, **hyper)
      tx = optax.chain(_optimizers.clip_each(clip_norm), tx) if clip_norm else tx
      return _frozen(tx, group.freeze_steps) if group.freeze_steps else tx

    transforms: dict[Hashable, optax.GradientTransformation] = {
      label: transform(group) for label, group in {'default': Group(), **groups}.items()
    }
    options = {'name': 'sam', **sam} if sam else {}
    check(sharpness_aware, options, what='sam', prefix='sam.')
    tx = optax.partition(transforms, functools.partial(_labels, groups))
    if factors and any(factors.values()):
      tx = optax.chain(tx, _scale_names(factors))
    return sharpness_aware(tx, groups, **options)

  return optimizer


REGISTRY: Registry[Optimizer] = Registry(
  'optimizer',
  {
    f.__name__: _for_all_groups(f)
    for f in (_optimizers.sgd, _optimizers.lars, _optimizers.adam, _optimizers.adamw)
  },
)
names, factory, make = REGISTRY.names, REGISTRY.factory, REGISTRY.make


@takes_options_of(_sam.noise_sam, OnlyWith(name='noise_sam'))
@takes_options_of(_sam.sam, OnlyWith(name='sam'))
def sharpness_aware(
  tx: optax.GradientTransformationExtraArgs,
  groups: Mapping[str, Group],
  *,
  name: Literal['none', 'sam', 'noise_sam'] = 'none',
  **options: Any,
) -> optax.GradientTransformationExtraArgs:
  """Wraps `tx` by `sam` or `noise_sam`, which use the gradient of another point, or returns it.

  Args:
    tx: optimizer of all groups.
    groups: exceptions for parts of the parameters.
    name: 'none', 'sam' (sharpness-aware minimization) or 'noise_sam' (uniform noise instead).
    options: options of `sam` and `noise_sam`.

  Example:
    >>> base = optax.with_extra_args_support(optax.sgd(0.1))
    >>> tx = sharpness_aware(base, {}, name='sam', rho=0.1)
    >>> tx.init({'w': jnp.ones([])}) is not None
    True
  """
  if name == 'none':
    return tx
  taken = keyword_only(_SAMS[name])
  return _SAMS[name](tx, groups, **{k: v for k, v in options.items() if k in taken})


def _labels(groups: Mapping[str, Group], params: Params) -> dict[str, str]:
  for key in groups:
    if key not in params:
      raise UserError(f'optimizer group {key!r} has no parameters: there are {", ".join(params)}')
  return {key: key if key in groups else 'default' for key in params}


def _decay(start: float, final: float | None, total_steps: int) -> float | Schedule:
  if final is None:
    return start
  return schedules.warmup_cosine(start, total_steps=total_steps, warmup_steps=0, end=final)


def _scale_names(factors: Factors) -> optax.GradientTransformation:
  """Multiplies the updates of some names by their factors."""

  def scale(updates: PyTree, params: PyTree = None) -> PyTree:
    del params
    scaled = dict(updates)
    for key, of_names in factors.items():
      scaled[key] = {
        name: optax.tree.scale(of_names[name], part) if name in of_names else part
        for name, part in updates[key].items()
      }
    return scaled

  return optax.stateless(scale)


def _peak(value: float | Schedule, steps: int) -> float | Schedule:
  """The largest of the schedule's first `steps` values; `value` itself if `steps` is 0."""
  return float(jnp.max(value(jnp.arange(steps)))) if callable(value) and steps else value


def _delayed(value: float | Schedule, steps: int) -> float | Schedule:
  """Shifts a schedule: a frozen group counts from its first update, the schedule from step 0."""
  return (lambda count: value(count + steps)) if callable(value) and steps else value


def _scaled(value: float | Schedule, factor: float) -> float | Schedule:
  if factor == 1:
    return value
  return (lambda count: factor * value(count)) if callable(value) else factor * value


class _FrozenState(NamedTuple):
  count: ArrayLike
  inner: PyTree


def _frozen(
  tx: optax.GradientTransformationExtraArgs, steps: int
) -> optax.GradientTransformationExtraArgs:
  """Skips the first `steps` updates of `tx`: parameters and state keep their bits."""

  def init(params):
    return _FrozenState(jnp.zeros([], jnp.int32), tx.init(params))

  def update(updates, state, params=None, **extra_args):
    frozen = state.count < steps
    updates, inner = tx.update(updates, state.inner, params, **extra_args)
    # Adding -0.0 is the identity for every float; +0.0 would change -0.0.
    updates = jax.tree.map(lambda u: jnp.where(frozen, -0.0, u), updates)
    inner = jax.tree.map(lambda old, new: jnp.where(frozen, old, new), state.inner, inner)
    return updates, _FrozenState(optax.safe_increment(state.count), inner)

  return optax.GradientTransformationExtraArgs(init, update)
