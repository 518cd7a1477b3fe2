"""Plug-ins inside the methods that take them: effect, start, order, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clr_jax import methods
from clr_jax.core.errors import UserError
from clr_jax.core.options import keyword_only
from clr_jax.core.types import Batch, Out, RunInfo
from clr_jax.losses import feature_transformation as ft
from clr_jax.losses import margin as margins
from clr_jax.losses.scores import infonce, queue_scores, two_view_scores
from clr_jax.ops.similarity import unit
from clr_jax.plugins import pipeline as _plugins
from clr_jax.plugins.pipeline import FACTORIES, Plugins
from clr_jax.wrappers.layerwise import layerwise
from clr_jax.wrappers.un_mix import un_mix
from tests import method_cases, toy

BATCH, DIM, EXAMPLES = 8, 16, 40
INFO = RunInfo(EXAMPLES, 4, BATCH, 2, EXAMPLES // BATCH, 50)  # 5 steps an epoch, 10 epochs
TAKING = [n for n in methods.names() if 'plugins' in keyword_only(methods.get(n))]
# One in-batch, one with a queue, one without negatives, one with a table; the others are slow.
FAST = ('simclr', 'moco', 'simsiam', 'sogclr')
SETTINGS = {
  'positive': ('feature_transformation', {'positive': 'dim'}),
  'negative': ('feature_transformation', {'negative': 'row'}),
  'both': ('feature_transformation', {'positive': 'batch', 'negative': 'dim'}),
  'union': ('feature_transformation', {'negative': 'batch', 'union': True}),
  'mochi': ('mochi', {'num_hard': 5, 'num_mixed': 3, 'num_query_mixed': 2, 'start_epoch': 0.0}),
  'angular': ('margin', {'angular': 0.5}),
  'subtractive': ('margin', {'subtractive': 0.4}),
  'emphasis': ('gradient_scaling', {'emphasis': 5.0}),
  'curvature': ('gradient_scaling', {'curvature': 0.7}),
  'attenuation': ('gradient_scaling', {'attenuation': 'type1'}),
}
NEGATIVES = {'negative', 'both', 'union', 'mochi'}
SOFTMAX = {'subtractive', 'attenuation'}
WITHOUT_NEGATIVES = {'simsiam', 'byol'}
WITHOUT_SOFTMAX = {*WITHOUT_NEGATIVES, 'sogclr', 'isogclr', 'dynamic_moco', 'real'}


def slow(value):
  return pytest.param(value, marks=pytest.mark.slow)


def plugins(*names):
  made = {}
  for name in names:
    key, options = SETTINGS[name]
    made.setdefault(key, {}).update(options)
  return Plugins(**{key: FACTORIES[key](INFO, **options) for key, options in made.items()})


def build(name, used, **options):
  small = method_cases.options(name, out_dim=DIM, queue_length=24)
  return methods.get(name)(toy.Tiny(), INFO, plugins=used, **small, **options)


def inputs(name):
  """Embeddings and state as the method's own loss takes them, without a network."""
  rng = np.random.default_rng(0)
  views = 1 if name in ('moco', 'infomin') else 2
  rows = rng.normal(size=[EXAMPLES, 24, DIM])
  out = Out(
    online=jnp.asarray(rng.normal(size=[BATCH, views, DIM])),
    target=jnp.asarray(rng.normal(size=[BATCH, views, DIM])),
    h=jnp.ones([BATCH, views, 4]),
    extra={'jigsaw': jnp.asarray(rng.normal(size=[BATCH, DIM]))},
  )
  queue = unit(jnp.asarray(rows[:2] if name == 'moco_v2plus' else rows[0]))
  log_u = jnp.where(jnp.arange(1024) < 4, 0.3, -jnp.inf)
  tables = {'log_u': log_u, 'temperature': jnp.full(1024, 0.2), 'momentum': jnp.zeros(1024)}
  state = {
    'queue': {'rows': queue, 'ptr': jnp.zeros([], jnp.int32)},
    'per_example': tables,
    'radius': jnp.asarray(0.5),
  }
  return out, state, Batch(index=jnp.arange(BATCH), label=jnp.arange(BATCH) % 4)


def value_and_grad(name, used, *, step=0):
  out, state, batch = inputs(name)
  method = build(name, used)

  def loss(online):
    rng = jax.random.key(5)
    return method.loss(out._replace(online=online), state, batch, rng, jnp.asarray(step))[0]

  value, grad = jax.value_and_grad(loss)(out.online)
  return float(value), np.asarray(grad)


