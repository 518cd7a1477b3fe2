"""Checker for Un-Mix (archive b_unmix)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from clr_jax import methods
from clr_jax.augment import unmix
from clr_jax.core.types import Batch, RunInfo
from clr_jax.losses.queue import queue_infonce
from clr_jax.losses.scores import batch_scores, infonce
from clr_jax.ops import ema
from clr_jax.ops.similarity import l2_normalize, similarity
from clr_jax.wrappers.un_mix import by_shares, un_mix
from tests.golden.check_queue import queue_of, same_queue

STEP = jnp.zeros([], jnp.int32)


class Flat(nn.Module):
  """The archive's first layer, behind a flattening in torch's order (C, H, W)."""

  num_features: int

  @nn.compact
  def __call__(self, x, *, train, groups=1):
    del train, groups
    rows = jnp.moveaxis(x, -1, 1).reshape(len(x), -1)
    return nn.tanh(nn.Dense(self.num_features, name='linear')(rows))


def part(case, name):
  """The arrays `<name>__<array>`."""
  start = f'{name}__'
  return type(case)({k.removeprefix(start): v for k, v in case.items() if k.startswith(start)})


def weights(case, who):
  """'q' or 'k': parameters of the chain of `Flat` and a linear projector."""

  def layer(n):
    return {'kernel': jnp.asarray(case[f'{who}_l{n}w'].T), 'bias': case[f'{who}_l{n}b']}

  return {'backbone': {'linear': layer(1)}, 'projector': {'linear0': layer(2)}}


def b_unmix(case, close):
  for row in case.bbox_table:
    lam, center, expected = row[0], row[1:3].astype(np.int32), row[3:]
    box, left_over = unmix.cut_box(lam, center, height=32, width=32)
    close([*box, left_over], expected, f'bbox_table {lam}')
  kinds = {k.partition('__')[0] for k in case if '__' in k}
  assert kinds >= {'global_sym', 'global_asym', 'region_sym', 'region_asym', 'inbatch'}
  for kind in sorted(kinds - {'inbatch'}):
    step(case, part(case, kind), kind, close)
  in_batch(case, part(case, 'inbatch'), close)


def mixture(case, expected, kind, images, close):
  region = kind.startswith('region')
  drawn = unmix.Draw(
    region=jnp.asarray(region),
    lam=jnp.asarray(expected.lam_drawn, images.dtype),
    center=jnp.asarray(expected.get('center', np.zeros(2)), jnp.int32),
  )
  if region:
    box, _ = unmix.cut_box(drawn.lam, drawn.center, height=images.shape[1], width=images.shape[2])
    np.testing.assert_array_equal(box, expected.bbox)
  mixed = unmix.mix(images, drawn)
  close(jnp.moveaxis(mixed.images, -1, 1), expected.mixed, f'{kind} mixed')
  close(mixed.lam, expected.lam, f'{kind} lam')
  return mixed


def step(case, expected, kind, close):
  first, second = (jnp.moveaxis(jnp.asarray(x), 1, -1) for x in (case.im1, case.im2))
  mixed = mixture(case, expected, kind, first, close)
  symmetric = kind.endswith('_sym')
  size, width = len(first), len(case.q_l1b)
  info = RunInfo(1000, None, size, num_views=2, steps_per_epoch=1, total_steps=10)
  method = methods.factory('moco')(
    Flat(width),
    info,
    temperature=case.tau,
    queue_length=len(case.queue),
    momentum=case.momentum,
    symmetric=symmetric,
    out_dim=len(case.q_l2b),
  )
  wrapped = un_mix(method, info, enabled=True)
  views = {'global': jnp.stack([first, second], 1), 'mixed': mixed.images[:, None]}
  batch = Batch(views=views)
  params = weights(case, 'q')
  # The archive averages before the keys; the method does so at the end of the step before.
  target = {'params': ema.update(weights(case, 'k'), params, case.momentum), 'batch_stats': {}}
  state = {'batch_stats': {}, 'target': target, 'queue': queue_of(case.queue)}

  @jax.jit
  def run(params):
    def loss(params):
      out, carry = method.embed(params, state, batch, jax.random.key(0), STEP)
      out = out._replace(extra={**out.extra, 'mixed_lam': mixed.lam})
      value, more, _ = wrapped.loss(out, state, batch, jax.random.key(0), STEP)
      return value, (out, {**carry, **more})

    (value, (out, carry)), grad = jax.value_and_grad(loss, has_aux=True)(params)
    return value, grad, out, wrapped.post_update(params, state, carry, STEP)[1]['queue']

  value, grad, out, queue = run(params)
  close(value, expected.loss, f'{kind} loss')
  for n, (module, layer) in enumerate((('backbone', 'linear'), ('projector', 'linear0')), 1):
    close(grad[module][layer]['kernel'].T, expected[f'grad_l{n}w'], f'{kind} grad_l{n}w')
    close(grad[module][layer]['bias'], expected[f'grad_l{n}b'], f'{kind} grad_l{n}b')
  same_queue(queue, expected.queue_after, out.target[..., 0].size % len(case.queue), close, kind)
  z = out.extra['mixed'][:, 0]
  close(l2_normalize(z), expected.q_mixed, f'{kind} q_mixed')
  terms = [
    queue_infonce(query, out.target[:, -1 - v], case.queue, temperature=case.tau).mean()
    for v in range(out.online.shape[1])
    for query in (out.online[:, v], z, z[::-1])
  ]
  close(terms, expected.loss_terms, f'{kind} loss_terms')
  # Weight of image i in mixture j for a loss that is linear in targets.
  shares = by_shares(lambda rows: rows, jnp.eye(size, dtype=first.dtype), mixed.lam)
  close(shares, expected.target_matrix, f'{kind} target_matrix')


def in_batch(case, expected, close):
  q, k, lam = jnp.asarray(expected.q), expected.k, expected.lam

  def loss(q):
    def plain(q):
      scores = batch_scores(q[:, None], k[:, None], k, own=1)
      return infonce(scores, temperature=case.tau).mean()

    return by_shares(plain, q, lam)

  close(similarity(q, k) / case.tau, expected.logits, 'inbatch logits')
  value, grad = jax.jit(jax.value_and_grad(loss))(q)
  close(value, expected.loss, 'inbatch loss')
  close(grad, expected.grad_q, 'inbatch grad_q')
  shares = by_shares(lambda rows: rows, jnp.eye(len(q), dtype=q.dtype), lam)
  close(shares, expected.target_matrix, 'inbatch target_matrix')
