"""Margins and gradient scaling: identities, limits, the two poles. The numbers: tests/golden."""

from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clr_jax.core.errors import UserError
from clr_jax.losses import margin
from clr_jax.losses.scores import Scores, infonce, log_p_positive, pair_scores, queue_scores
from clr_jax.ops.similarity import l2_normalize
from tests.losses._cases import same

T = 0.25
SETTINGS = settings(max_examples=10, deadline=None)
rng = np.random.default_rng(0)
SCORES = Scores(
  jnp.asarray(rng.uniform(-0.9, 0.95, [5]), 'float32'),
  jnp.asarray(rng.uniform(-0.9, 0.9, [5, 7]), 'float32'),
  jnp.asarray(rng.uniform(size=[5, 7]) < 0.8),
)
each_dtype = pytest.mark.parametrize('dtype', ['float32', 'float64'])
each_beyond = pytest.mark.parametrize('beyond', get_args(margin.Beyond))


def sine_of(cosine):
  return jnp.sqrt(1 - cosine**2)


def with_margin(scores, m1, m2, beyond='raw'):
  positive = margin.add_margin(
    scores.positive, sine_of(scores.positive), angular=m1, subtractive=m2, beyond=beyond
  )
  return scores._replace(positive=positive)


def loss_and_grads(change=lambda scores: scores, scores=SCORES):
  """InfoNCE of changed scores, gradients by the positives and by the negatives."""

  def loss(cosines):
    return infonce(change(Scores(cosines[0], cosines[1], scores.where)), temperature=T).sum()

  value, grads = jax.value_and_grad(loss)((scores.positive, scores.negative))
  return value, *grads


def scaled(**options):
  return lambda scores: margin.scale_scores(scores, temperature=T, **options)


@each_dtype
def test_sine_is_accurate_and_has_a_gradient_at_small_angles(dtype):
  with jax.enable_x64(dtype == 'float64'):
    angle = jnp.array([0, 1e-3, 0.1, 1.5, 3.0, jnp.pi - 1e-3, jnp.pi], dtype)
    a = jnp.tile(jnp.array([[1.0, 0.0]], dtype), [7, 1])
    b = jnp.stack([jnp.cos(angle), jnp.sin(angle)], -1).at[-1].set(-a[0])
    value, pull = jax.vjp(jax.jit(margin.sine), a, b)
    grad = pull(jnp.ones_like(value))[1]
    assert value.dtype == dtype
    np.testing.assert_allclose(value, jnp.sin(angle).at[-1].set(0), rtol=2e-4)
    tangent = jnp.stack([-jnp.sin(angle), jnp.cos(angle)], -1)
    slope = jnp.sum(grad * tangent, -1)
    np.testing.assert_allclose(slope[1:-1], jnp.cos(angle)[1:-1], rtol=2e-4)
    np.testing.assert_array_equal(grad[jnp.array([0, -1])], 0)
  assert margin.sine(a.astype('bfloat16'), b.astype('bfloat16')).dtype == jnp.float32


@each_dtype
def test_everything_is_finite_at_angles_zero_and_pi(dtype):
  with jax.enable_x64(dtype == 'float64'):
    raw = jnp.asarray(np.random.default_rng(1).normal(size=[6, 4]) * 3, dtype)
    raw = raw.at[0].set(jnp.array([2.0, 0, 0, 0], dtype)).at[1].set(raw[0])
    key = l2_normalize(raw) * jnp.array([1, -1, 1, -1, 1, -1], dtype)[:, None]
    queue = jnp.concatenate([key[::-1], -key])

    def loss(raw, beyond):
      q = l2_normalize(raw)
      scores = queue_scores(q, key, queue)
      positive = margin.add_margin(
        scores.positive, margin.sine(q, key), angular=0.5, subtractive=0.4, beyond=beyond
      )
      scores, plain = scores._replace(positive=positive), scores
      for kind in ('type1', 'type2'):
        options = {'emphasis': 40.0, 'curvature': 0.3, 'attenuation': kind, 'plain': plain}
        scores = margin.scale_scores(scores, temperature=0.05, **options)
      return infonce(scores, temperature=0.05).sum(), positive

    @jax.jit
    def call(raw):
      return [
        jax.value_and_grad(loss, has_aux=True)(raw, beyond) for beyond in get_args(margin.Beyond)
      ]

    results = call(raw)
  for (value, positive), grad in results:
    assert np.isfinite(value) and np.isfinite(grad).all() and np.abs(grad).max() < 1e5
    np.testing.assert_allclose(positive[::2], np.cos(0.5) - 0.4, atol=1e-5)
  # 'raw' is continuous at pi.
  np.testing.assert_allclose(results[0][0][1][1::2], -np.cos(0.5) - 0.4, atol=1e-5)


