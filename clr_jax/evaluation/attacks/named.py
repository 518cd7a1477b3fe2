"""Attacks of `robustness` by name, with the settings of their sources."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np

from clr_jax.core.types import Array
from clr_jax.evaluation.attacks.base import Problem
from clr_jax.evaluation.attacks.norms import Norm
from clr_jax.evaluation.attacks.pgd import pgd
from clr_jax.evaluation.attacks.plb import plb
from clr_jax.evaluation.attacks.starts import gaussian_start
from clr_jax.evaluation.attacks.worst_case import auto_attacks, worst_case

Pool = tuple[np.ndarray, np.ndarray]  # all attacked images, uint8, and their labels


class NamedAttack(NamedTuple):
  """An attack by name.

  Attributes:
    norm: norm of the distances.
    run: (problem, keys [B], pool, **options) -> distances [B], 0 if misclassified without attack
      and infinite if the attack failed; pool: all attacked images, uint8 [N, H, W, C], and their
      labels [N].
    budgets: 'each' runs it for each budget, 'largest' only for the largest; 'none' finds the
      smallest perturbation.
    options: names of its options.
  """

  norm: Norm
  run: Callable[..., Array]
  budgets: Literal['each', 'largest', 'none']
  options: tuple[str, ...]


def _pgd(problem: Problem, keys: Array, pool: Pool, *, restarts: int, **options: Any) -> Array:
  del pool
  random = {'restarts': restarts, 'random_start': restarts > 1}
  return pgd(problem, key=keys, **random, **options).distance


def _early_stop(problem: Problem, keys: Array, pool: Pool, **options: Any) -> Array:
  del keys, pool
  return pgd(problem, protocol='early_stop', **options).distance


def _plb(problem: Problem, keys: Array, pool: Pool, **options: Any) -> Array:
  others = pool[0].astype(np.float32) / 255, pool[1]
  start = gaussian_start(problem, key=keys, pool=others)
  return plb(problem, start=start, **options).distance


def _worst_case(problem: Problem, keys: Array, pool: Pool, *, steps: int) -> Any:
  del pool
  attacks = auto_attacks(steps=steps, queries=50 * steps)
  size = len(problem.images)
  return worst_case(problem, attacks=attacks, batch_size=size, key=keys).distance


_PLB = ('prox_weight', 'barrier', 'outer', 'inner')
ATTACKS: Mapping[str, NamedAttack] = {
  **{
    f'pgd_{norm}': NamedAttack(norm, _pgd, 'each', ('steps', 'restarts', 'loss'))
    for norm in ('l2', 'linf')
  },
  'early_stop_l2': NamedAttack('l2', _early_stop, 'largest', ('steps', 'loss')),
  **{f'plb_{norm}': NamedAttack(norm, _plb, 'none', _PLB) for norm in ('l2', 'linf', 'l1', 'l0')},
  **{
    f'worst_case_{norm}': NamedAttack(norm, _worst_case, 'largest', ('steps',))
    for norm in ('l2', 'linf')
  },
}