def test_the_methods_that_the_issue_names_take_plugins():
  wanted = {
    'simclr',
    'moco',
    'moco_v2plus',
    'moco_v3',
    'sogclr',
    'dynamic_moco',
    'infomin',
    'nnclr',
  }
  assert wanted | {'simsiam', 'byol'} <= set(TAKING)


@pytest.mark.parametrize('setting', SETTINGS)
@pytest.mark.parametrize('name', [n if n in FAST else slow(n) for n in TAKING])
def test_a_plugin_acts_or_is_refused(name, setting, x64):
  refused = (
    (setting in {*NEGATIVES, 'emphasis'} and name in WITHOUT_NEGATIVES)
    or (setting in SOFTMAX and name in WITHOUT_SOFTMAX)
    or (setting == 'mochi' and name == 'nnclr')
  )
  if refused:
    with pytest.raises(UserError, match=f'{name}.*set plugins'):
      build(name, plugins(setting))
    return
  value, grad = value_and_grad(name, plugins(setting))
  plain_value, plain_grad = value_and_grad(name, Plugins())
  assert np.isfinite(value) and np.isfinite(grad).all()
  assert np.abs(grad - plain_grad).max() > 1e-6 * np.abs(plain_grad).max()
  if setting in ('emphasis', 'curvature', 'attenuation'):
    assert value == pytest.approx(plain_value, rel=1e-12)


@pytest.mark.parametrize('name', ['simclr', 'moco', 'sogclr', 'simsiam'])
def test_nothing_happens_before_the_start(name, x64):
  late = {'positive': 'dim', 'negative': 'row', 'union': True, 'start_epoch': 4.0}
  if name == 'simsiam':
    late = {'positive': 'dim', 'start_epoch': 4.0}
  used = Plugins(feature_transformation=FACTORIES['feature_transformation'](INFO, **late))
  if name != 'simsiam':
    used = used._replace(mochi=FACTORIES['mochi'](INFO, num_mixed=2, num_hard=4, start_epoch=4.0))
  plain = value_and_grad(name, Plugins())
  for step, same in ((0, True), (19, True), (20, False)):
    value, grad = value_and_grad(name, used, step=step)
    if same:
      assert value == pytest.approx(plain[0], rel=1e-12)
      np.testing.assert_allclose(grad, plain[1], rtol=1e-9, atol=1e-12)
    else:
      assert np.abs(grad - plain[1]).max() > 1e-6


def test_moco_composes_the_functions(x64):
  """Feature transformation, then margins, then scaling, with the method's own draws."""
  used = plugins('both', 'emphasis', 'subtractive')
  out, state, batch = inputs('moco')
  value = build('moco', used).loss(out, state, batch, jax.random.key(5), jnp.asarray(3))[0]
  pair_key, rows_key, _ = jax.random.split(jax.random.key(5), 3)
  settings = used.feature_transformation
  queue = state['queue']['rows']
  lam = ft.draw_positive(
    pair_key, (BATCH, DIM), scope='batch', quantiles=settings.positive_quantiles
  )
  query, key = unit(out.online[:, 0]), unit(out.target[:, 0])
  query, key = ft.extrapolate(query, key, lam)
  weights, partner = ft.draw_negative(
    rows_key, (24, DIM), scope='dim', quantiles=settings.negative_quantiles
  )
  scores = queue_scores(query, key, ft.interpolate(queue, weights, partner))
  scores = scores._replace(positive=scores.positive - 0.4)
  scores = margins.scale_scores(scores, temperature=0.07, emphasis=5.0)
  np.testing.assert_allclose(value, infonce(scores, temperature=0.07).mean(), rtol=1e-12)


def test_both_views_of_a_pair_move_by_the_same_draw(x64):
  z = unit(jnp.asarray(np.random.default_rng(1).normal(size=[BATCH, 2, DIM])))
  options = {'temperature': 0.5, 'rng': jax.random.key(0), 'step': jnp.asarray(0)}
  moved = plugins('positive').two_view_scores(z, **options)
  np.testing.assert_allclose(moved.positive[:, 0], moved.positive[:, 1], rtol=1e-12)
  assert (moved.positive < two_view_scores(z).positive).any()


