"""Checkers for the adversarial attacks (archives b_pgd, b_plb)."""

import jax.numpy as jnp
import numpy as np

from clr_jax.evaluation.attacks.base import Classifier, Problem, logits_of
from clr_jax.evaluation.attacks.losses import image_loss, margin
from clr_jax.evaluation.attacks.norms import distance, flat
from clr_jax.evaluation.attacks.pgd import pgd, pgd_steps
from clr_jax.evaluation.attacks.plb import plb_steps
from clr_jax.evaluation.attacks.prox import PROX
from tests.golden.check_unmix import part

PLB = {'dt': 0.1, 'alpha': 0.1, 'beta': 0.75, 'gamma': 0.05, 'max_backtracks': 30}


def network(params, x):
  w1, b1, w2, b2 = params
  return jnp.tanh(flat(x) @ w1.T + b1[None]) @ w2.T + b2[None]


def classifier_of(case):
  return Classifier(network, tuple(jnp.asarray(case[k]) for k in ('W1', 'b1', 'W2', 'b2')))


def problem_of(case, norm, epsilon=np.inf):
  return Problem.of(classifier_of(case), case.x, case.y, norm=norm, epsilon=epsilon)


def case_names(case):
  return sorted({k.partition('__')[0] for k in case if '__' in k})


def b_pgd(case, close):
  classifier = classifier_of(case)
  close(logits_of(classifier, case.x), case.clean_logits, 'clean logits')
  names = case_names(case)
  assert {n.partition('_')[0] for n in names} == {'src', 'l2', 'linf'}
  for name in names:
    check = early_stop if name.startswith('src') else standard
    check(case, part(case, name), name, close)


def early_stop(case, expected, name, close):
  problem = problem_of(case, 'l2', expected.eps)
  options = {
    'steps': expected.iters,
    'step_size': expected.step,
    'loss': {'cross_entropy': 'cross_entropy', 'probability_margin': 'margin'}[expected.loss],
    'protocol': 'early_stop',
  }
  run = pgd_steps(problem, **options)
  close(jnp.stack([point - case.x for point in run]), expected.deltas, f'{name} deltas')
  result = pgd(problem, **options)
  np.testing.assert_array_equal(result.success, expected.success)
  close(result.images - case.x, expected.final_delta, f'{name} final_delta')
  # The archive writes 0 for a failure, the library +inf.
  close(jnp.where(result.success, result.distance, 0), expected.l2, f'{name} l2')
  close(distance(result.images - case.x, 'linf'), expected.linf, f'{name} linf')


def standard(case, expected, name, close):
  norm, _, kind = name.partition('_')
  problem = problem_of(case, norm, expected.eps)
  targets = expected.get('target')
  start = expected.eps * case[f'start_{norm}_unit'] if kind == 'rand' else None
  options = {'steps': expected.iters, 'step_size': expected.step}
  options |= {'targets': targets, 'start': start}
  points = jnp.stack(list(pgd_steps(problem, **options)))
  close(points, expected.iterates, f'{name} iterates')
  goal = jnp.asarray(case.y if targets is None else targets)
  losses = [image_loss('cross_entropy', logits_of(problem.classifier, p), goal) for p in points]
  close(jnp.stack(losses), expected.losses, f'{name} losses')
  predicted = jnp.argmax(logits_of(problem.classifier, points[-1]), axis=1)
  np.testing.assert_array_equal(predicted, expected.final_pred)
  result = pgd(problem, **options)
  wrong = jnp.argmax(case.clean_logits, axis=1) != case.y
  np.testing.assert_array_equal(result.success, (expected.final_pred != case.y) | wrong)


def b_plb(case, close):
  for name, prox in PROX.items():
    maps = [prox(case.prox_u, case.prox_center, t) for t in case.prox_lambdas]
    close(jnp.stack(maps), case[f'prox_{name}'], f'prox {name}')
  noise = (0.01 * 1.01**case.init_k)[:, None] * case.init_noise
  close(np.clip(case.x + noise, 0, 1), case.x_start, 'x_start')
  double = case.x.dtype == np.float64
  for name in case_names(case):
    expected = part(case, name)
    if 'iterates' not in expected:
      full(case, expected, name)
    elif name.endswith('_T1'):  # chaotic: float32 leaves the trajectory, float64 keeps to 1e-5
      if double:
        short(case, expected, name, close_to_1e5)
    else:
      states = short(case, expected, name, close)
      if double:
        backtracks = [state.backtracks for state in states]
        np.testing.assert_array_equal(backtracks, expected.n_backtracks)


def close_to_1e5(actual, expected, what):
  limit = 1e-5 * np.nanmax(np.abs(expected))
  np.testing.assert_allclose(actual, expected, rtol=0, atol=limit, err_msg=what)


def trajectory(case, expected):
  return plb_steps(
    problem_of(case, expected.norm),
    case.x_start,
    barrier=expected.barrier,
    prox_weight=expected.prox_weight,
    outer=expected.outer,
    inner=expected.inner,
    **PLB,
  )


def known(distances):
  """NaN in place of +inf: no misclassified point yet."""
  return np.where(np.isinf(distances), np.nan, distances)


def short(case, expected, name, close):
  states = list(trajectory(case, expected))
  best = known(np.stack([state.best_distance for state in states]))
  final = np.where(np.isnan(best[-1])[:, None], np.nan, states[-1].best)
  close(np.stack([state.point for state in states]), expected.iterates, f'{name} iterates')
  close(best, known(expected.best_dist_trace), f'{name} best_dist_trace')
  close(final, expected.final, f'{name} final')
  close(best[-1], known(expected.final_dist), f'{name} final_dist')
  return states


def full(case, expected, name):
  """Chaotic: only the final distances, within the spread of perturbed runs and 10 % beyond."""
  *_, state = trajectory(case, expected)
  found = np.asarray(state.best_distance)
  low, high = expected.final_dist_spread
  assert not (found < 0.9 * low).any() and not (found > 1.1 * high).any(), f'{name}: {found}'
  room = margin(logits_of(classifier_of(case), state.best), jnp.asarray(case.y))
  assert (room > -1e-5).all(), f'{name}: correctly classified by {room}'
