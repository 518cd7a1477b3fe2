"""`clr-jax export`: the weights in the names of others, and what their code computes with them."""

import importlib.util
import json
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

import clr_jax
from clr_jax.core.errors import UserError
from clr_jax.experiment.build import build_experiment
from clr_jax.experiment.config_files import load
from clr_jax.models import factory
from clr_jax.models.torch_names import Backbone, from_torch, to_torch
from clr_jax.rundir.checkpoint import Checkpoints
from clr_jax.rundir.identity import open_run
from clr_jax.rundir.workdir import Workdir
from clr_jax.training.start import check_init_from, start_or_resume
from tests import tiny
from tests.expected import FOLDER

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1), np.uint8)


def write_run(directory, method, **changes):
  """A run with a checkpoint of step 0, whose statistics are not the initial ones."""
  config = load(f'{tiny.__file__}:{method}')
  with config.unlocked():
    config.update_from_flattened_dict(changes)
  experiment = build_experiment(config, devices=jax.devices()[:1])
  open_run(Workdir(directory), config, (), experiment.data_facts())
  state = experiment.init()
  stats = jax.tree.map(lambda x: x + 0.1, state.state['batch_stats'])
  state = state.replace(state={**state.state, 'batch_stats': stats})
  with Checkpoints(directory) as checkpoints:
    assert checkpoints.save(0, state)
  return experiment, state


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  directory = tmp_path_factory.mktemp('runs') / 'simclr'
  return directory, *write_run(directory, 'simclr')


@pytest.fixture(scope='module')
def encoder(run):
  return clr_jax.load(run[0])


def test_an_encoder_represents_as_the_method_does(run, encoder):
  _, experiment, state = run
  floats = IMAGES.astype(np.float32) / 255
  want = experiment.method.represent(state.params, state.state, floats)['h']
  got = encoder.represent(IMAGES, batch_size=3)
  assert got.shape == (5, encoder.num_features) and got.dtype == np.float32
  np.testing.assert_allclose(got, want, atol=1e-5)
  np.testing.assert_allclose(encoder.represent(floats[..., 0], batch_size=3), want, atol=1e-5)
  assert encoder.represent(IMAGES[:0]).shape == (0, encoder.num_features)
  assert (encoder.step, encoder.image_shape) == (0, (8, 8, 1))


@pytest.mark.slow
def test_the_target_where_the_method_is_evaluated_by_it(tmp_path):
  _, state = write_run(tmp_path / 'run', 'byol', **{'method.represent': 'target'})
  target = clr_jax.load(tmp_path / 'run')
  want = state.state['target']['params']['backbone']
  jax.tree.map(np.testing.assert_array_equal, target.variables['params'], want)


@pytest.mark.parametrize(
  ('images', 'words'),
  [
    (IMAGES[0, ..., 0].astype(float), 'give \\[N, H, W, 1\\]'),
    (np.repeat(IMAGES, 3, -1), 'give \\[N, H, W, 1\\]'),
    (IMAGES.astype(int), 'give uint8'),
    (IMAGES.astype(float), 'divide them by 255'),
  ],
)
def test_images_that_do_not_fit(encoder, images, words):
  with pytest.raises(UserError, match=words):
    encoder.represent(images)


def test_files_of_an_export(run, tmp_path):
  directory, _, state = run
  written = clr_jax.export(directory, tmp_path / 'out', head=True)
  names = {p.name for p in (tmp_path / 'out').iterdir()}
  assert names == {p.name for p in written}
  tensors = load_file(tmp_path / 'out' / 'model.safetensors')
  assert tensors['layer1.0.conv1.weight'].shape[2:] == (3, 3)
  like = Backbone(state.params['backbone'], state.state['batch_stats']['backbone'])
  back, read, missing = from_torch(tensors, like)
  assert not missing and set(read) == tensors.keys()
  jax.tree.map(np.testing.assert_array_equal, back, like)
  head = load_file(tmp_path / 'out' / 'head.safetensors')
  kernel = state.params['projector']['linear0']['kernel']
  np.testing.assert_array_equal(head['linear0.weight'].T, kernel)
  config = json.loads((tmp_path / 'out' / 'config.json').read_text())
  assert config['method']['name'] == 'simclr'
  card = (tmp_path / 'out' / 'README.md').read_text()
  assert 'resnet_tiny by simclr on digits' in card and 'model.py' in card
  assert len((tmp_path / 'out' / 'model.py').read_text().splitlines()) < 60

  clr_jax.export(directory, tmp_path / 'out', format='flax')  # over an earlier export
  flax = load_file(tmp_path / 'out' / 'model.safetensors')
  np.testing.assert_array_equal(flax['params/conv1/kernel'], like.params['conv1']['kernel'])


