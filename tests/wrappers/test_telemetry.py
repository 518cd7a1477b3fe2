"""Telemetry: its numbers are numpy's, and nothing of the training notices it."""

import functools
import inspect
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clr_jax import methods, models
from clr_jax.core.errors import UserError
from clr_jax.core.metrics import Mean, Sum
from clr_jax.core.types import Batch, Out, RunInfo
from clr_jax.experiment.method import make_method
from clr_jax.wrappers.online_probe import online_probe
from clr_jax.wrappers.telemetry import STEPS, telemetry
from tests import tiny, toy
from tests.method_cases import NAMES, SKELETONS

B, D, K, EVERY = 6, 5, 12, 3
SIZES = RunInfo(
  num_examples=20, num_classes=3, batch_size=B, num_views=2, steps_per_epoch=1, total_steps=9
)
LABEL = np.array([0, 1, 0, 2, 1, 0], np.int32)
EDGES = np.linspace(-1, 1, 41)


def unit(x):
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def embeddings(views=2):
  rng = np.random.default_rng(0)
  online, target = (rng.normal(size=[B, views, D]) for _ in range(2))
  target += online  # positives that are positives
  return online, target, unit(rng.normal(size=[2, K, D]))


# ---------------------------------------------------------------- numpy's scores
# Every function: -> [(positive scores, negative scores) of each anchor], temperature, k1, k2.


def in_batch(z, labels=None, temperature=0.1, k1=0.0, k2=1.0):
  rows = unit(z).reshape(-1, D)
  sample = np.repeat(np.arange(B), z.shape[1])
  group = sample if labels is None else labels[sample]
  anchors = []
  for i, row in enumerate(rows):
    s, other = rows @ row, np.arange(len(rows)) != i
    anchors.append((s[other & (group == group[i])], s[group != group[i]]))
  return anchors, temperature, k1, k2


def against_queue(queries, keys, queue):
  return [([q @ k], queue @ q) for q, k in zip(unit(queries), unit(keys), strict=True)]


def moco(online, target, queue):
  return against_queue(online[:, 0], target[:, 0], queue[0]), 0.07, 0.0, 1.0


def moco_v2plus(online, target, queue):
  anchors = [against_queue(online[:, v], target[:, 1 - v], queue[1 - v]) for v in range(2)]
  return anchors[0] + anchors[1], 0.2, 0.0, 1.0


def nnclr(online, target, queue):
  anchors = []
  for v in range(2):
    neighbor = queue[0][np.argmax(unit(target[:, v]) @ queue[0].T, -1)]
    scores = neighbor @ unit(online[:, 1 - v]).T
    anchors += [([s[b]], np.delete(s, b)) for b, s in enumerate(scores)]
  return anchors, 0.2, 0.0, 1.0


METHODS = {
  'simclr': lambda z, target, queue: in_batch(z, temperature=0.5),
  'sogclr': lambda z, target, queue: in_batch(z, temperature=0.3),
  'dcl': lambda z, target, queue: in_batch(z),
  'supcon': lambda z, target, queue: in_batch(z, LABEL),
  'tcl': lambda z, target, queue: in_batch(z, LABEL, k1=5000.0),
  'moco': moco,
  'moco_v2plus': moco_v2plus,
  'nnclr': nnclr,
}


def statistics(anchors, tau, k1, k2):
  """The definitions, anchor by anchor."""

  def mean(values):
    return np.mean([v for v in values if np.isfinite(v)])

  def responses(k1, k2):
    pull, push = [], []
    for p, n in ((np.asarray(p), n) for p, n in anchors):
      d = np.exp(p / tau).sum() + k1 * np.exp(-p).sum() + k2 * np.exp(n / tau).sum()
      y = tau * k1 * np.exp(-p) / d
      pull.append(np.abs(np.exp(p / tau) / d - 1 / len(p) - y).mean())
      push.append((k2 * np.exp(n / tau) / d).mean())
    return mean(pull), mean(push)

  def counts(values):
    inside = np.histogram(values, EDGES)[0]
    return [np.sum(values < -1), *inside, np.sum(values > 1)]

  pos = np.array([np.mean(p) for p, _ in anchors])
  found = {
    'neg_mean': mean([np.mean(n) for _, n in anchors]),
    'neg_var': mean([np.var(n, ddof=1) for _, n in anchors]),
    'pos_mean': pos.mean(),
    'pos_var': pos.var(),
    'exp_neg': mean([np.exp(np.asarray(n) / tau).mean() for _, n in anchors]),
    'exp_pos': mean([np.exp(np.asarray(p) / tau).mean() for p, _ in anchors]),
    'pos_hist': counts(np.concatenate([p for p, _ in anchors])),
    'neg_hist': counts(np.concatenate([n for _, n in anchors])),
    'temperature': tau,
  }
  found['positive_response'], found['negative_response'] = responses(0.0, 1.0)
  if k1:
    found['positive_response_tcl'], found['negative_response_tcl'] = responses(k1, k2)
  return found


