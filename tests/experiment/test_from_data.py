"""The config `images`: what follows from the images, what flags keep, what is refused."""

import numpy as np
import pytest
from PIL import Image

import clr_jax
from clr_jax import data, methods
from clr_jax.core.errors import UserError
from clr_jax.data import survey
from clr_jax.evaluation import runner
from clr_jax.experiment.build import build_experiment
from clr_jax.experiment.from_data import HELD_OUT
from tests.cli.calling import call
from tests.method_cases import SKELETONS


def folder(path, splits=('',), classes=('a', 'b', 'c'), each=10, sides=(20, 30), seed=0):
  """RGB images of noise, of sides between two numbers; returns the name of the data set."""
  rng = np.random.default_rng(seed)
  for split in splits:
    for name in classes:
      (path / split / name).mkdir(parents=True, exist_ok=True)
      for i in range(each):
        shape = (*rng.integers(*sides, 2, endpoint=True), 3)
        pixels = rng.integers(0, 256, shape).astype(np.uint8)
        Image.fromarray(pixels).save(path / split / name / f'{split}{i}.png')
  return f'folder:{path}'


def images(name, method='simclr', **values):
  given = {'data.name': name, **{k.replace('__', '.'): v for k, v in values.items()}}
  return clr_jax.load_config(f'images:{method}', given)


def test_class_folders_without_a_test_folder(tmp_path, capsys):
  config = images(folder(tmp_path), num_epochs=20.0)
  assert (config.data.train_split, config.data.test_split) == HELD_OUT
  assert 20 <= config.augment.size <= 30 and config.data.image_size is None
  assert config.data.canvas == 64  # 16/7 of the views' side, in steps of 32
  assert config.model.name == 'resnet_tiny' and config.model.stem == 'cifar'
  assert config.batch_size == 8  # of 27
  assert config.schedule.warmup_epochs == config.eval_every == 2.0
  assert config.eval.protocols.linear.label_fraction == (0.1, 1.0)  # one percent has no label
  assert config.eval.protocols.knn.k == 5
  experiment = build_experiment(config)
  source = experiment.source
  assert source.stored_shape == (64, 64, 3)
  pixels = source.load(np.arange(27))[0] / 255
  np.testing.assert_allclose(config.model.mean, pixels.mean((0, 1, 2)), atol=1e-4)
  np.testing.assert_allclose(config.model.std, pixels.std((0, 1, 2)), atol=1e-4)
  out, err = capsys.readouterr()
  assert not out and err.count('\n') == 1
  assert err.startswith(
    'from the images (no labeled test split: a tenth is held out): augment.size'
  )
  assert (experiment.source.num_examples, experiment.test.num_examples) == (27, 3)
  assert images(config.data.name, num_epochs=20.0) == config  # the same command resumes
  short = images(config.data.name, num_epochs=3.0)
  assert short.eval_every == short.checkpoint_every == 1.0  # not after every few steps


def test_what_is_there_and_what_is_given_stays(tmp_path, capsys):
  name = folder(tmp_path, splits=('train', 'val'), sides=(300, 300), each=2)
  config = images(name)
  assert (config.data.train_split, config.data.test_split) == ('train', 'val')
  assert (config.data.image_size, config.data.canvas, config.augment.size) == (None, 512, 224)
  assert (config.model.name, config.model.stem) == ('resnet18', 'imagenet')
  said = capsys.readouterr().err
  assert said.count('\n') == 1 and 'model.name=resnet18, model.stem=imagenet' in said
  assert config.eval.features == ('trained', 'untrained')
  given = {
    'data.image_size': 24, 'augment.size': 20, 'model.mean': (0.5,), 'batch_size': 4,
    'schedule.warmup_epochs': 1.0, 'eval.protocols.knn.k': (3,), 'data.test_split': '',
    'model.name': 'resnet34', 'model.stem': 'cifar_pad2',
  }  # fmt: skip
  config = images(name, **given)
  for key, value in given.items():
    assert dict(clr_jax.core.config_tree.leaves(config))[key] == value, key
  assert config.data.train_split == 'train' and len(config.model.std) == 3


def test_a_flat_folder_and_labeled_images_beside_it(tmp_path):
  folder(tmp_path / 'x', classes=('',), each=20)
  flat = f'folder:{tmp_path / "x"}'
  config = images(flat)
  assert (config.data.train_split, config.data.test_split) == ('train', '')
  assert runner.check(build_experiment(config)).missing == 'is no test set'
  labeled = folder(tmp_path / 'y', each=20, seed=1)
  config = images(flat, eval__data=labeled)
  assert (config.eval.train_split, config.eval.test_split) == HELD_OUT
  assert config.eval.protocols.linear.label_fraction == (0.1, 1.0)
  assert runner.check(build_experiment(config)).labeled