def test_gradient_of_margin_is_that_of_the_angle_to_second_order(x64):
  """Through the raw vectors, as a penalty on input gradients needs it."""
  key = jnp.array([1.0, 0.0, 0.0])

  def by_chord(angle):
    q = jnp.array([jnp.cos(angle), 0.6 * jnp.sin(angle), 0.8 * jnp.sin(angle)])
    return margin.add_margin(q @ key, margin.sine(q, key), angular=0.5, subtractive=0.4)

  for order in (1, 2):
    ours, plain = by_chord, lambda angle: jnp.cos(angle + 0.5) - 0.4
    for _ in range(order):
      ours, plain = jax.grad(ours), jax.grad(plain)
    angle = jnp.linspace(0.01, 3.1, 9)
    np.testing.assert_allclose(
      jax.jit(jax.vmap(ours))(angle), jax.vmap(plain)(angle), rtol=1e-8, atol=1e-10
    )


@each_beyond
def test_no_margin_is_the_identity(beyond):
  cosine = jnp.concatenate([SCORES.positive, jnp.array([1.0, -1.0, -1.0000001])])
  sine = jnp.sqrt(jnp.maximum(1 - cosine**2, 0))

  def call(c):
    return margin.add_margin(c, sine, angular=0.0, subtractive=0.0, beyond=beyond)

  np.testing.assert_array_equal(call(cosine), cosine)
  np.testing.assert_array_equal(jax.grad(lambda c: call(c).sum())(cosine), 1)


def test_beyond_pi():
  """theta + m1 > pi for the second cosine only."""
  cosine = jnp.cos(jnp.array([1.0, 2.9]))

  def call(c, beyond):
    return margin.add_margin(c, sine_of(c), angular=0.5, subtractive=0.2, beyond=beyond)

  value = {b: call(cosine, b) for b in get_args(margin.Beyond)}
  slope = {b: jax.grad(lambda c, b=b: call(c, b).sum())(cosine) for b in get_args(margin.Beyond)}
  same(value['raw'], jnp.cos(jnp.array([1.5, 3.4])) - 0.2)
  for beyond in ('arcface', 'clip'):
    same(value[beyond][0], value['raw'][0])
    same(slope[beyond][0], slope['raw'][0])
  same(value['arcface'][1], cosine[1] - 0.5 * np.sin(0.5) - 0.2)
  same(value['clip'][1], -1.2)
  assert slope['raw'][1] < 0 and slope['arcface'][1] == 1 and slope['clip'][1] == 0


@SETTINGS
@given(
  st.floats(0, 100),
  st.one_of(st.none(), st.floats(0.1, 10)),
  st.sampled_from(get_args(margin.Attenuation)),
  st.floats(0, 1),
  st.integers(0, 1000),
)
def test_scaling_keeps_every_bit_of_the_scores(emphasis, curvature, kind, strength, seed):
  r = np.random.default_rng(seed)
  scores = Scores(*(jnp.asarray(r.uniform(-1, 1, s), 'float32') for s in ([4], [4, 3])))
  options = {'emphasis': emphasis, 'curvature': curvature, 'strength': strength}
  result = scaled(attenuation=kind, **options)(scores)
  np.testing.assert_array_equal(result.positive, scores.positive)
  np.testing.assert_array_equal(result.negative, scores.negative)


def test_neutral_scaling_keeps_every_bit_of_the_gradient():
  plain = loss_and_grads()
  for change in (scaled(), scaled(attenuation='type1', strength=0.0), scaled(curvature=np.inf)):
    for a, b in zip(loss_and_grads(change), plain, strict=True):
      np.testing.assert_array_equal(a, b)


def test_emphasis_and_curve_scale_the_gradient_of_the_positive_only():
  value, positive, negative = loss_and_grads()
  angle = np.arccos(SCORES.positive)
  new_value, new_positive, new_negative = loss_and_grads(scaled(emphasis=20.0, curvature=0.7))
  assert new_value == value
  same(new_positive, 20 * (1 - (angle / np.pi) ** 0.7) * positive)
  np.testing.assert_array_equal(new_negative, negative)


@pytest.mark.parametrize('strength', [0.25, 1.0])
def test_attenuation_scales_an_anchor_or_its_positive(strength):
  _, positive, negative = loss_and_grads()
  p = jnp.exp(log_p_positive(SCORES, temperature=T))
  factor = 1 / (1 - strength * p)
  for kind, on_negative in (('type1', factor[:, None]), ('type2', 1.0)):
    _, a, b = loss_and_grads(scaled(attenuation=kind, strength=strength))
    same(a, factor * positive)
    same(b, on_negative * negative)
    np.testing.assert_array_equal(jnp.where(SCORES.mask, 0, b), 0)


@SETTINGS
@given(st.floats(0, 2), st.integers(0, 1000))
def test_subtractive_margin_is_an_attenuation(m2, seed):
  """Eq. 14: type I with a = 1 - exp(-m2 / T), of positives and negatives, any angle."""
  r = np.random.default_rng(seed)
  scores = Scores(*(jnp.asarray(r.uniform(-1, 1, s), 'float32') for s in ([4], [4, 3])))
  for a, b in zip(*_eq_14(scores, m2), strict=True):
    same(a, b)


@jax.jit
def _eq_14(scores, m2):
  with_m2 = loss_and_grads(lambda scores: with_margin(scores, 0.0, m2), scores)
  attenuated = scaled(attenuation='type1', strength=-jnp.expm1(-m2 / T))
  return with_m2[1:], loss_and_grads(attenuated, scores)[1:]


