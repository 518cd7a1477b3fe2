"""The optimizer of a run: one chain for each parameter group, freezing, SAM outermost."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from clr_jax.core.errors import UserError
from clr_jax.core.names import look_up
from clr_jax.core.options import keyword_only
from clr_jax.core.registry import check_options, refuse_changed
from clr_jax.core.types import Group, Params, PyTree, Schedule
from clr_jax.optim import _optimizers, _sam

_OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformationExtraArgs]] = {
  'sgd': _optimizers.sgd,
  'lars': _optimizers.lars,
  'adam': _optimizers.adam,
  'adamw': _optimizers.adamw,
}
_SAMS = {'sam': _sam.sam, 'noise_sam': _sam.noise_sam}
_MASKS = {'bias_and_norm': _optimizers.matrices, 'none': _optimizers.everything}


def factory(name: str) -> Callable[..., optax.GradientTransformationExtraArgs]:
  """The optimizer or SAM wrapper `name`; its keyword-only parameters are what a config records."""
  return look_up({**_OPTIMIZERS, **_SAMS}, name, 'optimizer')


def build(
  groups: Mapping[str, Group],
  *,
  name: str,
  learning_rate: float | Schedule,
  weight_decay: float = 0.0,
  exclude_from_decay: str = 'auto',
  sam: Mapping[str, Any] | None = None,
  **hyper: Any,
) -> optax.GradientTransformationExtraArgs:
  """One optax transformation for all parameters, called alike whatever it consists of:

  `tx.update(grads, state, params, grad_fn=lambda params, i: ...)`, `grad_fn` being the gradient of
  the same batch at other parameters; optimizers without SAM ignore it.

  Args:
    groups: exceptions for the parameters below some first keys; the rest forms 'default'. `lr`
      replaces `learning_rate`, `peak_of` holds it at its peak, `lr_scale` multiplies either. In the
      first `freeze_steps` updates nothing of the group changes, its momentum included; its learning
      rate follows the run's step.
    name: 'sgd', 'lars', 'adam' or 'adamw'.
    exclude_from_decay: 'bias_and_norm' leaves these without weight decay (and trust ratio), 'none'
      nothing; 'auto' is the habit of the published code: the former for LARS and AdamW, the latter
      for SGD and Adam.
    sam: options of `sam`, or of `noise_sam` with {'name': 'noise_sam', ...}; None, {} or
      {'name': 'none', ...} to do without. Options of another than the one named may be there, with
      their defaults.
    hyper: keyword arguments of the optimizer: momentum, nesterov, form, b1, ...

  Raises:
    UserError: unknown names or options, values out of range; in `tx.init`, a group without
      parameters.
  """
  make = look_up(_OPTIMIZERS, name, 'optimizer')
  check_options(f'optimizer {name!r}', make, hyper, given=('mask',))  # `build` gives it
  if exclude_from_decay != 'auto':
    hyper['mask'] = look_up(_MASKS, exclude_from_decay, 'exclude_from_decay')

  def transform(group: Group) -> optax.GradientTransformationExtraArgs:
    rate = learning_rate if group.lr is None else group.lr
    rate = _delayed(_peak(rate, group.peak_of), group.freeze_steps)
    decay = weight_decay if group.weight_decay is None else group.weight_decay
    if decay < 0:
      raise UserError(f'weight_decay must not be negative: {decay}')
    tx = make(_scaled(rate, group.lr_scale), decay, **hyper)
    return _frozen(tx, group.freeze_steps) if group.freeze_steps else tx

  def labels(params: Params) -> dict[str, str]:
    for key in groups:
      if key not in params:
        raise UserError(f'optimizer group {key!r} has no parameters: there are {", ".join(params)}')
    return {key: key if key in groups else 'default' for key in params}

  transforms: dict[Hashable, optax.GradientTransformation] = {
    label: transform(group) for label, group in {'default': Group(), **groups}.items()
  }
  return _with_sam(optax.partition(transforms, labels), groups, sam)


def idle_sam_options(name: str) -> set[str]:
  """Options of SAM and noise-SAM that the one called `name`, or 'none', does not read."""
  read = keyword_only(look_up(_SAMS, name, 'sam.name')) if name != 'none' else {}
  return {key for wrapper in _SAMS.values() for key in keyword_only(wrapper)} - read.keys()


def _with_sam(tx, groups: Mapping[str, Group], options: Mapping[str, Any] | None):
  options = {'name': 'sam', **options} if options else {'name': 'none'}
  name = options.pop('name')
  idle = {key: options.pop(key) for key in idle_sam_options(name) if key in options}
  for other, wrapper in _SAMS.items():
    reason = f'with sam.name={name!r}: set sam.name={other!r}, or leave it'
    refuse_changed(wrapper, idle, prefix='sam', reason=reason)
  if name == 'none':
    return tx
  check_options(name, _SAMS[name], options)
  return _SAMS[name](tx, groups, **options)


def _peak(value: float | Schedule, steps: int) -> float | Schedule:
  """The highest of the first `steps` values, or `value` itself if that is 0."""
  return float(jnp.max(value(jnp.arange(steps)))) if callable(value) and steps else value


def _delayed(value: float | Schedule, steps: int) -> float | Schedule:
  """A frozen group's own count starts when it thaws; the schedule goes by the run's step."""
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
  """Drops the first `steps` updates of `tx`: parameters and state keep their bits."""

  def init(params):
    return _FrozenState(jnp.zeros([], jnp.int32), tx.init(params))

  def update(updates, state, params=None, **extra_args):
    frozen = state.count < steps
    updates, inner = tx.update(updates, state.inner, params, **extra_args)
    # Adding -0.0 is the identity for every float; +0.0 would turn -0.0 around.
    updates = jax.tree.map(lambda u: jnp.where(frozen, -0.0, u), updates)
    inner = jax.tree.map(lambda old, new: jnp.where(frozen, old, new), state.inner, inner)
    return updates, _FrozenState(optax.safe_increment(state.count), inner)

  return optax.GradientTransformationExtraArgs(init, update)