def test_gray_arrays_sorted_by_class(tmp_path):
  image = np.random.default_rng(0).integers(0, 256, (90, 12, 14)).astype(np.uint8)
  np.savez(tmp_path / 'x.npz', image=image, label=np.arange(90) // 30)
  config = images(str(tmp_path / 'x.npz'))
  assert (config.data.train_split, config.data.test_split) == HELD_OUT
  assert config.augment.jitter == (0.8, 0.8, 0.0, 0.0) and config.augment.gray_p == 0.0
  assert (config.data.image_size, len(config.model.mean)) == (16, 1)  # enlarged
  experiment = build_experiment(config)
  labels = [np.unique(source.labels()).tolist() for source in (experiment.source, experiment.test)]
  assert labels[0] == [0, 1, 2] and len(labels[1]) > 1  # not the last class alone
  runner.check(experiment)


FAST = (*SKELETONS, 'infomin', 'w_mse')


@pytest.mark.parametrize(
  'name',
  [pytest.param(n, marks=[pytest.mark.slow] * (n not in FAST)) for n in methods.names()],
)
def test_every_method_builds(name, tmp_path):
  experiment = build_experiment(images(folder(tmp_path, each=20), name))
  runner.check(experiment)


@pytest.mark.parametrize(
  ('arguments', 'words'),
  [
    (['--config.data.name=folder:nowhere'], 'data.name=folder:nowhere: there is no image folder'),
    (['--config.data.name=npz:no.npz'], 'data.name=npz:no.npz: there is no file no.npz'),
    (['--config.eval.data=npz:no.npz'], 'eval.data=npz:no.npz: there is no file no.npz'),
    (['--config.data.train_split=trian'], "data.name=digits: digits has no split 'trian'"),
    (['--config=images:simclrr'], "unknown method 'simclrr': did you mean 'simclr'"),
  ],
)
def test_refused_in_one_sentence(arguments, words, capsys, tmp_path, nothing_compiles):
  assert call('train', '--config=images', f'--workdir={tmp_path / "run"}', *arguments) == 2
  err = capsys.readouterr().err
  assert words in err and err.count('\n') == 1, err
  assert not (tmp_path / 'run').exists()


# ---------------------------------------------------------------- surveys and slices
def test_survey_of_many_images(monkeypatch):
  monkeypatch.setattr(survey, 'MOST', 300)
  rows = survey.drawn(1437, seed=3, most=300)
  assert len(rows) == len(set(rows.tolist())) == 300 and (np.diff(rows) > 0).all()
  assert not np.array_equal(rows, survey.drawn(1437, seed=4, most=300))
  source = data.load_source('digits')
  (mean,), (std,) = survey.pixel_statistics(source, seed=3)
  pixels = source.arrays()[0][rows] / 255
  assert (mean, std) == (round(pixels.mean(), 4), round(pixels.std(), 4))
  monkeypatch.setattr(survey, '_PIXELS', source.image_shape[0] ** 2 // 4)
  few = source.arrays()[0][survey.drawn(1437, seed=3, most=75)] / 255
  assert survey.pixel_statistics(source, seed=3)[0] == [round(few.mean(), 4)]
  black = data.ArraySource(np.zeros((3, 2, 2, 1), np.uint8))
  assert survey.pixel_statistics(black, seed=0) == ([0.0], [1.0])


def test_shuffled_slices_share_nothing_and_cover_all(tmp_path):
  np.savez(tmp_path / 'x.npz', image=np.zeros((50, 2, 2), np.uint8), label=np.arange(50))
  rows = [data.load_source(f'npz:{tmp_path}/x.npz', split=s).stored_rows for s in HELD_OUT]
  assert [len(r) for r in rows] == [45, 5]
  assert sorted(np.concatenate(rows).tolist()) == list(range(50))
  assert rows[1].tolist() != list(range(45, 50))
  digits = data.load_source('digits', split=HELD_OUT[0])
  assert digits.num_examples == 1293
  for split in ('train[:90%:mixed]', 'train[90%:shuffled]'):
    with pytest.raises(UserError, match='cannot read the split'):
      data.load_source('digits', split=split)
