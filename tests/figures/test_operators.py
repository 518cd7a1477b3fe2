"""`clr-jax inspect operators`: the operators of a policy on images, without a trained run."""

import jax
import numpy as np
import pytest

from clr_jax import augment
from clr_jax.augment import policies
from clr_jax.augment.operators import operators_of
from clr_jax.core.errors import UserError
from clr_jax.figures.drawing.data import Mosaic
from clr_jax.figures.operators import operators as figure
from clr_jax.rundir.reader import read_runs
from tests.cli.calling import call
from tests.figures.run_files import read_csv, write_run

IMAGES = np.random.default_rng(0).uniform(size=(3, 8, 8, 3)).astype(np.float32)


def test_operators_of_policies_in_order():
  policy = policies.make('sogclr', size=8, blur_p=0.3, noise_sigma=0.1, rand_ops=1)
  found = operators_of(policy)
  assert [operator.name for operator in found] == [
    *('resized crop', 'flip', 'color jitter', 'grayscale', 'blur', 'RandAugment'),
    'gaussian noise',
  ]
  assert [operator.probability for operator in found] == [1, 0.5, 0.8, 0.2, 0.3, 1, 0.5]
  assert [operator.takes_whole for operator in found] == [True] + [False] * 6
  assert found[4].options == {'sigma': (0.1, 2.0), 'kernel_size': 9}
  names = [operator.name for operator in operators_of(policies.make('autoaugment', size=8))]
  assert names == ['crop', 'flip', 'AutoAugment']


def test_an_operator_is_applied_to_every_image():
  flip = operators_of(policies.make('rrc_flip', size=8))[1]
  np.testing.assert_array_equal(flip.apply(jax.random.key(0), IMAGES), IMAGES[:, :, ::-1])
  assert operators_of(policies.make('none', size=8)) == []


@pytest.fixture
def nothing_is_applied(monkeypatch):
  """Panels show the images, without compiling the operators."""
  monkeypatch.setattr(
    'clr_jax.figures.operators._applied',
    lambda policy, key, given: np.zeros([len(getattr(given, 'image', given)), 8, 8, 1]),
  )


def test_a_figure_without_runs(tmp_path, monkeypatch, capsys, nothing_is_applied):
  monkeypatch.chdir(tmp_path)
  assert call('inspect', 'operators', '--params.num_images=5') == 0
  assert capsys.readouterr().out.split() == ['operators.png', 'operators.csv']
  rows = read_csv('operators.csv')
  assert [row['operator'] for row in rows] == ['affine', 'color jitter', 'gaussian noise']
  assert rows[2]['options'] == "{'sigma': 0.05}"


def test_panels_of_a_run_with_different_views(tmp_path, nothing_is_applied):
  run = write_run(tmp_path / 'a', method='simclr')
  runs, _ = read_runs([run])
  (drawn,) = figure(runs, num_images=4).drawn
  titles = [panel.title for panel in drawn.panels]
  assert titles == ['images', 'affine', 'color jitter', 'gaussian noise', 'all together']
  assert len(drawn.panels[0].marks_of(Mosaic)[0].cells) == 4
  assert 'degrees 15' in drawn.panels[1].note

  views = augment.Views(tuple(policies.make('crop_flip', size=8, padding=n) for n in (1, 2)))
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr('clr_jax.figures.operators.augment.make', lambda **_: views)
    assert [part.name for part in figure(runs).drawn] == ['view-1', 'view-2']


def test_bad_input():
  with pytest.raises(UserError, match='no config file'):
    figure(config='nowhere')
  with pytest.raises(UserError, match=r'--params\.data=npz:nowhere'):
    figure(data='npz:nowhere')
