"""Where the time of a program goes: kinds of its operations, and times from a real trace."""

import types

import jax
import jax.numpy as jnp
import pytest

from clr_jax import models
from clr_jax.bench import hlo, profile
from clr_jax.bench.profile import NORMALIZATION, OTHER, PRODUCTS, Run


@pytest.fixture(scope='module')
def gradient():
  """(text, function, arguments) of the gradient of a ResNet, as the train step names its parts."""
  backbone = models.make('resnet_tiny', width=4)
  images = jnp.ones([4, 8, 8, 1])
  variables = backbone.init(jax.random.key(0), images, train=False)

  @jax.jit
  def function(params, images):
    def loss(params):
      views = jax.named_scope('augmentation')(lambda x: jnp.sin(x) * 2)(images)
      stats = {'params': params, 'batch_stats': variables['batch_stats']}
      h, _ = backbone.apply(stats, views, train=True, mutable=['batch_stats'])
      return jnp.sum(h**2)

    return jax.grad(loss)(params)

  compiled = function.lower(variables['params'], images).compile()
  return compiled.as_text(), compiled, (variables['params'], images)


@pytest.mark.slow
def test_every_convolution_is_one(gradient):
  """Operations of the weights' gradients lose their names on the way."""
  text = gradient[0]
  kinds = profile._kinds(text)
  bodies = hlo.read(text).computations.values()
  names = [op.name for body in bodies for op in body.values() if op.opcode == 'convolution']
  assert len(names) > 20  # 9 convolutions, their two gradients but for the images'
  assert {kinds[name] for name in names} == {PRODUCTS}
  found = set(kinds.values())
  assert {PRODUCTS, NORMALIZATION, 'augmentation', OTHER} <= found and found <= set(profile.KINDS)


def test_kinds_by_name_scope_and_content():
  text = """
%fused (a: f32[2]) -> f32[2] {
  %a = f32[2]{0} parameter(0)
  ROOT %dot.1 = f32[2,2]{1,0} dot(%a, %a), lhs_contracting_dims={0}
}

ENTRY %main (x: f32[2]) -> f32[2] {
  %x = f32[2]{0} parameter(0)
  %fusion.1 = f32[2,2]{1,0} fusion(%x), kind=kOutput, calls=%fused
  %gemm = f32[2]{0} custom-call(%x), custom_call_target="__cublas$lt$matmul"
  %mul.7 = f32[2]{0} multiply(%x, %x), metadata={op_name="jit(f)/transpose(jvp(R))/bn2/mul"}
  %dot.2 = f32[2]{0} dot(%x, %x), metadata={op_name="jit(f)/optimizer/dot_general"}
  %norm.3 = f32[2]{0} multiply(%x, %x), metadata={op_name="jit(f)/jvp(MLPHead)/norm0/mul"}
  %norm.4 = f32[2]{0} multiply(%x, %x), metadata={op_name="jit(f)/jvp(ViT)/norm/mul"}
  %norm.5 = f32[2]{0} multiply(%x, %x), metadata={op_name="jit(f)/jit(norm)/mul"}
  %exp.1 = f32[2]{0} exponential(%x), metadata={op_name="jit(f)/blocks_0/attention/exp"}
  %dot.3 = f32[2]{0} dot(%x, %x), metadata={op_name="jit(f)/blocks_0/mlp/mlp_fc1/dot_general"}
  %erf.1 = f32[2]{0} erf(%x), metadata={op_name="jit(f)/transpose(jvp(ViT))/blocks_0/mlp/erf"}
  %all-reduce-start.1 = f32[2]{0} all-reduce-start(%x), metadata={op_name="jit(f)/bn1/mean"}
  ROOT %add = f32[2]{0} add(%x, %x), metadata={op_name="jit(f)/normalize/bnb/add"}
}
"""
  kinds = profile._kinds(text)
  assert kinds == {
    'a': OTHER,
    'x': OTHER,
    'dot.1': PRODUCTS,
    'fusion.1': PRODUCTS,
    'gemm': PRODUCTS,
    'mul.7': NORMALIZATION,
    'dot.2': 'optimizer, state',
    'norm.3': NORMALIZATION,
    'norm.4': NORMALIZATION,
    'norm.5': OTHER,
    'exp.1': 'rest of attention',
    'dot.3': PRODUCTS,
    'erf.1': 'rest of MLPs',
    'all-reduce-start.1': 'communication',
    'add': OTHER,
  }


def test_a_loop_has_what_its_body_leaves():
  line = [Run('while', 0, 10), Run('a', 1, 4), Run('b', 4, 9), Run('c', 5, 6), Run('d', 12, 13)]
  own = profile._own_times(line[::-1])
  assert dict(own) == {'while': 2, 'a': 3, 'b': 4, 'c': 1, 'd': 1}
  assert profile._idle(line) == pytest.approx(2 / 13)
  assert profile._idle([Run('a', 0, 4), Run('b', 2, 5), Run('c', 2, 3)]) == 0


@pytest.mark.slow
def test_a_real_trace(gradient):
  text, function, arguments = gradient
  assert profile.measure(text, lambda: None) is None
  found = profile.measure(text, lambda: jax.block_until_ready(function(*arguments)))
  shares = found['operations']
  assert list(shares) == list(profile.KINDS) and sum(shares.values()) == pytest.approx(1)
  assert min(shares[PRODUCTS], shares[NORMALIZATION]) > 0.005 and shares['communication'] == 0
  assert found['idle'] is None
  # Operations of other programs do not count.
  assert profile.measure('', lambda: jax.block_until_ready(function(*arguments))) is None


def test_one_device_and_the_line_of_operations_on_a_tpu(monkeypatch):
  def event(name, **stats):
    return types.SimpleNamespace(
      start_ns=0.0, duration_ns=1.0, stats=[('hlo_op', name), *stats.items()]
    )

  def plane(name, **lines):
    lines = [types.SimpleNamespace(name=k.replace('_', ' '), events=v) for k, v in lines.items()]
    return types.SimpleNamespace(name=name, lines=lines)

  planes = [
    plane('/host:CPU', thread=[event('host', device_ordinal=0)]),
    plane('/device:TPU:1', XLA_Ops=[event('other')]),
    plane('/device:TPU:0', XLA_Modules=[event('module')], XLA_Ops=[event('a'), event('b')]),
  ]
  data = types.SimpleNamespace(
    from_serialized_xspace=lambda raw: types.SimpleNamespace(planes=planes)
  )
  monkeypatch.setattr(profile.jax.profiler, 'ProfileData', data)
  file = types.SimpleNamespace(read_bytes=lambda: b'')
  assert [[op.name for op in line] for line in profile._lines(file)] == [['a', 'b']]
  planes[1:] = []
  planes[0].lines[0].events.append(event('second device', device_ordinal=1))
  assert [[op.name for op in line] for line in profile._lines(file)] == [['host']]