def test_synthetic_negatives_never_come_from_the_own_sample(x64):
  """All rows but the own pair are orthogonal to it: so are all mixtures of two of them."""
  z = jnp.tile(jnp.eye(DIM)[:BATCH, None], [1, 2, 1])
  used = Plugins(mochi=FACTORIES['mochi'](INFO, num_mixed=50, num_hard=14, start_epoch=0.0))
  scores = used.two_view_scores(z, temperature=0.5, rng=jax.random.key(0), step=jnp.asarray(0))
  np.testing.assert_allclose(scores.negative[..., 2 * BATCH :], 0, atol=1e-12)


@pytest.mark.parametrize(
  'name, options, match',
  [
    ('feature_transformation', {'positive': 'rows'}, 'unknown plugins.feature_transformation.pos'),
    ('feature_transformation', {'union': True}, 'union adds interpolated negatives'),
    ('feature_transformation', {'positive': 'row', 'start_epoch': 10.0}, 'not within the run'),
    ('feature_transformation', {'positive': 'row', 'positive_alpha': 0.0}, 'alpha'),
    ('mochi', {'num_mixed': -1}, '>= 0'),
    ('mochi', {'num_mixed': 4, 'num_hard': 1}, 'num_hard=1'),
    ('mochi', {'num_query_mixed': 4, 'num_hard': 0}, 'num_hard=0'),
    ('margin', {'angular': 4.0}, 'radians'),
    ('margin', {'subtractive': float('nan')}, 'finite'),
    ('margin', {'beyond': 'wrap'}, 'unknown plugins.margin.beyond'),
    ('gradient_scaling', {'curvature': -1.0}, 'positive'),
    ('gradient_scaling', {'emphasis': float('inf')}, 'finite'),
    ('gradient_scaling', {'attenuation': 'type3'}, 'unknown plugins.gradient_scaling.att'),
    ('gradient_scaling', {'strength': 2.0}, r'\[0, 1\]'),
  ],
)
def test_bad_options_are_refused(name, options, match):
  with pytest.raises(UserError, match=match):
    FACTORIES[name](INFO, **options)


def test_an_extrapolated_pair_has_no_angle():
  with pytest.raises(UserError, match='no angle'):
    build('moco', plugins('positive', 'angular'))
  moved = FACTORIES['feature_transformation'](INFO, positive='batch', postnorm=True)
  build('moco', plugins('angular')._replace(feature_transformation=moved))


def test_too_few_negatives_to_mix_from():
  many = Plugins(mochi=_plugins.mochi(INFO, num_mixed=2, num_hard=25, start_epoch=0.0))
  with pytest.raises(UserError, match=r'24 negatives.*num_hard=25'):
    value_and_grad('moco', many)


def test_more_than_two_views_are_refused():
  info = INFO._replace(num_views=3)
  with pytest.raises(UserError, match='num_views=2'):
    methods.get('simclr')(toy.Tiny(), info, plugins=plugins('angular'))


@pytest.mark.slow
@pytest.mark.parametrize('name', ['simclr', 'moco', 'sogclr', 'byol'])
def test_everything_together_on_eight_devices(name, x64):
  """All that has a meaning for the method, Un-Mix, layer losses and SAM in one step."""
  info = toy.INFO
  moved = {'positive': 'dim', 'postnorm': True}
  scaled = {'emphasis': 1.0 if name in WITHOUT_NEGATIVES else 2.0, 'curvature': 0.7}
  used = Plugins(margin=FACTORIES['margin'](info, angular=0.2))
  if name not in WITHOUT_NEGATIVES:
    moved.update(negative='row', union=True)
    mochi = {'num_mixed': 4, 'num_query_mixed': 2, 'num_hard': 6, 'start_epoch': 0.0}
    used = used._replace(mochi=FACTORIES['mochi'](info, **mochi))
  if name not in WITHOUT_SOFTMAX:
    scaled['attenuation'] = 'type1'
  used = used._replace(
    feature_transformation=FACTORIES['feature_transformation'](info, **moved),
    gradient_scaling=FACTORIES['gradient_scaling'](info, **scaled),
  )

  symmetric = {'symmetric': True} if name == 'moco' else {}
  method = toy.method(name, toy.Staged(), plugins=used, **symmetric)
  method = layerwise(un_mix(method, name), weights=(0.1, 0.2))
  toy.same_on_eight_devices(method, sam={'rho': 0.05})
