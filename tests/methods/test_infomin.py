"""InfoMin: which branch sees what, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clr_jax import methods
from clr_jax.core.errors import UserError
from clr_jax.core.types import Out
from tests.methods.four_images import INFO, STEP, Tiny, batch

KEY = jax.random.key(0)
SMALL = {'queue_length': 8, 'out_dim': 3}


def make(name='infomin', **hyper):
  return methods.factory(name)(Tiny(), INFO, **{**SMALL, **hyper})


def with_patches():
  plain = batch()
  patches = jax.random.uniform(jax.random.key(3), [4, 9, 2, 2, 1])
  return plain._replace(views={**plain.views, 'jigsaw': patches})


@pytest.mark.slow
def test_the_main_branch_is_mocos_and_the_jigsaw_branch_has_a_head_of_its_own():
  method, main = make(temperature=0.2), make('moco', temperature=0.2, projector='mocov2')
  params, state = jax.jit(method.init)(jax.random.key(1), with_patches())
  assert set(params) == {'backbone', 'projector', 'jigsaw'}
  assert set(state['target']['params']) == {'backbone', 'projector'}
  out, carry = jax.jit(method.embed)(params, state, with_patches(), jax.random.key(0), STEP)
  main_out, _ = jax.jit(main.embed)(params, state, batch(), jax.random.key(0), STEP)
  np.testing.assert_allclose(out.online, main_out.online, rtol=1e-6)
  np.testing.assert_allclose(out.target, main_out.target, rtol=1e-6)
  assert out.extra['jigsaw'].shape == (4, 3) and out.h.shape == (4, 1, 3)
  value, _, metrics = method.loss(out, state, with_patches(), KEY, STEP)
  main_value, _, _ = main.loss(main_out, state, batch(), KEY, STEP)
  np.testing.assert_allclose(metrics['loss_main'], main_value, rtol=1e-6)
  half = (metrics['loss_main'] + metrics['loss_jigsaw']) / 2
  np.testing.assert_allclose(value, half, rtol=1e-6)
  # The patches' pass is the last to write the online network's statistics.
  _, main_carry = jax.jit(main.embed)(params, state, batch(), jax.random.key(0), STEP)
  stats, main_stats = (c['batch_stats']['backbone'] for c in (carry, main_carry))
  assert not np.allclose(*(jax.tree.leaves(s)[0] for s in (stats, main_stats)))


@pytest.mark.slow
def test_the_order_of_the_patches_matters():
  method, views = make(), with_patches()
  params, state = jax.jit(method.init)(jax.random.key(1), views)

  def jigsaw(patches):
    changed = views._replace(views={**views.views, 'jigsaw': patches})
    out, _ = jax.jit(method.embed)(params, state, changed, jax.random.key(0), STEP)
    return np.asarray(out.extra['jigsaw'])

  patches = views.views['jigsaw']
  assert np.abs(jigsaw(patches[:, ::-1]) - jigsaw(patches)).max() > 1e-3
  # Whole images in another order: the same embeddings in that order.
  np.testing.assert_allclose(jigsaw(patches[::-1]), jigsaw(patches)[::-1], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_weights_of_the_two_losses():
  rows = jnp.eye(8)[:, :3]
  state = {'queue': {'rows': rows, 'ptr': STEP}}
  z = jax.random.normal(jax.random.key(0), [3, 4, 3])
  out = Out(z[0][:, None], z[1][:, None], extra={'jigsaw': z[2]})
  terms = {}
  for weight in (0.0, 0.25, 1.0):
    terms[weight], carry, _ = make(jigsaw_weight=weight).loss(out, state, batch(), KEY, STEP)
  np.testing.assert_allclose(terms[0.25], 0.75 * terms[0.0] + 0.25 * terms[1.0], rtol=1e-6)
  assert abs(terms[0.0] - terms[1.0]) > 1e-3
  assert carry['keys'].shape == (4, 3)  # of the images, not of the patches


@pytest.mark.slow
def test_statistics_of_whole_images_need_no_patches():
  """As `evaluate.features.estimate_batch_stats` asks for them."""
  method, main = make(), make('moco', projector='mocov2')
  params, state = jax.jit(method.init)(jax.random.key(1), with_patches())
  _, carry = jax.jit(method.embed)(params, state, batch(), KEY, STEP)
  _, main_carry = jax.jit(main.embed)(params, state, batch(), KEY, STEP)
  jax.tree.map(np.testing.assert_array_equal, carry, main_carry)


def test_refusals():
  with pytest.raises(UserError, match=r"set augment\.name='infomin_jigsaw'"):
    jax.eval_shape(make().init, jax.random.key(0), batch())
  with pytest.raises(UserError, match='infomin writes 4 keys a step into a queue of 3'):
    make(queue_length=3)
