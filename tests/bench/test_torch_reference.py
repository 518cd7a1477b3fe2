"""clr-jax bench --peer: the PyTorch step is the one that it is compared with. No time is tested."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from clr_jax import augment, optim
from clr_jax.bench import torch_reference
from clr_jax.cli import main as cli
from clr_jax.core.config_tree import changed
from clr_jax.core.errors import UserError
from clr_jax.core.options import keyword_only
from clr_jax.core.types import Batch
from clr_jax.experiment.build import build_experiment
from clr_jax.experiment.config_files import load
from clr_jax.losses import contrastive, global_contrastive
from clr_jax.models import heads
from tests.models.test_resnet import flatten

torch = pytest.importorskip('torch')


@pytest.fixture(autouse=True, scope='module')
def in_the_checkout(request):
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(request.config.rootpath)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # waiting for one another on busy cores takes them most of the time
    yield
    torch.set_num_threads(threads)


def tiny(method='sogclr', **changes):
  return changed(load(f'tests/tiny.py:{method}'), changes)


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


@pytest.mark.parametrize('recipe', ['simclr', 'sogclr', 'solo_simclr', 'linear', 'dino'])
def test_heads_compute_the_same(x64, recipe):
  from clr_jax.bench.torch_reference import network

  like = heads.make(recipe, hidden_dim=6, out_dim=3)
  x = embeddings(7, 4)
  variables = jax.jit(functools.partial(like.init, train=False))(jax.random.key(0), x)
  theirs = network.head(like, 4).double()
  linear = [m for m in theirs if isinstance(m, torch.nn.Linear)]
  for i, module in enumerate(linear):
    ours = variables['params'][f'linear{i}']
    module.weight.data = torch.tensor(np.asarray(ours['kernel'], np.float64).T)
    assert (module.bias is None) == ('bias' not in ours)
    if module.bias is not None:
      module.bias.data = torch.tensor(np.asarray(ours['bias'], np.float64))
  trained = sum(p.numel() for p in theirs.parameters() if p.requires_grad)
  assert trained == sum(p.size for p in jax.tree.leaves(variables['params']))
  apply = functools.partial(like.apply, train=True, mutable=['batch_stats'])
  expected, _ = jax.jit(apply)(variables, x)
  np.testing.assert_allclose(theirs(torch.tensor(x)).detach(), expected, atol=1e-7)


@pytest.mark.parametrize(
  'options',
  [
    {'name': 'sgd', 'nesterov': True},
    {'name': 'sgd', 'exclude_from_decay': 'bias_and_norm'},
    {'name': 'adam'},
    {'name': 'adamw'},
    {'name': 'lars', 'trust_coefficient': 0.01},
  ],
  ids=str,
)
def test_optimizers_take_the_same_steps(x64, options):
  from clr_jax.bench.torch_reference import optimizers

  rng = np.random.default_rng(0)
  values = {'kernel': rng.normal(size=(3, 2)), 'bias': rng.normal(size=2)}
  options = {'weight_decay': 0.1, 'exclude_from_decay': 'auto', **options}
  params = {'head': jax.tree.map(jnp.asarray, values)}
  name = options.pop('name')
  tx = optim.make(name, {}, learning_rate=0.05, **options)
  defaults = {k: p.default for k, p in keyword_only(optim.factory(name)).items()}
  theirs = {k: torch.tensor(v, requires_grad=True) for k, v in values.items()}
  optimizer = optimizers.build([*theirs.values()], {'name': name, **defaults, **options}, 0.05)

  @jax.jit
  def step(grads, state, params):
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state

  state = tx.init(params)
  for _ in range(3):
    grads = {k: rng.normal(size=v.shape) for k, v in values.items()}
    params, state = step({'head': grads}, state, params)
    for key, tensor in theirs.items():
      tensor.grad = torch.tensor(grads[key])
    optimizer.step()
    optimizer.zero_grad()
  for key, tensor in theirs.items():
    assert tensor.grad is None
    np.testing.assert_allclose(tensor.detach().numpy(), params['head'][key], rtol=1e-9)


@pytest.mark.parametrize('channels', [1, 3])
@pytest.mark.parametrize('name', torch_reference.TAKEN['augment.name'])
def test_views_are_images(name, channels):
  from clr_jax.bench.torch_reference import views

  options = {
    **{k: p.default for k, p in keyword_only(augment.factory(name)).items()},
    'size': 8,
    'blur_p': 1.0,
    'solarize_p': 0.5,
  }
  view, _ = views.make(name, options)
  images = torch.rand(6, channels, 12, 12, generator=torch.Generator().manual_seed(0))
  made = view(images)
  assert made.shape == (6, channels, 8, 8) and made.dtype == torch.float32
  assert made.min() >= 0 and made.max() <= 1.0001 and made.std() > 0.01


def test_views_without_chance_are_ours():
  """The whole image, its color as it is: only the flip is left, and it is a flip."""
  from clr_jax.bench.torch_reference import views

  options = {k: p.default for k, p in keyword_only(augment.factory('rrc_flip')).items()}
  options |= {'size': 6, 'crop_scale': (1.0, 1.0), 'crop_ratio': (1.0, 1.0), 'flip_p': 1.0}
  images = torch.rand(2, 3, 6, 6)
  found = views.make('rrc_flip', options)[0](images)
  np.testing.assert_allclose(found, images.flip(-1), atol=1e-5)


def test_hue_turns_as_ours():
  from clr_jax.augment.color import adjust_hue
  from clr_jax.bench.torch_reference import views

  images = np.random.default_rng(0).uniform(size=(4, 5, 5, 3)).astype(np.float32)
  shift = np.array([-0.4, -0.1, 0.2, 0.5], np.float32)
  found = views._turn_hue(
    torch.tensor(images).permute(0, 3, 1, 2), torch.tensor(shift)[:, None, None]
  )
  expected = adjust_hue(jnp.asarray(images), jnp.asarray(shift))
  np.testing.assert_allclose(found.permute(0, 2, 3, 1), expected, atol=1e-5)


@pytest.mark.parametrize(
  ('changes', 'says'),
  [
    ({'method.name': 'byol'}, 'method.name=simclr or sogclr only, not byol'),
    ({'augment.name': 'asymmetric'}, 'augment.name=simclr or sogclr or'),
    ({'method.gamma_schedule': 'cosine'}, 'method.gamma_schedule=constant only'),
    ({'method.first_visit': 'per_batch'}, 'method.first_visit=per_index or none'),
    ({'accumulate': 2}, 'accumulate=1 only, not 2'),
    ({'sam.name': 'sam'}, 'sam.name=none only, not sam'),
    ({'plugins.margin.angular': 0.1}, 'leave plugins.margin.angular out'),
    ({'plugins.un_mix.enabled': True}, 'leave plugins.un_mix.enabled out'),
  ],
)
def test_what_the_peer_does_not_have_is_refused(changes, says):
  with pytest.raises(UserError, match=says):
    torch_reference.check(tiny(**changes))


def test_without_pytorch_one_sentence_says_so(monkeypatch):
  torch_reference.check(tiny())
  monkeypatch.setattr(torch_reference.importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(UserError, match='pip install torch'):
    torch_reference.check(tiny())


@pytest.mark.parametrize(
  ('flag', 'says'),
  [
    (['--peer_compile=default'], 'does nothing without --peer'),
    (['--peer', '--peer_compile=fast'], 'peer_compile'),
    (['--peer', '--collectives=8'], 'two measurements'),
  ],
)
def test_flags_that_do_nothing_are_refused(flag, says, capsys):
  with pytest.raises(SystemExit) as exit:
    cli.main(['clr-jax', 'bench', '--config=tests/tiny.py:simclr', *flag])
  assert exit.value.code == 2 and says in capsys.readouterr().err


# Views without chance: the images themselves.
STILL = {
  'augment.degrees': 0.0,
  'augment.translate': 0.0,
  'augment.scale': (1.0, 1.0),
  'augment.shear': 0.0,
  'augment.brightness': 0.0,
  'augment.contrast': 0.0,
  'augment.noise_p': 0.0,
}


@pytest.mark.slow
@pytest.mark.parametrize('method', ['simclr', 'sogclr'])
def test_the_step_has_the_same_loss_and_trains(method):
  """From images to the loss, with our weights; joint BatchNorm statistics, and one's own a view."""
  from clr_jax.bench.torch_reference.training import Training

  config = tiny(method, batch_size=8, **STILL)
  experiment = build_experiment(config, devices=jax.devices()[:1])
  images, size = experiment.source.arrays()[0], 8
  like = experiment.backbone
  training = Training(config, like, experiment.info, images, learning_rate=0.01, device='cpu')
  state = experiment.init()
  backbone = {k: torch.tensor(v) for k, v in flatten(state.params['backbone']).items()}
  missing, unexpected = training.backbone.load_state_dict(backbone, strict=False)
  assert not unexpected and all('running' in k or 'num_batches' in k for k in missing)
  linear = [m for m in training.head if isinstance(m, torch.nn.Linear)]
  for i, module in enumerate(linear):
    module.weight.data = torch.tensor(np.array(state.params['projector'][f'linear{i}']['kernel'].T))

  @jax.jit
  def ours(state):
    key = jax.random.key(0)
    views = experiment.views(key, jnp.asarray(images[:size]))
    batch = Batch(index=jnp.arange(size), views=views)
    out, _ = experiment.plain.embed(state.params, state.state, batch, key, state.step)
    return experiment.plain.loss(out, state.state, batch, key, state.step)[0]

  with torch.no_grad():
    found, new_u = training._loss(torch.tensor(images[:size]), torch.zeros(size))
  np.testing.assert_allclose(float(found), ours(state), rtol=1e-4)
  assert (new_u is None) == (method == 'simclr')

  before = [p.detach().clone() for p in (*training.backbone.parameters(), *linear[0].parameters())]
  assert training.run(2) > 0
  after = (*training.backbone.parameters(), *linear[0].parameters())
  assert all(bool((a != b).any()) for a, b in zip(after, before, strict=True))
  assert int((training._u > 0).sum()) == (2 * size if method == 'sogclr' else 0)


