"""A run of a small vision transformer has everything that those of ResNets have."""

import numpy as np
import pytest

from clr_jax.experiment import config_base as common
from clr_jax.rundir.rows import read_metrics
from clr_jax.rundir.workdir import Workdir
from clr_jax.training import loop
from tests.cli.calling import call
from tests.evaluation.runs import (
  one_device,  # noqa: F401  (a fixture)
  results,
  tiny,
)

pytestmark = [pytest.mark.weekly, pytest.mark.xdist_group('transformers')]
BLOCKS = (0.1, 1.0)


@pytest.fixture(scope='module')
def directory(tmp_path_factory, one_device):  # noqa: F811
  """SimCLR with telemetry, the loss of each block, and the squared gradient of the images."""
  directory = tmp_path_factory.mktemp('run')
  config = tiny('simclr', **{'plugins.layerwise.weights': BLOCKS, 'plugins.tikhonov.weight': 0.1})
  config.telemetry.enabled, config.telemetry.every, config.log_every = True, 2, 2
  options = {'width': 8, 'depth': len(BLOCKS), 'heads': 2, 'patch': 4, 'mlp_ratio': 2}
  config.model = common.model('vit_tiny', **options, drop_path=0.1)
  config.optimizer = common.optimizer('adamw', learning_rate=1e-3, clip_norm=3.0)
  loop.train(config, str(directory))
  return directory


def measured(directory, protocol):
  return {r['metric']: r['value'] for r in results(directory) if r['protocol'] == protocol}


def test_training_writes_telemetry_and_penalties(directory):
  row = read_metrics(Workdir(directory))[-1]
  names = ('layerwise_loss', 'tikhonov_penalty', 'telemetry/alignment', 'telemetry/neg_hist')
  for name in names:
    assert np.isfinite(row[name]).all(), name


@pytest.mark.parametrize(
  ('protocol', 'options', 'metric'),
  [
    ('knn', {'k': 5}, 'top1'),
    ('token_knn', {'k': 5, 'last_blocks': 2}, 'top1'),
    ('finetune', {'layer_decay': 0.65, 'epochs': 2, 'label_fraction': 0.2}, 'top1'),
    ('robustness', {'attack': 'pgd_l2', 'steps': 2, 'num_images': 16}, 'median_distance'),
    ('robustness', {'attack': 'plb_l2', 'outer': 2, 'inner': 2, 'num_images': 16}, 'clean_top1'),
    ('robustness', {'attack': 'corruptions', 'num_images': 16}, 'mean_corrupted_top1'),
  ],
)
def test_protocols(directory, protocol, options, metric, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  flags = [f'--params.{name}={value}' for name, value in options.items()]
  assert call('evaluate', protocol, f'--workdir={directory}', *flags) == 0
  assert np.isfinite(measured(directory, protocol)[metric])


@pytest.mark.parametrize('figure', ['curves', 'attention', 'scores', 'gradients', 'embedding'])
def test_figures(directory, figure, tmp_path):
  out = tmp_path / 'figure.png'
  flags = [f'--workdir={directory}', f'--out={out}']
  assert call('inspect', figure, *flags) == 0 and any(tmp_path.glob('figure*.png'))


def test_report(directory, tmp_path):
  assert call('report', f'--workdir={directory}', f'--out={tmp_path}/report.html') == 0
  text = (tmp_path / 'report.html').read_text()
  assert 'vit_tiny' in text and 'telemetry' in text
