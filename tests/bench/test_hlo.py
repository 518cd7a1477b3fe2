"""The reader of compiled modules, on short ones: kernels, parts, arithmetic, traffic."""

import pathlib

import pytest

from clr_jax.bench import hardware, hlo
from clr_jax.bench.plan import bound, parts, targets, work

HERE = pathlib.Path(__file__).parent


@pytest.fixture(scope='module', params=['gpu', 'tpu'])
def any_module(request):
  return hlo.read((HERE / f'{request.param}.hlo').read_text())


@pytest.fixture(scope='module')
def gpu():
  return hlo.read((HERE / 'gpu.hlo').read_text())


@pytest.fixture(scope='module')
def tpu():
  return hlo.read((HERE / 'tpu.hlo').read_text())


def kernel(module, name):
  return next(k.instruction for k in hlo.kernels(module) if k.instruction.name == name)


def test_everything_is_read(any_module):
  entry = any_module.computations[any_module.entry]
  assert any_module.entry == 'main' and [op.root for op in entry.values()][-1]
  named = {name for body in any_module.computations.values() for name in body}
  for body in any_module.computations.values():
    for op in body.values():
      assert set(op.operands) <= named and set(op.called) <= set(any_module.computations), op


@pytest.mark.parametrize(
  ('shape', 'size'), [('f32[16,8]', 512), ('bf16[3]', 6), ('s32[]', 4), ('pred[7]', 7)]
)
def test_bytes_of_an_array(shape, size):
  assert hlo.Shape(shape).num_bytes == size


def test_what_runs_is_counted(gpu):
  found = [(k.instruction.name, k.times) for k in hlo.kernels(gpu)]
  assert found == [
    ('loop_convert_fusion', 1),
    ('cudnn-conv.20', 1),
    ('input_reduce_fusion', 1),
    ('all-reduce-start', 1),
    ('wrapped_slice', 1),
    ('all-gather-start', 1),
    ('negated', 10),  # in the loop
    ('copy.3', 1),
    ('loop_add_fusion', 1),
  ]


def test_parts(gpu):
  costs = parts.costs(gpu)
  assert {part: row['kernels'] for part, row in costs.items() if row['kernels']} == {
    'augmentation': 1,
    parts.CONVOLUTIONS: 1,
    'normalization': 1,  # by what it holds
    'loss': 10,
    'optimizer': 1,
    parts.COMMUNICATION: 3,  # with what takes a result apart
    parts.COPIES: 1,
  }
  weights, pixels = 9 * 64 * 64, 64 * 32 * 32 * 3
  assert costs['optimizer']['flops'] == 2 * weights and costs['optimizer']['product_flops'] == 0
  assert costs['optimizer']['bytes'] == 4 * 4 * weights
  assert costs['normalization']['flops'] == 128 * 32 * 32 * 64
  # Only the rows that are gathered are read.
  assert costs['augmentation']['bytes'] == pixels + 4 * 64 + 4 * pixels
  assert costs[parts.CONVOLUTIONS]['flops'] == costs[parts.CONVOLUTIONS]['product_flops'] > 0


def test_shares(gpu):
  """By cycles where the compiler states them, else by the longer of products and memory."""
  h200, v5e, cpu = map(targets.parse, ('h200:1', 'v5e:1x1', 'cpu:1'))
  rows = {
    'crops': {'product_flops': 989.5e10, 'bytes': 4.8e10, 'cycles': 1},
    'loss': {'product_flops': 0, 'bytes': 4.8e10, 'cycles': 3},
  }
  assert bound.shares(v5e, 'bfloat16', rows) == {'crops': 0.25, 'loss': 0.75}
  without = {part: row | {'cycles': 0} for part, row in rows.items()}
  assert bound.shares(h200, 'bfloat16', without) == {'crops': 0.5, 'loss': 0.5}
  assert bound.shares(cpu, 'bfloat16', without) == {}


def test_kernels_one_after_another_take_the_longest_of_their_rates(gpu):
  h200, v5e = targets.parse('h200:1'), targets.parse('v5e:1x1')
  found = bound.one_after_another(h200, 'float32', gpu, sent=0)
  chip, peak = h200.chip, hardware.peak(h200.chip.kind, 'float32')
  costs = parts.costs(gpu)
  least = bound.seconds(h200, 'float32', costs, kept=0, sent=0)
  total = {key: sum(row[key] for row in costs.values()) for key in ('product_flops', 'bytes')}
  rates = total['product_flops'] / peak, total['bytes'] / chip.bandwidth
  assert max(least['bound'], *rates) < found < sum(rates) + least['launches']
  sent = bound.one_after_another(h200, 'float32', gpu, sent=10**9)
  assert sent - found == pytest.approx(1e9 / chip.interconnect)
  assert bound.one_after_another(v5e, 'float32', gpu, sent=0) is None  # it has cycles