def geometry(online, target):
  z = unit(online)
  first, second = (z[:, 0], z[:, 1]) if z.shape[1] > 1 else (z[:, 0], unit(target)[:, 0])
  pairs = ~np.eye(B, dtype=bool)
  each = []
  for v in range(z.shape[1]):
    square = ((z[:, None, v] - z[None, :, v]) ** 2).sum(-1)
    each.append(np.log(np.exp(-2 * square[pairs]).mean()))
  alignment = (np.linalg.norm(first - second, axis=-1) ** 2).mean()
  return {'alignment': alignment, 'uniformity': np.mean(each)}


def make(name):
  """(method with telemetry, its numbers' inputs)."""
  small = {'queue_length': K} if name in ('moco', 'moco_v2plus', 'nnclr') else {}
  method = methods.factory(name)(toy.Tiny(), SIZES, **small)
  return telemetry(method, SIZES, enabled=True, every=EVERY)


def metrics_of(name, step):
  online, target, queue = embeddings()
  if name == 'moco':  # asymmetric: one query and one key
    online, target = online[:, :1], target[:, 1:]
  rows = queue if name == 'moco_v2plus' else queue[0]
  state = {
    'queue': {'rows': jnp.asarray(rows), 'pointer': jnp.zeros([], jnp.int32)},
    'per_example': {'log_u': jnp.full(1024, -jnp.inf)},
  }
  batch = Batch(label=LABEL, index=np.arange(B, dtype=np.int32))
  out = Out(online, target, online)
  run = jax.jit(lambda step: make(name).loss(out, state, batch, jax.random.key(0), step)[1:])
  carry, metrics = run(jnp.int32(step))
  found = {k.removeprefix('telemetry/'): v for k, v in metrics.items() if k.startswith('telemetry')}
  assert all(
    isinstance(v, Sum if np.ndim(v.total) else Mean) for k, v in found.items() if k != 'steps'
  )
  return found, carry, (online, target, queue)


# One of each kind: a batch, a table, a loss with its own responses, a queue, no negatives.
KINDS = ('simclr', 'sogclr', 'tcl', 'moco', 'byol')


@pytest.mark.parametrize(
  'name',
  [pytest.param(n, marks=[pytest.mark.slow] * (n not in KINDS)) for n in [*METHODS, 'byol']],
)
def test_numbers_are_numpys(name, x64):
  found, carry, arrays = metrics_of(name, 2 * EVERY)
  expected = {'steps': 1.0, **geometry(*arrays[:2])}
  if name in METHODS:
    expected |= statistics(*METHODS[name](*arrays))
  if name == 'sogclr':
    log_u = np.asarray(carry['per_example']['log_u'])
    expected |= {'log_u_mean': log_u.mean(), 'log_u_std': log_u.std()}
  assert found.keys() == expected.keys()
  for key, value in expected.items():
    np.testing.assert_allclose(found[key].total, value, rtol=1e-9, atol=1e-12, err_msg=key)
    assert found[key].count == 1


def test_other_steps_do_not_count():
  found, _, _ = metrics_of('simclr', EVERY + 1)
  assert all(not np.any(value.total) and value.count == 0 for value in found.values())


# ---------------------------------------------------------------- training
def build(name, every, backbone=None):
  """(init(key) -> state, step) of a small network; every=0: without telemetry."""
  method = toy.method(name, backbone)
  method = telemetry(method, toy.INFO, enabled=bool(every), every=every)
  method = online_probe(method, toy.INFO)
  return toy.training(method, toy.views_for(name))


class Run(NamedTuple):
  """States before and after each of 4 steps, by one program; every second step is measured."""

  states: list
  rows: list
  cost: Any


@functools.cache
def train(name, measured):
  # Convolutions, for the share of a step's cost.
  init, step = build(name, 2 if measured else 0, models.make('resnet_tiny', width=2))
  state, rows = jax.jit(init)(jax.random.key(0)), []
  program = jax.jit(step).lower(state, toy.batch(0)).compile()
  states = [state]
  for i in range(4):
    state, row = program(state, toy.batch(i))
    states.append(state)
    rows.append(row)
  return Run(states, rows, program.cost_analysis())


