"""Schedules: stateless, traceable functions of the integer step (or an array of steps).

The functions take the peak value first and everything else by keyword. Each form follows the code
base it names; `make` builds them by name from the sizes of a run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax.numpy as jnp

from clr_jax.core.bounds import Count, Epochs, Milestones, NonNegative, Share
from clr_jax.core.errors import UserError
from clr_jax.core.option_texts import described_by
from clr_jax.core.options import keyword_only, takes_options_of
from clr_jax.core.registry import Registry
from clr_jax.core.types import Schedule


def scaled_lr(
  batch_size: int,
  *,
  learning_rate: NonNegative,
  scaling: Literal['linear', 'sqrt', 'none'] = 'linear',
) -> float:
  """Peak learning rate for a global batch of `batch_size` images (not views).

  Args:
    learning_rate: base learning rate.
    scaling: 'linear' base * B / 256 (Goyal et al., https://arxiv.org/abs/1706.02677), 'sqrt'
      base * sqrt(B) (SimCLR, appendix B.1, https://arxiv.org/abs/2002.05709) or 'none'.
  """
  factors = {'linear': batch_size / 256, 'sqrt': math.sqrt(batch_size), 'none': 1.0}
  return learning_rate * factors[scaling]


def constant(peak: float) -> Schedule:
  """The same value at every step."""
  return lambda step: jnp.full_like(_real(step), peak)


def warmup_cosine(
  peak: float,
  *,
  total_steps: int,
  warmup_steps: int,
  end: NonNegative = 0.0,
  start: NonNegative = 0.0,
) -> Schedule:
  """Linear from `start` at step 0 to `peak` at `warmup_steps`, then half a cosine to `end`.

  SogCLR, MoCo v3 (the fractional epoch of their formulas is step / steps_per_epoch) and, with
  end = 0.001 * peak, VICReg and Barlow Twins. Without warm-up also DINO's weight decay.

  Args:
    peak: highest value.
    total_steps: length of the run.
    warmup_steps: length of the warm-up.
    end: final value.
    start: value at step 0.
  """
  _check_lengths(total_steps, warmup_steps, 'steps')

  def schedule(step):
    step = _real(step)
    warm = start + (peak - start) * (step / max(warmup_steps, 1))
    fraction = (step - warmup_steps) / max(total_steps - warmup_steps, 1)
    return jnp.where(step < warmup_steps, warm, _cosine(peak, end, fraction))

  return schedule


def simclr(
  peak: float, *, num_examples: Count, batch_size: Count, epochs: int, warmup_epochs: float = 10
) -> Schedule:
  """`warmup_cosine` with the step count of google-research/simclr, not N // B per epoch.

  Args:
    peak: highest value.
    num_examples: number of training images.
    batch_size: images (not views) in the global batch.
    epochs, warmup_epochs: lengths of the run and of the warm-up.
  """
  return warmup_cosine(
    peak,
    total_steps=num_examples * epochs // batch_size + 1,
    warmup_steps=round(warmup_epochs * num_examples // batch_size),
  )


def epoch_cosine(
  peak: float, *, epochs: int, steps_per_epoch: int, end: NonNegative = 0.0
) -> Schedule:
  """Half a cosine, constant within an epoch, without warm-up (SogCLR's linear evaluation).

  Args:
    peak: first value.
    epochs, steps_per_epoch: sizes of the run.
    end: final value.
  """
  whole = warmup_cosine(peak, total_steps=epochs, warmup_steps=0, end=end)
  return lambda step: whole(step // steps_per_epoch)


def supcontrast(
  peak: float,
  *,
  epochs: int,
  steps_per_epoch: int,
  warmup_epochs: float = 0,
  warmup_from: NonNegative = 0.01,
  decay_rate: Share = 0.1,
) -> Schedule:
  """Per-epoch cosine to peak * decay_rate^3, epochs counted from 1 (HobbitLong/SupContrast).

  The warm-up is linear per step, from `warmup_from` (absolute) to the cosine's value at the epoch
  `warmup_epochs`; official: 10 epochs if the batch is larger than 256, else none.

  Args:
    peak: highest value.
    epochs, steps_per_epoch, warmup_epochs: sizes of the run and of the warm-up.
    warmup_from: first value of a warm-up.
    decay_rate: cube root of the last value divided by the peak.
  """
  _check_lengths(epochs, warmup_epochs, 'epochs')
  end = peak * decay_rate**3

  def schedule(step):
    step = _real(step)
    warm_to = _cosine(peak, end, warmup_epochs / epochs)
    warm = warmup_from + step / max(warmup_epochs * steps_per_epoch, 1) * (warm_to - warmup_from)
    cosine = _cosine(peak, end, (step // steps_per_epoch + 1) / epochs)
    return jnp.where(step < warmup_epochs * steps_per_epoch, warm, cosine)

  return schedule


def tcl(peak: float, *, epochs: int, steps_per_epoch: int, decay_rate: Share = 0.1) -> Schedule:
  """SupContrast's cosine delayed by one epoch, as in TCL's code (epochs 0 and 1 are equal).

  Args:
    peak: highest value.
    epochs, steps_per_epoch: sizes of the run.
    decay_rate: cube root of the last value divided by the peak.
  """
  end = peak * decay_rate**3
  return lambda step: _cosine(peak, end, (_real(step) // steps_per_epoch - 1) / epochs)


def solo(
  peak: float,
  *,
  total_steps: int,
  warmup_steps: float,
  start: NonNegative = 3e-5,
  end: NonNegative = 0.0,
) -> Schedule:
  """Linear from `start` (absolute) to `peak` at step warmup_steps - 1, then cosine (solo-learn).

  With start = 0 and end = 1e-6 it is the learning rate of facebookresearch/dino.

  Args:
    peak: highest value.
    total_steps, warmup_steps: lengths of the run and of the warm-up.
    start: first value of a warm-up.
    end: final value.
  """
  _check_lengths(total_steps, warmup_steps, 'steps')

  def schedule(step):
    step = _real(step)
    warm = start + step * ((peak - start) / max(warmup_steps - 1, 1))
    fraction = (step - warmup_steps) / max(total_steps - warmup_steps, 1)
    return jnp.where(step < warmup_steps, warm, _cosine(peak, end, fraction))

  return schedule


@described_by(solo)
def solo_epoch(
  peak: float,
  *,
  epochs: int,
  steps_per_epoch: int,
  warmup_epochs: float = 10,
  start: NonNegative = 3e-5,
  end: NonNegative = 0.0,
) -> Schedule:
  """`solo` by epochs, with the whole first epoch at `start` (solo-learn's 2021-22 scripts)."""
  whole = solo(peak, total_steps=epochs, warmup_steps=warmup_epochs, start=start, end=end)
  return lambda step: whole(step // steps_per_epoch)


def step_decay(
  peak: float, *, milestones: Milestones, steps_per_epoch: int = 1, factor: Share = 0.1
) -> Schedule:
  """Multiplies by `factor` at each milestone in epochs (solo-learn's evaluation: 60 and 80).

  Args:
    peak: first value.
    milestones: epochs at which the value is multiplied.
    steps_per_epoch: steps per epoch of the run.
    factor: multiplier of the value at each milestone.
  """
  steps = [round(m * steps_per_epoch) for m in milestones]
  return lambda step: peak * jnp.power(factor, sum(_real(step) >= s for s in steps))


def check_milestones(milestones: Sequence[float], epochs: float, *, prefix: str = '') -> None:
  """Raises a UserError for a milestone of `step_decay` after the end; `prefix` precedes the key."""
  if late := [milestone for milestone in milestones if milestone >= epochs]:
    raise UserError(
      f'{prefix}milestones: {late[0]:g} has no effect in a run of {epochs:.3g} epochs: leave it '
      f'out, or train for more epochs'
    )


def cosine_gamma(gamma_min: float, decay_epochs: int) -> Schedule:
  """SogCLR's gamma by epoch: half a cosine from 1 to `gamma_min` at `decay_epochs`, then constant.

  LibAUC, https://github.com/Optimization-AI/LibAUC.
  """
  return warmup_cosine(1.0, total_steps=decay_epochs, warmup_steps=0, end=gamma_min)


def ema_cosine(base: float, *, total_steps: int, final: float = 1.0) -> Schedule:
  """EMA coefficient final - (final - base) (1 + cos(pi s / S)) / 2 after s updates.

  BYOL, appendix (https://arxiv.org/abs/2006.07733), MoCo v3, DINO, solo-learn.
  """
  return warmup_cosine(base, total_steps=total_steps, warmup_steps=0, end=final)


SIZES = ('total_steps', 'steps_per_epoch', 'epochs', 'warmup_epochs', 'warmup_steps')
"""Parameters of the forms that depend on the sizes of a run."""


def _of_run(form: Callable[..., Schedule]) -> Callable[..., Schedule]:
  """Makes a run's schedule from a function of this module by filling in its `SIZES`."""

  @takes_options_of(form, without=SIZES)
  def schedule(
    *,
    peak: float,
    steps_per_epoch: int,
    total_steps: int,
    warmup_epochs: Epochs = 10.0,
    **options: Any,
  ) -> Schedule:
    """Builds the schedule of a run.

    Args:
      peak: highest value.
      steps_per_epoch, total_steps: sizes of the run.
      warmup_epochs: epochs of linear warm-up; 10 (all code bases named here); no effect on
        schedules without warm-up.
      options: the other keyword arguments of the function.

    Raises:
      UserError: a warm-up longer than the run, or milestones after its end.
    """
    sizes = (
      total_steps,
      steps_per_epoch,
      math.ceil(total_steps / steps_per_epoch),
      warmup_epochs,
      round(warmup_epochs * steps_per_epoch),
    )
    taken = keyword_only(form)
    filled_in = {k: v for k, v in zip(SIZES, sizes, strict=True) if k in taken}
    length = total_steps / steps_per_epoch
    if filled_in.keys() & {'warmup_epochs', 'warmup_steps'} and sizes[-1] > total_steps:
      epochs = f'{length:.3g}'
      raise UserError(
        f'schedule.warmup_epochs={warmup_epochs} exceeds the length of the run in epochs, '
        f'{epochs}: lower it to at most {epochs}, or train for more epochs'
      )
    check_milestones(options.get('milestones', ()), length, prefix='schedule.')
    return form(peak, **filled_in, **options)

  return schedule


REGISTRY: Registry[Callable[..., Schedule]] = Registry(
  'schedule',
  {
    f.__name__: _of_run(f)
    for f in (
      constant, warmup_cosine, epoch_cosine, simclr, supcontrast, tcl, solo, solo_epoch, step_decay,
    )
  },
)  # fmt: skip
names, factory, make = REGISTRY.names, REGISTRY.factory, REGISTRY.make


def _real(step):
  """Casts a step: a traced int32 divided by a number would be float32 even in float64 mode."""
  return jnp.asarray(step, float)


def _cosine(start, end, fraction):
  """Half a cosine: `start` at fractions up to 0, `end` from fraction 1 on."""
  return end + (start - end) * (1 + jnp.cos(jnp.pi * jnp.clip(fraction, 0.0, 1.0))) / 2


def _check_lengths(total: float, warmup: float, unit: str) -> None:
  if not 0 <= warmup <= total:
    raise UserError(
      f'warmup_{unit}={warmup} must be from 0 to the length of the run, {total} {unit}: change it '
      'or train longer'
    )
