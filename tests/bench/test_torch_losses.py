"""The losses of the step in PyTorch that `--peer` times are ours, with their gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clr_jax.losses import clustering, contrastive, global_contrastive, redundancy
from clr_jax.losses.queue import queue_infonce

torch = pytest.importorskip('torch')
pytestmark = pytest.mark.slow


def embeddings(*shape):
  return np.random.default_rng(0).normal(size=shape)


def compare_gradients(ours, theirs, z, **tolerance):
  """Values of ours(z) and theirs(z), [rows ...], and the gradients of their means."""
  tensor = torch.tensor(z, requires_grad=True)
  found = theirs(tensor)
  found.mean().backward()

  @jax.jit
  @functools.partial(jax.grad, has_aux=True)
  def run(z):
    values = ours(z)
    return values.mean(), values

  gradient, values = run(jnp.asarray(z))
  np.testing.assert_allclose(found.detach().numpy(), values, **tolerance)
  np.testing.assert_allclose(tensor.grad.numpy(), gradient, **tolerance)


@pytest.mark.parametrize('num_views', [2, 3])
def test_ntxent_is_the_same_loss(x64, num_views):
  from clr_jax.bench.torch_reference import losses

  compare_gradients(
    lambda z: contrastive.ntxent(z, temperature=0.2),
    lambda z: losses.ntxent(z, temperature=0.2),
    embeddings(5, num_views, 4),
    rtol=1e-11,
    atol=1e-14,
  )


@pytest.mark.parametrize('first_visit', ['per_index', 'none'])
def test_sogclr_is_the_same_loss(x64, first_visit):
  from clr_jax.bench.torch_reference import losses

  hyper = {'temperature': 0.2, 'gamma': 0.7, 'eps': 1e-8}
  u = np.array([0.0, 0.5, 0.0, 2.0, 30.0])
  log_u = jnp.log(u)
  gamma = global_contrastive.first_visit_gamma(log_u, hyper['gamma'], first_visit)

  def ours(z):
    return global_contrastive.sogclr(z, log_u, **{**hyper, 'gamma': gamma})

  def theirs(z):
    return losses.sogclr(z, torch.tensor(u), **hyper, first_visit=first_visit)

  z = embeddings(5, 2, 4)
  compare_gradients(
    lambda z: ours(z).per_example, lambda z: theirs(z)[0], z, rtol=1e-11, atol=1e-14
  )
  expected = jnp.exp(global_contrastive.combine_log_u(ours(jnp.asarray(z)).log_u, 'mean'))
  np.testing.assert_allclose(theirs(torch.tensor(z))[1].numpy(), expected, rtol=1e-12)


# Five images of three views; a class of one image has no other positive than its views.
LABELS = np.array([0, 1, 0, 2, 1])
CLOSE = {'rtol': 1e-10, 'atol': 1e-13}


@pytest.mark.parametrize(
  ('labels', 'anchors'), [(LABELS, 'all'), (LABELS, 'one'), (None, 'all')], ids=str
)
def test_supcon_is_the_same_loss(x64, labels, anchors):
  from clr_jax.bench.torch_reference import losses

  def ours(z):
    own = None if labels is None else jnp.asarray(labels)
    return contrastive.supcon(z, own, temperature=0.3, anchors=anchors)

  def theirs(z):
    own = None if labels is None else torch.tensor(labels)
    views = 1 if anchors == 'one' else None
    return losses.tcl(z, own, temperature=0.3, anchor_views=views)[0]

  compare_gradients(ours, theirs, embeddings(5, 3, 4), **CLOSE)


@pytest.mark.parametrize('num_views', [1, 2])
def test_tcl_is_the_same_loss(x64, num_views):
  """With one view the image of a class of its own has no positive."""
  from clr_jax.bench.torch_reference import losses

  z, hyper = embeddings(5, num_views, 4), {'temperature': 0.3, 'k1': 40.0, 'k2': 1.5}
  compare_gradients(
    lambda z: contrastive.tcl(z, jnp.asarray(LABELS), **hyper).per_anchor,
    lambda z: losses.tcl(z, torch.tensor(LABELS), **hyper)[0],
    z,
    **CLOSE,
  )
  _, valid = losses.tcl(torch.tensor(z), torch.tensor(LABELS), **hyper)
  assert valid[:, 0].tolist() == [True, True, True, num_views == 2, True]


def test_moco_is_the_same_loss(x64):
  from clr_jax.bench.torch_reference import losses

  keys = embeddings(9, 4)
  keys /= np.linalg.norm(keys, axis=1, keepdims=True)
  key, rows = keys[:5], keys[5:]

  def theirs(z):
    z = torch.nn.functional.normalize(z, dim=-1)
    return losses.moco(z, torch.tensor(key), torch.tensor(rows), temperature=0.3)

  compare_gradients(
    lambda z: queue_infonce(z, jnp.asarray(key), jnp.asarray(rows), temperature=0.3).mean(),
    theirs,
    embeddings(5, 4) + 1,
    **CLOSE,
  )


def test_swav_is_the_same_loss(x64):
  from clr_jax.bench.torch_reference import losses

  queue = np.random.default_rng(1).uniform(-1, 1, size=(2, 3, 6))

  def ours(scores):
    codes = clustering.assignments(scores, jnp.asarray(queue), epsilon=0.1, iterations=2)
    return clustering.swav(scores, codes, temperature=0.3).sum() / 2

  def theirs(scores):
    scores = scores.transpose(0, 1)
    rows = torch.cat([scores.detach(), torch.tensor(queue)], 1)
    codes = losses.sinkhorn(rows, epsilon=0.1, iterations=2)[:, :5]
    return losses.swav(scores, codes, temperature=0.3)

  compare_gradients(ours, theirs, np.tanh(embeddings(5, 2, 6)), **CLOSE)


def test_barlow_twins_is_the_same_loss(x64):
  from clr_jax.bench.torch_reference import losses

  compare_gradients(
    lambda z: redundancy.barlow_twins(z, off_diagonal_weight=0.1),
    lambda z: losses.barlow_twins(z, off_diagonal_weight=0.1),
    embeddings(5, 2, 4),
    **CLOSE,
  )


@pytest.mark.parametrize('average', [True, False])
def test_vicreg_has_the_same_terms(x64, average):
  from clr_jax.bench.torch_reference import losses

  compare_gradients(
    lambda z: jnp.stack(redundancy.vicreg(z, variance_average=average)),
    lambda z: torch.stack(losses.vicreg(z, variance_average=average)),
    embeddings(5, 2, 4) / 2,
    **CLOSE,
  )
