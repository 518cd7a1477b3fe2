"""clr-jax bench --peer: the PyTorch step is the one that it is compared with. No time is tested."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from clr_jax import optim
from clr_jax.bench import torch_reference
from clr_jax.cli import main as cli
from clr_jax.core.config_tree import changed, to_dict
from clr_jax.core.errors import UserError
from clr_jax.core.options import keyword_only
from clr_jax.core.types import Batch
from clr_jax.experiment.build import build_experiment
from clr_jax.experiment.config_files import load
from clr_jax.models import heads
from tests.models.test_resnet import flatten

torch = pytest.importorskip('torch')


@pytest.fixture(autouse=True, scope='module')
def in_the_checkout(request):
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(request.config.rootpath)
    patch.setenv('OMP_NUM_THREADS', '1')  # of the peer's process
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # waiting for one another on busy cores takes them most of the time
    yield
    torch.set_num_threads(threads)


def tiny(method='sogclr', **changes):
  return changed(load(f'tests/tiny.py:{method}'), changes)


def embeddings(*shape):
  return np.random.default_rng(0).normal(size=shape)


def test_a_queue_keeps_the_last_rows():
  from clr_jax.bench.torch_reference.methods import Queue

  queue = Queue(5, 1, random=False)
  for i in range(3):
    queue.write(torch.tensor([[2.0 * i], [2.0 * i + 1]]))
  assert queue.rows.flatten().tolist() == [5, 1, 2, 3, 4]


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize(
  'options',
  [
    {'name': 'sgd', 'nesterov': True},
    {'name': 'sgd', 'exclude_from_decay': 'bias_and_norm'},
    {'name': 'adam'},
    {'name': 'adamw'},
    {'name': 'lars', 'trust_coefficient': 0.01},
    {'name': 'lars', 'form': 'simclr'},
    {'name': 'lars', 'form': 'clipped', 'exclude_from_decay': 'none'},
    {'name': 'lars', 'form': 'clipped', 'trust_coefficient': 9.0},  # it does clip
    {'name': 'lars', 'form': 'unclipped', 'eps': 0.5},
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


@pytest.mark.parametrize(
  ('changes', 'says'),
  [
    ({'method.name': 'dino'}, 'method.name=simclr or sogclr or .* or swav only, not dino'),
    ({'augment.name': 'multicrop_swav'}, 'augment.name=simclr or sogclr or'),
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
    (['--peer_compile=default'], 'has no effect without --peer'),
    (['--peer', '--peer_compile=fast'], 'peer_compile'),
    (['--peer', '--collectives=8'], 'cannot be combined'),
  ],
)
def test_flags_that_do_nothing_are_refused(flag, says, capsys):
  with pytest.raises(SystemExit) as exit:
    cli.main(['clr-jax', 'bench', '--config=tests/tiny.py:simclr', *flag])
  assert exit.value.code == 2 and says in capsys.readouterr().err


# Options with which both sides do the same from the first step on, and short queues.
CONSTANT = {
  'byol': {'final_momentum': 0.9},
  'moco': {'queue_length': 20, 'symmetric': True},
  'swav': {'queue_length': 16},  # ours and PyTorch's cut a batch at another end
}
STEP = 1000  # of ours, after SwAV's queue has come into use


def rows_of(params, name):
  return [
    params[name][f'linear{i}'] for i in range(len(params[name])) if f'linear{i}' in params[name]
  ]


def copy_weights(theirs, params, state):
  """Our parameters and queue into a method of the peer."""
  backbone = {k: torch.tensor(v) for k, v in flatten(params['backbone']).items()}
  missing, unexpected = theirs.encoder.backbone.load_state_dict(backbone, strict=False)
  assert not unexpected and all('running' in k or 'num_batches' in k for k in missing)
  ours = [w for name in ('projector', 'predictor') if name in params for w in rows_of(params, name)]
  linear = [m for m in theirs.encoder.head.modules() if isinstance(m, torch.nn.Linear)]
  for module, own in zip(linear, ours, strict=True):
    module.weight.data = torch.tensor(np.array(own['kernel']).T)
    if module.bias is not None:
      module.bias.data = torch.tensor(np.array(own['bias']))
  if 'prototypes' in params:
    theirs.prototypes.data = torch.tensor(np.array(params['prototypes']['weight']))
  if 'target' in state:
    for average, online in zip(theirs.target._own, theirs.target._online, strict=True):
      average.copy_(online)
  if theirs.__class__.__name__ == 'MoCo':
    theirs.queue.rows.copy_(torch.tensor(np.array(state['queue']['rows'])))


# Slow: one of each kind of loss and of average; weekly: the others.
_SLOW = ('simclr', 'sogclr', 'moco', 'byol', 'swav')


@pytest.mark.parametrize(
  'method',
  [
    pytest.param(m, marks=pytest.mark.slow if m in _SLOW else pytest.mark.weekly)
    for m in torch_reference.TAKEN['method.name']
  ],
)
def test_steps_have_the_same_losses(x64, method):
  """Four whole steps from the same weights and views: loss, gradient, SGD, averages, queues, u."""
  from clr_jax.bench.torch_reference import methods, network, optimizers

  size, changes = 8, {f'method.{k}': v for k, v in CONSTANT.get(method, {}).items()}
  config = tiny(method, batch_size=size, **changes)
  experiment = build_experiment(config, devices=jax.devices()[:1], probe=False)
  plain, rng = experiment.plain, np.random.default_rng(0)
  views = rng.uniform(size=(size, experiment.info.num_views, 8, 8, 1))
  batch = Batch(index=jnp.arange(size), views={'global': jnp.asarray(views)})
  labels = np.arange(size) % 3
  batch = batch._replace(label=jnp.asarray(labels))
  key = jax.random.key(0)
  params, state = jax.jit(plain.init)(key, batch)
  wide = functools.partial(jax.tree.map, lambda x: x.astype(float) if x.dtype == 'float32' else x)
  params, state = wide((params, state))
  tx = optax.sgd(0.05, momentum=0.9)

  @jax.jit
  def step(params, state, trace, number):
    def loss(params):
      out, carry = plain.embed(params, state, batch, key, number)
      value, more, _ = plain.loss(out, state, batch, key, number)
      return value, {**carry, **more}

    (value, carry), grads = jax.value_and_grad(loss, has_aux=True)(params)
    updates, trace = tx.update(grads, trace, params)
    params, state = plain.post_update(optax.apply_updates(params, updates), state, carry, number)
    return params, state, trace, value

  parts = methods.Parts(
    network.ResNet(experiment.backbone, 1), to_dict(config.method), experiment.info, False
  )
  theirs = methods.METHODS[method](parts).double()
  with torch.no_grad():
    copy_weights(theirs, params, state)
  trained = [p for p in theirs.parameters() if p.requires_grad]
  options = {'name': 'sgd', 'weight_decay': 0.0, 'exclude_from_decay': 'auto'}
  optimizer = optimizers.build(trained, {**options, 'momentum': 0.9, 'nesterov': False}, 0.05)
  given = [torch.tensor(v).permute(0, 3, 1, 2) for v in views.swapaxes(0, 1)]
  index, classes, trace = torch.arange(size), torch.tensor(labels), tx.init(params)
  found, expected = [], []
  for i in range(4):
    params, state, trace, value = step(params, state, trace, STEP + i)
    loss, carry = theirs(given, index, classes)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    theirs.after_step(index, carry)
    found.append(loss.item())
    expected.append(float(value))
  np.testing.assert_allclose(found, expected, rtol=1e-6)
  assert len(set(np.round(expected, 4))) == 4  # it trains


@pytest.mark.parametrize(
  'method',
  [
    pytest.param(m, marks=pytest.mark.slow if m == 'moco' else pytest.mark.weekly)
    for m in torch_reference.TAKEN['method.name']
  ],
)
def test_the_compiled_step_is_one_graph(method):
  """From uint8 images to the loss, gradients included: nothing goes back to Python between."""
  from clr_jax.bench.torch_reference.training import Training

  config = tiny(method, batch_size=8)
  experiment = build_experiment(config)
  images, labels = map(torch.tensor, experiment.source.arrays())
  like, info = experiment.backbone, experiment.info
  training = Training(config, like, info, images, labels, learning_rate=0.01)
  torch._dynamo.reset()  # it makes a function anew for a few classes only
  whole = torch.compile(training.loss, backend='aot_eager', fullgraph=True)
  loss, _ = whole(images[:8], torch.arange(8), labels[:8])
  loss.backward()
  assert all(torch.isfinite(p.grad).all() for p in training.backbone.parameters())


@pytest.mark.parametrize(
  ('method', 'precision'),
  [
    pytest.param('sogclr', 'float32', marks=pytest.mark.weekly),
    pytest.param('byol', 'float32', marks=pytest.mark.weekly),
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
  assert set(report['torch_layouts']) == {'channels_last', 'contiguous'}
  assert 'affine map' in text and 'ratio' in text and 'PyTorch' in text