@pytest.mark.parametrize(
  ('name', 'part'),
  [
    ('jit(step)/augmentation/crop/add', 'crops'),
    ('jit(step)/augmentation/vmap(crop)/jit(_uniform)/shift', 'crops'),
    ('jit(step)/augmentation/mul', 'augmentation'),
    ('jit(step)/crop/mul', parts.REST),
  ],
)
def test_crops_are_a_part_of_their_own(name, part):
  text = f'''HloModule m

ENTRY %main (a: f32[4]) -> f32[4] {{
  %a = f32[4]{{0}} parameter(0)
  ROOT %b = f32[4]{{0}} negate(%a), metadata={{op_name="{name}"}}
}}'''
  assert parts.costs(hlo.read(text))[part]['kernels'] == 1


def test_operations_of_a_convolution(gpu, tpu):
  """Padding does not count: of 3 x 32 taps along an axis two meet no pixel."""
  body = gpu.computations[gpu.entry]
  found = work.product_flops(gpu, kernel(gpu, 'cudnn-conv.20'), body)
  assert found == 2 * 128 * 64 * 64 * (3 * 32 - 2) ** 2
  body = tpu.computations[tpu.entry]
  found = work.product_flops(tpu, kernel(tpu, 'fusion.1'), body)
  assert found == 2 * 8 * 16 * 32 * (3 * 4 - 1) ** 2


@pytest.mark.parametrize('kind', ['BackwardInput', 'BackwardFilter'])
def test_the_gradients_of_a_convolution_cost_the_same(gpu, kind):
  image, kernels, result = 'bf16[4,9,9,8]', 'bf16[16,3,3,8]', 'bf16[4,5,5,16]'
  order = {
    'Forward': (result, image, kernels),
    'BackwardInput': (image, result, kernels),
    'BackwardFilter': (kernels, image, result),
  }

  def flops(kind):
    out, first, second = order[kind]
    text = f"""HloModule m

ENTRY %main (a: {first}, b: {second}) -> {out} {{
  %a = {first}{{3,2,1,0}} parameter(0)
  %b = {second}{{3,2,1,0}} parameter(1)
  ROOT %c = ({out}{{3,2,1,0}}, u8[0]{{0}}) custom-call(%a, %b), window={{size=3x3 stride=2x2 \
pad=1_1x1_1}}, dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$conv{kind}"
}}
"""
    module = hlo.read(text)
    return work.product_flops(module, kernel(module, 'c'), module.computations['main'])

  assert flops(kind) == flops('Forward') == 2 * 4 * 8 * 16 * (3 * 5 - 2) ** 2


def test_tpus_estimate_their_cycles(tpu):
  costs = parts.costs(tpu)
  row = costs[parts.CONVOLUTIONS]
  assert row['kernels'] == 1 and row['cycles'] == 81756
  # The copy brings the images to the chip's memory, where the convolution finds them.
  assert costs[parts.COPIES]['bytes'] == 2 * 8 * 8 * 8 * 16 and not costs[parts.COPIES]['kernels']
  assert row['bytes'] == 2 * 9 * 16 * 32 + 2 * 8 * 4 * 4 * 32
  assert sum(r['kernels'] for r in costs.values()) == 1  # the key's shift costs no program


def test_collectives(gpu):
  assert parts.collectives(gpu, 4) == {
    'all-reduce': {'count': 1, 'bytes': 256, 'ring_bytes': 384},
    'all-gather': {'count': 1, 'bytes': 4 * 64 * 128, 'ring_bytes': 3 * 64 * 128},
  }


def test_parts_of_a_transformer():
  module = hlo.read("""
ENTRY %main (x: bf16[4,4]) -> bf16[4,4] {
  %x = bf16[4,4]{1,0} parameter(0)
  %dot.1 = bf16[4,4]{1,0} dot(%x, %x), metadata={op_name="jit(f)/b/attention/qkv/dot_general"}
  %exp.1 = bf16[4,4]{1,0} exponential(%dot.1), metadata={op_name="jit(f)/b/attention/exp"}
  %erf.1 = bf16[4,4]{1,0} erf(%exp.1), metadata={op_name="jit(f)/b/mlp/erf"}
  %mul.1 = bf16[4,4]{1,0} multiply(%erf.1, %x), metadata={op_name="jit(f)/jvp(ViT)/norm/mul"}
  ROOT %mul.2 = bf16[4,4]{1,0} multiply(%mul.1, %x), metadata={op_name="jit(f)/jit(norm)/mul"}
}
""")
  kernels = {part: row['kernels'] for part, row in parts.costs(module).items() if row['kernels']}
  assert kernels == {'attention': 2, 'MLP': 1, 'normalization': 1, parts.REST: 1}
