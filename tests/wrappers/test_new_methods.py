"""The method of `clr_jax/methods/README.md` and others by its recipe, in a folder of their own:
each wrapper accepts or refuses them by the facts that they state, and no file of the library knows
their names.
"""

import pathlib
import re

import jax
import jax.numpy as jnp
import pytest

from clr_jax import methods
from clr_jax.core.errors import UserError
from clr_jax.core.types import RunInfo
from clr_jax.experiment.method import make_method
from clr_jax.wrappers import tikhonov
from tests import tiny, toy
from tests.adding import added

INFO = RunInfo(100, 4, toy.BATCH, 2, 5, 50)
KEY, STEP = jax.random.key(0), jnp.zeros([], jnp.int32)

HEAD = '''
"""Written by the recipe."""

import jax.numpy as jnp

from clr_jax.models import heads
from clr_jax.ops.similarity import l2_normalize, similarity
from clr_jax.skeletons.joint_embedding import joint_embedding, mean_loss


def {name}(backbone, info, *, t: float = 2.0, out_dim: int = 8):
  def loss(out, state, batch, rng, step):
    z = l2_normalize(out.online)
    {loss}

  head = heads.make('simclr', hidden_dim=backbone.num_features, out_dim=out_dim)
  return joint_embedding(
    '{name}', {{'backbone': backbone, 'projector': head}}, loss{facts}
  )
'''
LOSSES = {
  # Each image against the other view of its own, other images are negatives.
  'pairwise': (
    'scores = similarity(z[:, 0], z[:, 1]) / t\n    '
    'return mean_loss({}, jnp.log(jnp.exp(scores).sum(1)) - jnp.diagonal(scores))',
    ", pairs='own'",
  ),
  # Maximum manifold capacity: the nuclear norm of the images' mean embeddings.
  'capacity': (
    "norm = jnp.linalg.norm(z.mean(1), 'nuc')\n    return mean_loss({'norm': norm}, -norm)",
    ", pairs='batch'",
  ),
  # Each view of each image by itself.
  'single': (
    'return mean_loss({}, ((out.online - t) ** 2).mean(-1))',
    ", pairs='set', independent=True",
  ),
  'unstated': ('return mean_loss({}, z.sum((1, 2)))', ''),
}
PLUGGED = '''
"""Contrast of two views that takes plug-ins, with weights instead of a softmax."""

from clr_jax.losses import global_contrastive as gcl
from clr_jax.models import heads
from clr_jax.ops.similarity import l2_normalize
from clr_jax.plugins.pipeline import NONE, Pipeline, Plugins
from clr_jax.skeletons.joint_embedding import joint_embedding, mean_loss


def plugged(backbone, info, *, t: float = 0.5, plugins: Plugins = NONE):
  pipeline = Pipeline(plugins, 'plugged', negatives=True, softmax=False, free_anchor=True)

  def loss(out, state, batch, rng, step):
    scores = pipeline.two_view_scores(l2_normalize(out.online), temperature=t, rng=rng, step=step)
    return mean_loss({}, (scores.negative * scores.mask).mean(-1) - scores.positive)

  head = heads.make('simclr', hidden_dim=backbone.num_features, out_dim=8)
  return joint_embedding('plugged', {'backbone': backbone, 'projector': head}, loss, 'own')
'''
PAGE = pathlib.Path(methods.__file__).parent / 'README.md'
MINE = re.search(r'## Add a method\n.*?```python\n(.*?)```', PAGE.read_text(), re.DOTALL)
SWITCHES = {
  'un_mix': {'plugins.un_mix.enabled': True},
  'layerwise': {'plugins.layerwise.weights': (0.1, 1.0)},
  'tikhonov': {'plugins.tikhonov.weight': 1.0},
  'tikhonov own': {'plugins.tikhonov.weight': 1.0, 'plugins.tikhonov.grad_of': 'own'},
  'accumulate': {'accumulate': 2},
  'telemetry': {'telemetry.enabled': True},
  'margin': {'plugins.margin.angular': 0.1},
}
METRIC = {
  'un_mix': 'mixed_loss',
  'layerwise': 'layerwise_loss',
  'tikhonov': 'tikhonov_penalty',
  'tikhonov own': 'tikhonov_penalty',
  'telemetry': 'telemetry/uniformity',
}
NO_PLUGINS = 'supports no plug-ins inside its loss'
COUPLED = 'couples the images'
REFUSED = {
  ('pairwise', 'tikhonov own'): COUPLED,
  ('pairwise', 'margin'): NO_PLUGINS,
  ('capacity', 'un_mix'): 'in which the loss is a statistic of the whole batch',
  ('capacity', 'tikhonov own'): COUPLED,
  ('capacity', 'margin'): NO_PLUGINS,
  ('mine', 'un_mix'): 'in which the loss is a statistic of the whole batch',
  ('mine', 'tikhonov own'): COUPLED,
  ('mine', 'margin'): NO_PLUGINS,
  ('single', 'un_mix'): 'in which the positives form a set',
  ('single', 'margin'): NO_PLUGINS,
  ('plugged', 'tikhonov own'): COUPLED,
}


@pytest.fixture(autouse=True)
def new_methods(tmp_path):
  texts = {n: HEAD.format(name=n, loss=loss, facts=f) for n, (loss, f) in LOSSES.items()}
  with added(tmp_path, methods, {**texts, 'plugged': PLUGGED, 'mine': MINE[1]}):
    yield


def make(name, changes):
  config = tiny.get_config(name)
  config.update_from_flattened_dict(changes)
  return make_method(config, toy.Staged(), INFO)


def metrics(method):
  """Shapes of the metrics of a step; all of the method and its wrappers is traced."""

  def step(batch):
    params, state = method.init(KEY, batch)
    out, carry = method.embed(params, state, batch, KEY, STEP)
    value, more, found = method.loss(out, state, batch, KEY, STEP)
    method.post_update(params, state, {**carry, **more}, STEP)
    return {**found, 'loss': value}

  return jax.eval_shape(step, toy.viewed())


@pytest.mark.parametrize('switch', SWITCHES)
@pytest.mark.parametrize('name', ['pairwise', 'capacity', 'single', 'plugged', 'mine'])
def test_accepted_or_refused_by_its_facts(name, switch):
  if reason := REFUSED.get((name, switch)):
    with pytest.raises(UserError, match=f'{name}.*{reason}|{reason}.*{name}'):
      make(name, SWITCHES[switch])
    return
  _, method = make(name, SWITCHES[switch])
  found = metrics(method)
  assert METRIC.get(switch, 'loss') in found and 'probe_loss' in found


@pytest.mark.parametrize(('name', 'factor'), [('single', 'own'), ('pairwise', 'batch')])
def test_the_gradient_that_tikhonov_takes(name, factor, monkeypatch):
  """By default that of each image's own loss where it has one."""
  seen = []
  real = tikhonov.eq_factor
  monkeypatch.setattr(tikhonov, 'eq_factor', lambda of, rows: (seen.append(of), real(of, rows))[1])
  metrics(make(name, SWITCHES['tikhonov'])[1])
  assert seen == [factor]


def test_facts_of_plugins_are_those_of_the_loss():
  with pytest.raises(UserError, match='in plugged a subtractive margin only shifts'):
    make('plugged', {'plugins.margin.subtractive': 0.1})


def test_a_method_must_say_what_its_loss_compares():
  with pytest.raises(TypeError, match="missing 1 required positional argument: 'pairs'"):
    make('unstated', {})
