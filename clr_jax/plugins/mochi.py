"""MoCHi, mixtures of hard negatives: Kalantidis et al., https://arxiv.org/abs/2010.01028."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import jax.numpy as jnp

from clr_jax.core.bounds import Epochs, Rows, RowsOrZero
from clr_jax.core.errors import UserError
from clr_jax.core.options import OnlyWith
from clr_jax.core.types import Array, RunInfo
from clr_jax.losses import mochi as losses
from clr_jax.losses.scores import Scores
from clr_jax.ops.random import Stream, stream
from clr_jax.plugins.pipeline import Comparison, Facts, Plugin, start_step

_OFF = 'set plugins.mochi.num_mixed, num_query_mixed to 0'


@dataclasses.dataclass(frozen=True)
class Mochi(Plugin):
  """A configured `mochi`."""

  num_hard: int
  num_mixed: int
  num_query_mixed: int
  start: float
  order = 20

  def check(self, facts: Facts) -> Facts:
    """Rejects methods without negatives or with constant anchors."""
    if not facts.negatives:
      raise UserError(f'{facts.method} has no negatives to mix: {_OFF}')
    if not facts.free_anchor:
      raise UserError(
        f'the anchors of {facts.method} are constants, so that mixed negatives have no effect: '
        f'{_OFF}'
      )
    return facts

  def change_negatives(self, scores: Scores, compared: Comparison) -> Scores:
    """Appends the scores of the s + s' synthetic negatives of each query."""
    synthetic = self._mixtures(compared)
    return scores.with_negatives(compared.query, synthetic, where=compared.step >= self.start)

  def _mixtures(self, compared: Comparison) -> Array:
    """Mixtures [B, V, s + s', D] of the hardest rows for the query before `move_pair`."""
    raw, rows = compared.raw, compared.rows
    if self.num_hard > len(rows) - compared.own:
      raise UserError(
        f'plugins.mochi.num_hard={self.num_hard} exceeds the '
        f'{len(rows) - compared.own} negatives: lower it'
      )
    hard = rows[losses.hardest(raw, rows, self.num_hard, where=compared.where)]
    draws = losses.draw(
      stream(compared.rng, Stream.MIXED_NEGATIVES),
      raw.shape[:-1],
      num_hard=self.num_hard,
      num_mixed=self.num_mixed,
      num_query_mixed=self.num_query_mixed,
    )
    return jnp.concatenate(losses.mix(raw, hard, draws), -2)


def mochi(
  info: RunInfo,
  *,
  num_mixed: RowsOrZero = 0,
  num_query_mixed: RowsOrZero = 0,
  num_hard: Annotated[Rows, OnlyWith('num_mixed', 'num_query_mixed')] = 1024,
  start_epoch: Annotated[Epochs, OnlyWith('num_mixed', 'num_query_mixed')] = 10.0,
) -> Mochi | None:
  """Adds mixtures of the hardest negatives. `num_mixed` or `num_query_mixed` switch it on.

  Args:
    num_mixed: number s of mixtures of two hard negatives; 1024 in the paper, 0 = none.
    num_query_mixed: number s' of mixtures of the query and a hard negative; 128 in the paper, 0 =
      none.
    num_hard: number N of hardest negatives to mix from; 1024 (paper).
    start_epoch: first epoch with the plug-in; 10 on ImageNet-100, 15 on ImageNet (paper).

  Raises:
    UserError: num_hard=1 with mixtures of two, or a start after the end of the run.
  """
  if not num_mixed and not num_query_mixed:
    return None
  if num_mixed and num_hard < 2:
    raise UserError(f'plugins.mochi.num_hard={num_hard} leaves no pair to mix: set it >= 2')
  return Mochi(num_hard, num_mixed, num_query_mixed, start_step('mochi', start_epoch, info))
