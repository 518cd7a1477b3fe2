"""Checker for input-gradient regularization (archive b_tikhonov)."""

import functools
from typing import get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from clr_jax import methods
from clr_jax.core.types import Batch, RunInfo
from clr_jax.losses.tikhonov import (
  Route,
  directional_derivatives,
  dual_direction,
  input_gradient_penalties,
)
from clr_jax.wrappers.layerwise import layerwise, stage_losses
from clr_jax.wrappers.tikhonov import tikhonov
from tests.golden.check_unmix import part

STEP = jnp.zeros([], jnp.int32)
KEY = jax.random.key(0)


class Layers(nn.Module):
  """The archive's layers of one network on flat images; each one's output is a stage."""

  dims: tuple[int, ...]
  activation: str
  last_activation: bool = True

  @property
  def num_features(self):
    return self.dims[-1]

  @nn.compact
  def __call__(self, x, *, train, groups=1):
    del train, groups
    x = x.reshape(len(x), -1)
    for k, features in enumerate(self.dims, 1):
      x = nn.Dense(features, name=f'linear{k}')(x)
      if k < len(self.dims) or self.last_activation:
        x = getattr(jnp if self.activation == 'tanh' else jax.nn, self.activation)(x)
      if self.is_mutable_collection('stages') and not self.is_initializing():
        self.put_variable('stages', f'stage{k}', x)
    return x


def layer(case, prefix, k):
  return {
    'kernel': jnp.asarray(case[f'{prefix}W{k}'].T),
    'bias': jnp.asarray(case[f'{prefix}b{k}']),
  }


def two_views(x):
  """[2N, d] -> [N, 2, 1, d, 1]: rows i and i + N are the views of image i."""
  return jnp.stack(jnp.split(jnp.asarray(x), 2), 1)[:, :, None, :, None]


def flat_views(views):
  """The inverse of `two_views`."""
  return jnp.concatenate([views[:, 0], views[:, 1]])[:, 0, :, 0]


def one_view(x):
  return jnp.asarray(x)[:, None, None, :, None]


def run_info(batch, num_classes=None):
  size, num_views = batch.views['global'].shape[:2]
  return RunInfo(1000, num_classes, size, num_views, steps_per_epoch=1, total_steps=10)


def total(method, params, batch):
  """(loss, metrics) as the train step computes it."""
  state = {'batch_stats': {}}
  out, _ = method.embed(params, state, batch, KEY, STEP)
  value, _, metrics = method.loss(out, state, batch, KEY, STEP)
  return value, metrics


def values_and_grads(wrapped, params, batch):
  """((loss, metrics), gradient) of each of some methods, compiled together."""
  runs = [jax.value_and_grad(functools.partial(total, m), has_aux=True) for m in wrapped]
  return jax.jit(lambda params: [run(params, batch) for run in runs])(params)


def same_grad(grad, modules, case, prefix, close, what, index=()):
  """`modules` are the (component, layer) of W1, W2, ..."""
  for k, (component, name) in enumerate(modules, 1):
    expected = {'kernel': case[f'{prefix}W{k}'], 'bias': case[f'{prefix}b{k}']}
    found = grad[component][name]
    close(found['kernel'].T, expected['kernel'][index], f'{what} {prefix}W{k}')
    close(found['bias'], expected['bias'][index], f'{what} {prefix}b{k}')


def b_tikhonov(case, close):
  for route in get_args(Route):
    contrastive(case, route, close)
    supervised(case, route, close)
    layers(case, route, close)
  finite_differences(case, close)


def contrastive(case, route, close):
  modules = (('backbone', 'linear1'), ('projector', 'linear0'))
  params = {module: {name: layer(case, '', k)} for k, (module, name) in enumerate(modules, 1)}
  batch = Batch(views={'global': two_views(case.x)})
  method = methods.factory('simclr')(
    Layers((len(case.b1),), case.activation),
    run_info(batch),
    temperature=case.tau,
    projector='linear',
    out_dim=len(case.b2),
  )

  def penalties(params, views):
    def loss(views):
      value, metrics = total(method, params, batch._replace(views=views))
      return [value], metrics

    found = input_gradient_penalties(loss, views, route=route)
    return found.halves[0], found

  of_halves = jax.jit(jax.grad(penalties, argnums=(0, 1), has_aux=True))
  (grad_w, grad_x), found = of_halves(params, batch.views)
  close(found.losses[0], case.L, f'{route} L')
  close(found.halves[0], case.R, f'{route} R')
  close(flat_views(found.gradients[0]['global']), case.grad_x, f'{route} grad_x')
  close(flat_views(grad_x['global']), case.grad_x_R, f'{route} grad_x_R')
  same_grad(grad_w, modules, case, 'gradR_', close, route)
  info = run_info(batch)
  wrapped = [tikhonov(method, info, weight=float(w), route=route) for w in case.lambdas]
  (value, _), grad = values_and_grads([method], params, batch)[0]
  close(value, case.L, 'L')
  same_grad(grad, modules, case, 'gradL_', close, 'plain')
  for i, ((value, metrics), grad) in enumerate(values_and_grads(wrapped, params, batch)):
    close(value, case.L_tik[i], f'{route} L_tik')
    close(metrics['tikhonov_penalty'], case.R, f'{route} tikhonov_penalty')
    same_grad(grad, modules, case, 'grad_Ltik_', close, route, i)