@pytest.mark.parametrize(
  'method',
  [
    pytest.param('simclr', marks=pytest.mark.weekly),
    pytest.param('sogclr', marks=pytest.mark.slow),
  ],
)
def test_the_compiled_step_is_one_graph(method):
  """From uint8 images to the loss, gradients included: nothing goes back to Python between."""
  from clr_jax.bench.torch_reference.training import Training

  config = tiny(method, batch_size=8)
  experiment = build_experiment(config)
  images = experiment.source.arrays()[0]
  like = experiment.backbone
  training = Training(config, like, experiment.info, images, learning_rate=0.01, device='cpu')
  whole = torch.compile(training._loss, backend='aot_eager', fullgraph=True)
  loss, _ = whole(torch.tensor(images[:8]), torch.zeros(8))
  loss.backward()
  assert all(torch.isfinite(p.grad).all() for p in training.backbone.parameters())


@pytest.mark.parametrize(
  ('method', 'precision'),
  [
    pytest.param('simclr', 'float32', marks=pytest.mark.weekly),
    pytest.param('sogclr', 'float32', marks=pytest.mark.weekly),
    pytest.param('sogclr', 'bfloat16', marks=pytest.mark.slow),
  ],
)
def test_both_are_measured_in_turns(method, precision):
  from clr_jax.bench.torch_reference import compare

  config = tiny(method, precision=precision)
  report = compare.compare(config, repeats=2, steps=2)
  assert json.loads(json.dumps(report, allow_nan=False)) == report
  count = report['backbone_parameters']
  assert count['clr_jax'] == count['torch'] > 1000
  speeds, ratio = report['samples_per_second'], report['ratio']
  assert set(speeds) == {'clr_jax', 'torch'}
  assert ratio['min'] <= ratio['median'] <= ratio['max']
  assert speeds['clr_jax']['min'] / speeds['torch']['max'] <= ratio['min'] * (1 + 1e-9)
  text = compare.format_report(report)
  assert 'affine map' in text and 'ratio' in text and 'PyTorch' in text