def test_limit_of_a_large_subtractive_margin():
  """Eq. 15: the positive's gradient by the cosine becomes -1 / T whatever p is."""
  for change in (lambda s: with_margin(s, 0.0, 40.0), scaled(attenuation='type1')):
    same(loss_and_grads(change)[1], -1 / T)


def test_loss_grows_with_the_subtractive_margin():
  values = [loss_and_grads(lambda s, m=m: with_margin(s, 0.1, m))[0] for m in (0.0, 0.2, 0.8)]
  assert values[0] < values[1] < values[2]


def test_scaling_scales_the_whole_gradient_of_the_margin():
  """Also where the sine is that of the raw vectors; the weights do not see the margin."""
  q, k = (jnp.asarray(np.random.default_rng(i).normal(size=[3, 4]), 'float32') for i in (2, 3))

  def positive(q, **options):
    q, key = l2_normalize(q), l2_normalize(k)
    plain = queue_scores(q, key, key[::-1])
    moved = margin.add_margin(plain.positive, margin.sine(q, key), angular=0.5, subtractive=0.1)
    scores = plain._replace(positive=moved)
    return margin.scale_scores(scores, plain=plain, temperature=T, **options).positive

  same(positive(q, emphasis=5.0), positive(q))
  gradient = jax.jit(jax.grad(lambda q, s: positive(q, emphasis=s).sum()))
  same(gradient(q, 5.0), 5 * gradient(q, 1.0))

  def by_row(q, **options):
    return jax.jit(jax.jacobian(lambda q: positive(q, **options)))(q)

  weight = margin.curve(pair_scores(l2_normalize(q), l2_normalize(k)), 0.7)
  same(by_row(q, curvature=0.7), weight[:, None, None] * by_row(q))


@pytest.mark.slow
def test_curve_falls_from_one_to_zero_without_gradient():
  angle = jnp.linspace(0, jnp.pi, 20)
  cosine = jnp.cos(angle).at[0].set(1.0000001)
  for curvature in (1 / 3, 1.0, 5.0):
    values = margin.curve(cosine, curvature)
    assert (jnp.diff(values) < 0).all()
    np.testing.assert_allclose(values[jnp.array([0, -1])], [1, 0], atol=1e-3)
    gradient = jax.grad(lambda c, p=curvature: margin.curve(c, p).sum())(cosine)
    np.testing.assert_array_equal(gradient, 0)
  same(margin.curve(cosine, 1.0), 1 - angle / np.pi)
  for none in (None, jnp.inf):
    np.testing.assert_array_equal(margin.curve(cosine, none), 1)
  middle = margin.curve(jnp.cos(jnp.array([1.0, 2.0, 3.0])), 0.5)
  assert middle[0] + middle[2] > 2 * middle[1]  # convex


@pytest.mark.slow
def test_attenuation_is_bounded_and_accurate_near_certainty():
  same(margin.attenuation(jnp.array([-1e-3]), 1.0), 1 / -np.expm1(-1e-3))
  np.testing.assert_allclose(margin.attenuation(jnp.array([0.0, -1e-12]), 1.0), 1e6, rtol=1e-5)
  np.testing.assert_array_equal(margin.attenuation(jnp.array([0.0, -3.0]), 0.0), 1)
  assert jax.grad(lambda x: margin.attenuation(x, 0.5))(-0.1) == 0


def test_unknown_names_are_refused():
  with pytest.raises(UserError, match='beyond'):
    with_margin(SCORES, 0.1, 0.1, beyond='cosface')
  with pytest.raises(UserError, match='attenuation'):
    scaled(attenuation='typeI')(SCORES)


@pytest.mark.slow
@pytest.mark.parametrize(('m1', 'm2'), [(0.0, 0.4), (0.3, 0.7)])
def test_factors_of_equation_12(x64, m1, m2):
  """The gradient with margins is the plain one times the factors, for positive and negatives."""
  theta = jnp.array([0.7, 1.2, 1.9])  # of the positive and of two negatives

  def loss(theta, m1, m2):
    moved = margin.add_margin(jnp.cos(theta[0]), jnp.sin(theta[0]), angular=m1, subtractive=m2)
    return infonce(Scores(moved, jnp.cos(theta[1:])), temperature=T)

  plain, changed = (jax.grad(loss)(theta, *ms) for ms in ((0.0, 0.0), (m1, m2)))
  log_p = -loss(theta, 0.0, 0.0)
  factors = margin.margin_factors(theta[0], log_p, temperature=T, angular=m1, subtractive=m2)
  np.testing.assert_allclose(changed[0] / plain[0], factors.positive, rtol=1e-12)
  np.testing.assert_allclose(changed[1:] / plain[1:], factors.attenuation, rtol=1e-12)
  if m1 == 0:  # eq. 14
    strength = -jnp.expm1(-m2 / T)
    np.testing.assert_allclose(factors.attenuation, margin.attenuation(log_p, strength), rtol=1e-12)
