"""Global contrastive loss between two modalities, such as images and texts: LibAUC 2.

SogCLR (https://arxiv.org/abs/2202.12387) and iSogCLR (https://arxiv.org/abs/2305.11965) as
published for pairs: the negatives of an image are the texts of the other pairs, and conversely.

  state = init_state(num_pairs)
  result = bimodal_sogclr(z_image, z_text, index, state)  # differentiate result.loss
  state = result.state
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

from clr_jax.core.errors import UserError
from clr_jax.core.names import check_name
from clr_jax.core.types import Array, State
from clr_jax.losses.global_contrastive import FirstVisit, first_visit_gamma, update_log_u
from clr_jax.losses.temperatures import temperature_step
from clr_jax.ops import tables
from clr_jax.ops.similarity import at_least_float32, logsumexp, similarity

Scheme = Literal['global_constant', 'individual_learnable', 'global_learnable']
FLOOR = 1e-20  # smallest stored u


class Bimodal(NamedTuple):
  """Result of the bimodal loss.

  Attributes:
    loss: [], the surrogate whose gradient is the estimator's; may be negative.
    state: state of the next step, without gradient.
    objective: [], mean of T log u over pairs and sides, which training minimizes (for logging).
  """

  loss: Array
  state: State
  objective: Array


class _Side(NamedTuple):
  loss: Array  # [B]
  slope: Array  # [B], log u - mean(w H) / T
  rows: dict[str, Array]  # [B] each, new rows of this side's tables


def init_state(
  num_examples: int, *, scheme: Scheme = 'global_constant', temperature: float = 0.01
) -> State:
  """{'a': tables, 'b': tables} of `num_examples` pairs, for one loss with the same scheme.

  Each table has `tables.num_rows(num_examples)` numbers: 'log_u' (relative to 'shift'), 'shift'
  and, if temperatures are individual, 'temperature' and 'momentum'. Below the key 'per_example' of
  a train state they are split over the devices.

  Args:
    num_examples: valid values of `index` are 0 to num_examples - 1.
    scheme: see `bimodal_sogclr`.
    temperature: initial value of individual temperatures, .01 (LibAUC).
  """
  check_name(get_args(Scheme), scheme, 'temperature scheme')

  def side():
    average = {'log_u': tables.init_log(num_examples), 'shift': tables.init(num_examples, 0.0)}
    if scheme != 'individual_learnable':
      return average
    own = tables.init(num_examples, temperature)
    return {**average, 'temperature': own, 'momentum': tables.init(num_examples, 0.0)}

  return {'a': side(), 'b': side()}


def bimodal_sogclr(
  z_a: Array,
  z_b: Array,
  index: Array,
  state: State,
  *,
  scheme: Scheme = 'global_constant',
  temperature: float | Array | None = None,
  gamma: float | Array = 0.9,
  first_visit: FirstVisit = 'per_index',
  mean_negatives: bool = False,
  rho: float = 6.0,
  eta: float = 0.01,
  beta: float = 0.9,
  temperature_range: tuple[float, float] = (0.005, 0.05),
) -> Bimodal:
  """Bimodal SogCLR and iSogCLR over the global batch; gradients flow to z_a and z_b.

  H_ij = <a_i, b_j> - <a_i, b_i>, on side b with a and b exchanged; g = mean over j != i of
  exp(H/T); u <- max((1 - gamma) u + gamma g, 1e-20); the loss is the mean of both sides' mean_i
  sum_j sg(exp(H/T) / u) H. u is stored over exp(shift), shift = the largest H/T so far.

  Args:
    z_a, z_b: [B, D] unit vectors of B >= 2 pairs.
    index: [B], numbers of the pairs; the same in every epoch.
    state: from `init_state` with the same scheme, or from the step before.
    scheme: 'global_constant' (one T), 'individual_learnable' (one T a pair and side, which the
      state holds and each step updates), 'global_learnable' (one T, a parameter: the loss has a
      gradient with respect to it).
    temperature: > 0, for the global schemes; .01 (LibAUC) if None and constant.
    gamma: weight of the new value of u, .9 (LibAUC).
    first_visit: see `first_visit_gamma`; LibAUC: 'per_batch', for each side.
    mean_negatives: False (LibAUC) sums over j; True divides by B - 1, so that the gradient's scale
      and a learning rate do not depend on the batch size.
    rho: robustness of learned temperatures, larger = lower temperatures: 6 (LibAUC).
    eta, beta: step size .01 and weight of the new gradient .9 of individual temperatures (LibAUC).
    temperature_range: (lowest, highest) individual temperature (LibAUC).

  Raises:
    UserError: for an unknown scheme, a temperature or state that does not belong to the scheme, or
      batches that are not two of one shape with B >= 2.

  Example:
    >>> z, index = jnp.eye(3), jnp.arange(3)
    >>> found = bimodal_sogclr(z, z, index, init_state(3), temperature=0.5)
    >>> print(f'{found.objective:.3f}')
    -1.000
  """
  individual = scheme == 'individual_learnable'
  _check(z_a, z_b, state, scheme, temperature)
  z_a, z_b = at_least_float32(z_a), at_least_float32(z_b)
  scores = similarity(z_a, z_b)
  positive = jnp.diagonal(scores)[:, None]
  given = jnp.asarray(0.01 if temperature is None else temperature, scores.dtype)
  loss, stored_u, objective, new = 0.0, 0.0, 0.0, {}
  for name, matrix in (('a', scores), ('b', scores.T)):
    old = {key: table[index] for key, table in state[name].items()}
    own = old['temperature'] if individual else jnp.broadcast_to(given, positive.shape[:1])
    own = jax.lax.stop_gradient(own)
    weight = first_visit_gamma(old['log_u'], gamma, first_visit)
    side = _side(matrix - positive, old, own, weight)
    if individual:
      side.rows['temperature'], side.rows['momentum'] = temperature_step(
        own, old['momentum'], rho + side.slope, eta=eta, beta=beta, bounds=temperature_range
      )
    new[name] = jax.lax.stop_gradient(_write(state[name], index, side.rows))
    loss += side.loss.mean() / 2
    stored_u += jnp.exp(side.rows['log_u']).mean() / 2
    objective += jnp.mean(own * (side.rows['log_u'] + side.rows['shift'])) / 2
  if mean_negatives:
    loss /= len(z_a) - 1
  if scheme == 'global_learnable':
    # As in LibAUC: u as it is stored, over exp(shift).
    loss = loss * jax.lax.stop_gradient(given) + given * (rho + stored_u)
  return Bimodal(loss, new, objective)


def _side(hardness: Array, old: dict[str, Array], temperature: Array, gamma: Array) -> _Side:
  size = len(hardness)
  other = ~jnp.eye(size, dtype=bool)
  fixed = jax.lax.stop_gradient(hardness) / temperature[:, None]
  shift = jnp.maximum(old['shift'], jnp.max(fixed, -1))
  log_g = logsumexp(fixed, other) - shift - jnp.log(size - 1)
  log_u = update_log_u(old['log_u'] + old['shift'] - shift, log_g, gamma)
  log_u = jnp.maximum(log_u, jnp.log(FLOOR))
  exponent = jnp.where(other, fixed - (shift + log_u)[:, None], -jnp.inf)
  loss = jnp.sum(jax.lax.stop_gradient(jnp.exp(exponent)) * hardness, -1)
  slope = log_u + shift - jax.lax.stop_gradient(loss) / temperature / (size - 1)
  return _Side(loss, slope, {'log_u': log_u, 'shift': shift})


def _write(old: dict[str, Array], index: Array, rows: dict[str, Array]) -> dict[str, Array]:
  """This side's tables after the step; pairs that occur twice in the batch get the mean."""
  # Shifts never fall: the largest wins, and u follows it.
  shift = old['shift'].at[index].max(rows['shift'].astype(old['shift'].dtype))
  log_u = rows['log_u'] + rows['shift'] - shift[index]
  new = {'shift': shift, 'log_u': tables.set_log_mean(old['log_u'], index, log_u)}
  others = {k: tables.set_mean(old[k], index, rows[k]) for k in rows if k not in new}
  return {**new, **others}


def _check(z_a: Array, z_b: Array, state: State, scheme: Scheme, temperature) -> None:
  check_name(get_args(Scheme), scheme, 'temperature scheme')
  if z_a.shape != z_b.shape or z_a.ndim != 2 or len(z_a) < 2:
    raise UserError(
      f'bimodal_sogclr takes two batches [B, D] of B >= 2 pairs, not {z_a.shape} and {z_b.shape}'
    )
  individual = scheme == 'individual_learnable'
  if ('temperature' in state['a']) != individual:
    raise UserError(f'the state belongs to another scheme: call init_state with scheme={scheme!r}')
  if individual and temperature is not None:
    raise UserError('individual temperatures are in the state: pass `temperature` to init_state')
  if scheme == 'global_learnable' and temperature is None:
    raise UserError("scheme='global_learnable' needs the parameter `temperature`")