def classifier(case):
  """(method, parameters, batch, names of the layers) of the archive's supervised network."""
  modules = (('backbone', 'linear1'), ('classifier', 'linear0'))
  params = {module: {name: layer(case, 'sup_', k)} for k, (module, name) in enumerate(modules, 1)}
  batch = Batch(label=jnp.asarray(case.sup_y, jnp.int32), views={'global': one_view(case.sup_x)})
  backbone = Layers((len(case.sup_b1),), case.activation)
  method = methods.factory('supervised')(backbone, run_info(batch, num_classes=len(case.sup_b2)))
  return method, params, batch, modules


def own_losses(case, method, params, batch, images):
  """Cross-entropy [B] of the method's logits of `images` [B, 1, d, 1]."""
  seen = batch._replace(views={'global': images[:, None]})
  out, _ = method.embed(params, {'batch_stats': {}}, seen, KEY, STEP)
  return optax.softmax_cross_entropy_with_integer_labels(out.online[:, 0], batch.label)


def supervised(case, route, close):
  method, params, batch, modules = classifier(case)
  halves = {
    'auto': case.sup_penalty,
    'own': case.sup_penalty,
    'batch_mean': case.sup_penalty_as_in_source_code,
  }
  # weight / 2 * R is weight * the archive's penalty, mean |g|^2 / 2.
  options = {'weight': 1.0, 'route': route}
  info = run_info(batch)
  wrapped = [tikhonov(method, info, grad_of=g, **options) for g in halves]
  plain, *found = values_and_grads([method, *wrapped], params, batch)
  (value, _), plain_grad = plain
  close(value, case.sup_L, 'sup_L')
  same_grad(plain_grad, modules, case, 'sup_gradL_', close, 'plain')
  for ((value, metrics), grad), (grad_of, half) in zip(found, halves.items(), strict=True):
    close(metrics['tikhonov_penalty'] / 2, half, f'{route} {grad_of} penalty')
    close(value, case.sup_L + half, f'{route} {grad_of} L_tik')
    if grad_of != 'batch_mean':
      of_penalty = jax.tree.map(jnp.subtract, grad, plain_grad)
      same_grad(of_penalty, modules, case, 'sup_gradP_', close, f'{route} {grad_of}')


def finite_differences(case, close):
  method, params, batch, modules = classifier(case)
  images = batch.views['global'][:, 0]
  direction = jnp.asarray(case.fd_direction)[:, None, :, None]

  def losses(params):
    return functools.partial(own_losses, case, method, params, batch)

  def penalty(params, order):
    dl = directional_derivatives(losses(params), images, direction, step=case.fd_h, order=order)
    return jnp.mean(dl**2) / 2, dl

  @jax.jit
  def run(params):
    of_one = losses(params)
    own = jax.grad(lambda x: of_one(x).sum())(images)
    of_order = jax.value_and_grad(penalty, has_aux=True)
    return of_one(images), own, [of_order(params, order) for order in (1, 2)]

  per_example, own, found = run(params)
  close(per_example, case.sup_per_example, 'sup_per_example')
  close(own[:, 0, :, 0], case.sup_grad_x, 'sup_grad_x')
  close(dual_direction(own)[:, 0, :, 0], case.fd_direction, 'fd_direction')
  for order, ((value, dl), grad) in enumerate(found, 1):
    expected = part(case, f'fd_O{order}')
    close(dl, expected.dl, f'fd_O{order} dl')
    close(value, expected.penalty, f'fd_O{order} penalty')
    same_grad(grad, modules, expected, 'grad_', close, f'fd_O{order}')


def layers(case, route, close):
  dims = tuple(int(d) for d in case.layer_dims)
  modules = [('backbone', f'linear{k}') for k in range(1, len(dims) + 1)]
  params = {
    'backbone': {name: layer(case, 'layer_', k) for k, (_, name) in enumerate(modules, 1)},
    'projector': {'linear0': {'kernel': jnp.ones([dims[-1], 1]), 'bias': jnp.ones(1)}},
  }
  batch = Batch(views={'global': two_views(case.x)})
  backbone = Layers(dims, case.activation, last_activation=False)
  info = run_info(batch)
  method = methods.factory('simclr')(backbone, info, projector='linear', out_dim=1)
  silent = method._replace(loss=lambda *args: (jnp.zeros([]), {}, {}))
  alpha, beta = (tuple(float(w) for w in ws) for ws in (case.layer_alpha, case.layer_beta))
  of_stages = functools.partial(stage_losses, count=len(dims), temperature=case.tau)
  plain = layerwise(silent, info, weights=alpha, temperature=case.tau)
  options = {'weight': 0.0, 'route': route}
  wrapped = [
    tikhonov(plain, info, layer_weights=tuple(weights), **options)
    for weights in (beta, *np.eye(len(dims)).tolist())
  ]

  @jax.jit
  def losses_of_stages(params):
    return of_stages(method.embed(params, {'batch_stats': {}}, batch, KEY, STEP)[0])

  close(losses_of_stages(params), case.layer_L, 'layer_L')
  unpenalized, ((value, _), grad), *single = values_and_grads([plain, *wrapped], params, batch)
  close(unpenalized[0][0], case.layer_total, 'layer_total')
  close(value, case.layer_total_tik, f'{route} layer_total_tik')
  same_grad(grad, modules, case, 'layer_grad_', close, route)
  penalties = [metrics['tikhonov_layer_penalty'] for (_, metrics), _ in single]
  close(penalties, case.layer_R, f'{route} layer_R')