# `train` keeps its runs: one worker for each method.
TRAINED = [
  pytest.param('moco', marks=[pytest.mark.slow, pytest.mark.xdist_group('telemetry_moco')]),
  pytest.param('sogclr', marks=[pytest.mark.weekly, pytest.mark.xdist_group('telemetry_sogclr')]),
]


@pytest.mark.parametrize('name', TRAINED)
def test_training_does_not_notice(name):
  plain, measured = train(name, False), train(name, True)
  ends = [run.states[-1].replace(key=0) for run in (plain, measured)]
  jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b), *ends)
  for row, more in zip(plain.rows, measured.rows, strict=True):
    assert all(np.array_equal(value, more[key]) for key, value in row.items())
    new = more.keys() - row.keys()
    assert new and all(key.startswith('telemetry/') for key in new)


@pytest.mark.parametrize('name', TRAINED)
def test_below_two_percent_of_a_step_at_the_default_cadence(name):
  """Even of this step, whose network is next to nothing. XLA counts the dearer branch in full."""
  plain, measured = (train(name, m).cost for m in (False, True))
  every = inspect.signature(telemetry).parameters['every'].default
  for unit_of in ('flops', 'bytes accessed'):
    share = (measured[unit_of] - plain[unit_of]) / plain[unit_of] / every
    assert 0 < share < 0.02, (unit_of, share)


def norm(*trees):
  """l2 norm of the difference of two trees, or of one."""
  leaves = [np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)]) for tree in trees]
  return np.linalg.norm(leaves[0] - leaves[1] if len(leaves) == 2 else leaves[0])


@pytest.mark.parametrize('name', TRAINED)
def test_measured_steps(name):
  states, rows, _ = train(name, True)
  on = [1, 0, 1, 0]
  for key in ('neg_var', 'pos_hist', 'grad_norm/backbone'):
    assert [float(row[f'telemetry/{key}'].count) for row in rows] == on
  rows = [{k: v.total for k, v in row.items() if k.startswith('telemetry/')} for row in rows]
  assert [float(row[STEPS]) for row in rows] == on
  for state, after, row in zip(states, states[1:], rows, strict=False):
    assert all(np.any(row[f'telemetry/{key}']) == row[STEPS] for key in ('neg_var', 'pos_hist'))
    for group in state.params:
      # The first step of SGD without momentum or decay is -learning rate x gradient.
      expected = norm(after.params[group], state.params[group]) / 0.1
      if state is states[0]:
        np.testing.assert_allclose(row[f'telemetry/grad_norm/{group}'], expected, rtol=1e-4)
      assert (row[f'telemetry/grad_norm/{group}'] > 0) == row[STEPS]
  if name == 'moco':
    online = {k: states[2].params[k] for k in states[2].state['target']['params']}
    expected = norm(online, states[2].state['target']['params']) / norm(online)
    np.testing.assert_allclose(rows[2]['telemetry/ema_distance'], expected, rtol=1e-5)
    assert float(rows[0]['telemetry/ema_distance']) == 0 < expected


WITHOUT_NEGATIVES = {'arb', 'barlow_twins', 'byol', 'dino', 'ressl', 'simsiam', 'supervised'}
WITHOUT_NEGATIVES |= {'swav', 'tico', 'vicreg', 'w_mse'}


@pytest.mark.parametrize(
  'name',
  [
    pytest.param(n, marks=pytest.mark.slow if n in SKELETONS else pytest.mark.weekly) for n in NAMES
  ],
)
def test_every_method_has_what_it_can_have(name):
  init, step = build(name, 2)
  state = jax.eval_shape(init, jax.random.key(0))
  _, row = jax.eval_shape(step, state, toy.batch(0))
  assert 'telemetry/uniformity' in row and 'telemetry/grad_norm/backbone' in row
  assert ('telemetry/neg_hist' in row) == (name not in WITHOUT_NEGATIVES)
  assert ('telemetry/ema_distance' in row) == ('target' in state.state)
  assert ('telemetry/log_u_mean' in row) == ('log_u' in state.state.get('per_example', {}))


@pytest.mark.parametrize(
  'options', [{'every': 0}, {'bins': 0}, {'lowest': 1.0}, {'highest': float('inf')}]
)
def test_bad_options_are_refused(options):
  config = tiny.get_config('simclr')
  config.telemetry.update({'enabled': True, **options})
  with pytest.raises(UserError, match=r'telemetry\.'):
    make_method(config, toy.Tiny(), toy.INFO)
