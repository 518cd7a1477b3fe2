"""A run of a vision transformer without any batch statistics: checkpoint, tokens, export."""

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

import clr_jax
from clr_jax.core.errors import UserError
from clr_jax.evaluation.probing.subject import Subject
from clr_jax.evaluation.probing.tokens import features_of_tokens
from clr_jax.evaluation.protocols import knn, token_knn
from clr_jax.evaluation.runner import evaluation_sets
from clr_jax.experiment import config_base
from clr_jax.experiment.build import build_experiment
from clr_jax.models.positions import sine_cosine
from clr_jax.rundir.checkpoint import Checkpoints
from clr_jax.rundir.identity import open_run
from clr_jax.rundir.state_dicts import load_backbone
from clr_jax.rundir.workdir import Workdir
from tests import tiny

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1), np.uint8)
SMALL = {'width': 8, 'depth': 2, 'heads': 2, 'patch': 4, 'positions': 'sine_cosine'}


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  directory = tmp_path_factory.mktemp('runs') / 'vit'
  config = tiny.get_config('simclr')
  config.model = config_base.model('vit_tiny', **SMALL, mean=(0.5,), std=(0.5,), pool='mean')
  config.method.projector = 'solo_simclr'
  experiment = build_experiment(config, devices=jax.devices()[:1])
  open_run(Workdir(directory), config, (), experiment.data_facts())
  state = experiment.init()
  assert not jax.tree.leaves(state.state['batch_stats'])
  with Checkpoints(directory) as checkpoints:
    assert checkpoints.save(0, state)
  return directory, experiment, state


@pytest.mark.slow
def test_export(run, tmp_path):
  directory, experiment, state = run
  encoder = clr_jax.load(directory)
  floats = IMAGES.astype(np.float32) / 255
  want = experiment.plain.represent(state.params, state.state, floats)['h']
  np.testing.assert_allclose(encoder.represent(IMAGES), want, atol=1e-5)

  with pytest.raises(UserError, match=r'torchvision has no vit_tiny .*: give --format=timm'):
    clr_jax.export(directory, tmp_path / 'no')
  assert not (tmp_path / 'no').exists()
  clr_jax.export(directory, tmp_path / 'out', format='timm')
  tensors = load_file(tmp_path / 'out' / 'model.safetensors')
  np.testing.assert_allclose(tensors['pos_embed'][0, 1:], sine_cosine(2, 2, 8), atol=1e-6)
  assert not tensors['pos_embed'][0, 0].any()
  card = (tmp_path / 'out' / 'README.md').read_text()
  assert "timm.create_model('vit_tiny_patch16_224', num_classes=0, img_size=8, patch_size=4" in card
  assert "global_pool='avg', fc_norm=False" in card
  read, _, report = load_backbone(
    tmp_path / 'out' / 'model.safetensors', jax.tree.map(np.zeros_like, state.params), {}
  )
  jax.tree.map(np.testing.assert_array_equal, read['backbone'], state.params['backbone'])
  assert '29 of 29 arrays' in report


@pytest.mark.slow
def test_tokens(run):
  directory, experiment, state = run
  encoder = clr_jax.load(directory)
  tokens = encoder.represent(IMAGES, tokens=True, batch_size=3)
  assert tokens.shape == (5, 4, 8)
  np.testing.assert_allclose(tokens.mean(1), encoder.represent(IMAGES), atol=1e-5)
  subject = Subject(experiment, evaluation_sets(experiment), state)
  train, test = features_of_tokens(subject, 'token_and_mean', 2)
  assert train.h.shape == (1437, 24)
  np.testing.assert_allclose(test.h[:, 16:], subject.features[1].h, atol=1e-5)
  (found,) = token_knn.measure(subject, tokens='mean', k=5)
  (same,) = knn.measure(subject, k=5)  # of the run's own pool
  assert (found.protocol, found.params['last_blocks']) == ('token_knn', 1)
  assert found.value == same.value