@pytest.mark.parametrize(
  ('options', 'words'),
  [
    ({'format': 'onnx'}, "'onnx'"),
    ({'step': 7}, '7'),
    ({'out': 'foreign'}, "'thesis.tex'"),
    ({'out': 'folders'}, "'model.py', which no export wrote"),
    ({'out': 'file'}, 'is a file'),
    ({'out': 'file/new'}, r'file/new cannot be written \(Not a directory\): give another folder'),
  ],
)
def test_refused(run, tmp_path, options, words):
  (tmp_path / 'folders' / 'model.py').mkdir(parents=True)
  (tmp_path / 'foreign').mkdir()
  (tmp_path / 'foreign' / 'thesis.tex').touch()
  (tmp_path / 'file').touch()
  options = {'out': 'new', **options}
  with pytest.raises(UserError, match=words):
    clr_jax.export(run[0], **{**options, 'out': tmp_path / options['out']})
  assert not (tmp_path / 'new').exists()


LACKS = r'config\.json of .*/run cannot be used \(the config needs a value for data\)'


@pytest.mark.parametrize(
  ('file', 'change', 'words'),
  [
    ('config.json', lambda record: record['config'].pop('data'), LACKS),
    ('config.json', lambda record: record['config'].update(method=[1]), r'method=\(1,\) is not'),
    ('data.json', lambda facts: facts.update({'image shape': 'abc'}), 'does not say the shape'),
  ],
)
def test_damaged_records(run, tmp_path, file, change, words):
  shutil.copytree(run[0], tmp_path / 'run')
  record = json.loads((tmp_path / 'run' / file).read_text())
  change(record)
  (tmp_path / 'run' / file).write_text(json.dumps(record))
  with pytest.raises(UserError, match=words):
    clr_jax.export(tmp_path / 'run', tmp_path / 'new')
  assert not (tmp_path / 'new').exists()


@pytest.mark.parametrize(
  'name',
  [
    'resnet18',
    'resnet50',
    *(pytest.param(n, marks=pytest.mark.slow) for n in ('resnet34', 'resnet101')),
  ],
)
def test_names_and_shapes_are_torchvisions(name):
  """So that its own networks load an export with strict=True."""
  module = factory(name)()
  shapes = jax.eval_shape(
    lambda: module.init(jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32), train=False)
  )
  empty = jax.tree.map(lambda x: np.broadcast_to(np.float32(0), x.shape), shapes)
  tensors = to_torch(Backbone(empty['params'], empty['batch_stats']))
  known = json.loads((FOLDER / 'torchvision_names.json').read_text())
  assert {k: list(v.shape) for k, v in tensors.items()} == known[name]


@pytest.mark.slow
@pytest.mark.parametrize(
  'model',
  [
    {'stem': 'cifar'},
    {'stem': 'imagenet', 'downsample': 'avgpool'},
    {'stem': 'cifar_pad2', 'mean': (0.3,), 'std': (0.2,)},
  ],
)
def test_plain_pytorch_computes_the_same_features(tmp_path, model):
  torch = pytest.importorskip('torch')
  pytest.importorskip('safetensors.torch')
  write_run(tmp_path / 'run', 'simclr', **{f'model.{k}': v for k, v in model.items()})
  clr_jax.export(tmp_path / 'run', tmp_path / 'out')
  spec = importlib.util.spec_from_file_location('exported_model', tmp_path / 'out' / 'model.py')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  network = module.load(tmp_path / 'out' / 'model.safetensors')
  with torch.no_grad():
    got = network(torch.tensor(IMAGES.transpose(0, 3, 1, 2) / np.float32(255))).numpy()
  want = clr_jax.load(tmp_path / 'run').represent(IMAGES)
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5 * np.abs(want).max())


@pytest.mark.slow
def test_a_run_starts_from_an_exported_file(run, tmp_path, capsys):
  directory, _, state = run
  clr_jax.export(directory, tmp_path / 'out')
  file = str(tmp_path / 'out' / 'model.safetensors')
  config = load(f'{tiny.__file__}:byol')
  with config.unlocked():
    config.init_from = file
  other = build_experiment(config, devices=jax.devices()[:1])
  new = Workdir(tmp_path / 'new')
  check_init_from(config, new, other)
  with Checkpoints(new) as checkpoints:
    start = start_or_resume(other, new, checkpoints)
  assert start.step == 0 and f'weights from {file}' in capsys.readouterr().out
  for found in (start.state.params, start.state.state['target']['params']):
    jax.tree.map(np.testing.assert_array_equal, found['backbone'], state.params['backbone'])
  stats = start.state.state['batch_stats']['backbone']
  jax.tree.map(np.testing.assert_array_equal, stats, state.state['batch_stats']['backbone'])
  with config.unlocked():
    config.model.width = 8
  wide = build_experiment(config, devices=jax.devices()[:1])
  with pytest.raises(UserError, match=r'does not fit the backbone .* set config.model'):
    check_init_from(config, Workdir(tmp_path / 'wide'), wide)
