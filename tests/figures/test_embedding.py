"""`clr-jax inspect embedding`: every number in its CSV files by an independent computation."""

import csv
import pathlib

import jax
import numpy as np
import pytest
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.metrics import confusion_matrix, recall_score

from clr_jax.cli import main as cli
from clr_jax.core.config_tree import changed
from clr_jax.core.errors import UserError
from clr_jax.evaluation.protocols.knn import knn
from clr_jax.evaluation.runner import open_subject
from clr_jax.experiment import build
from clr_jax.experiment.build import build_experiment
from clr_jax.experiment.config_files import load
from clr_jax.experiment.schema import keys_without_effect
from clr_jax.figures import augmented, classes, embedding, mosaic, networks, points
from clr_jax.figures.neighbours import neighbours
from clr_jax.ops import sharding
from clr_jax.rundir import workdir
from clr_jax.rundir.checkpoint import Checkpoints
from clr_jax.rundir.identity import open_run, read_config

TINY = pathlib.Path(__file__).parent.parent / 'tiny.py'


pytestmark = pytest.mark.xdist_group('embedding')  # runs made once


@pytest.fixture(autouse=True, scope='module')
def one_device():
  """Compiling for eight takes three times as long."""
  with pytest.MonkeyPatch.context() as patch:
    mesh = sharding.make_mesh(jax.devices()[:1])
    patch.setattr(build.sharding, 'make_mesh', lambda devices=None: mesh)
    yield


def make_run(directory, save=True, **changes):
  """A run with a checkpoint of step 0, which costs no compilation of the train step."""
  config = changed(load(f'{TINY}:simclr'), changes)
  open_run(workdir.Workdir(directory), config, keys_without_effect(config))
  if save:
    with Checkpoints(directory) as checkpoints:
      assert checkpoints.save(0, build_experiment(config).init())
  return directory


@pytest.fixture(scope='module')
def digits(tmp_path_factory):
  """A grey labeled run."""
  split = {'data.train_split': 'train[:150]', 'data.test_split': 'test[:70]'}
  return make_run(tmp_path_factory.mktemp('runs') / 'digits', **split)


@pytest.fixture(scope='module')
def unlabeled(tmp_path_factory):
  """An RGB run without labels and test set, views of two sizes; two of its queries are alike."""
  folder = tmp_path_factory.mktemp('runs')
  image = np.random.default_rng(0).integers(0, 256, (80, 10, 8, 3), np.uint8)
  first, second, *_ = networks.some(80, 4, 0)
  image[second] = image[first]
  np.savez(folder / 'noise.npz', image=image)
  changes = {'data.name': f'npz:{folder}/noise.npz', 'data.test_split': ''}
  config = load(f'{TINY}:simclr')
  with config.unlocked():
    config.update_from_flattened_dict(changes)
    config.augment = {'name': 'multicrop_swav', 'size': 8, 'local_size': 4, 'num_local': 3}
  open_run(workdir.Workdir(folder / 'noise'), config, keys_without_effect(config))
  with Checkpoints(folder / 'noise') as checkpoints:
    assert checkpoints.save(0, build_experiment(config).init())
  return folder / 'noise'


@pytest.fixture(scope='module')
def drawn(digits, tmp_path_factory):
  """The pictures of the labeled run, made once."""
  out = tmp_path_factory.mktemp('pictures') / 'new' / 'x.png'
  options = {'num_points': 50, 'num_images': 5, 'num_neighbours': 4, 'seed': 3}
  written = embedding.figures([str(digits)], str(out), **options)
  assert all(path.exists() for path in written) and len(written) == 9
  for path in written:
    if path.suffix == '.png':
      assert np.asarray(Image.open(path).convert('L')).std() > 10
  return out


@pytest.fixture(scope='module')
def subject(digits):
  return open_subject(read_config(workdir.Workdir(digits)), str(digits))


def read(path):
  with open(path) as file:
    return list(csv.DictReader(file))


def columns(rows, *names):
  return (np.array([float(row[name]) for row in rows]) for name in names)


def cosines(bank, query):
  bank, query = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (bank, query))
  return query.astype(np.float64) @ bank.T.astype(np.float64)


def test_points_are_pca_of_the_test_features(drawn, subject):
  index, x, y, label = columns(read(drawn.with_name('x-points.csv')), 'index', 'x', 'y', 'label')
  index = index.astype(int)
  assert len(set(index)) == 50 and index.max() < 70
  _, test = subject.features
  np.testing.assert_array_equal(label, test.label[index])
  expected = PCA(2, svd_solver='full').fit_transform(test.h[index].astype(np.float64))
  found = np.stack([x, y], 1)
  signs = np.sign((found * expected).sum(0))
  np.testing.assert_allclose(found, expected * signs, rtol=1e-4, atol=1e-6)


def test_neighbours_are_those_of_all_cosines(drawn, subject):
  rows = read(drawn.with_name('x-neighbours.csv'))
  query, rank, at, cosine, own, other = columns(
    rows, 'query', 'rank', 'neighbour', 'cosine', 'query_label', 'neighbour_label'
  )
  train, test = subject.features
  assert len(rows) == 5 * 4
  np.testing.assert_array_equal(rank, np.tile([1, 2, 3, 4], 5))
  every = cosines(train.h, test.h[query[::4].astype(int)])
  best = np.sort(every, 1)[:, ::-1][:, :4]
  np.testing.assert_allclose(cosine.reshape(5, 4), best, atol=1e-6)
  chosen = np.take_along_axis(every, at.astype(int).reshape(5, 4), 1)
  np.testing.assert_allclose(chosen, best, atol=1e-6)
  np.testing.assert_array_equal(own, test.label[query.astype(int)])
  np.testing.assert_array_equal(other, train.label[at.astype(int)])


def test_confusion_is_that_of_all_votes(drawn, subject):
  train, test = subject.features
  every = cosines(train.h, test.h)
  votes = np.zeros((70, 10))
  for i, near in enumerate(np.argsort(-every, 1, kind='stable')[:, :5]):  # the config's k
    np.add.at(votes[i], train.label[near], np.exp(every[i, near] / 0.1))
  expected = confusion_matrix(test.label, votes.argmax(1), labels=np.arange(10))
  counts = np.zeros((10, 10), int)
  rows = read(drawn.with_name('x-classes-confusion.csv'))
  for row in rows:
    counts[int(row['label']), int(row['predicted'])] = int(row['images'])
  np.testing.assert_array_equal(counts, expected)
  images, top1 = columns(read(drawn.with_name('x-classes.csv')), 'images', 'top1')
  np.testing.assert_array_equal(images, np.bincount(test.label, minlength=10))
  recall = recall_score(test.label, votes.argmax(1), labels=np.arange(10), average=None)
  np.testing.assert_allclose(top1, recall)
  assert np.isclose(knn(train, test, k=5)[0].value, np.trace(expected) / 70)


def test_views_are_those_of_training(drawn, subject):
  index, label = columns(read(drawn.with_name('x-views.csv')), 'index', 'label')
  images, labels = subject.experiment.source.load(index.astype(int))
  np.testing.assert_array_equal(label, labels)
  made = augmented.views_of(subject.experiment, images, seed=3)
  assert list(made) == ['view 1', 'view 2']
  expected = jax.jit(subject.experiment.views)(jax.random.key(3), images)['global']
  np.testing.assert_allclose(np.stack(list(made.values()), 1), expected, atol=1e-6)
  assert made['view 1'].shape == (5, 8, 8, 1) and not np.allclose(made['view 1'], made['view 2'])


@pytest.mark.slow
def test_unlabeled_images_without_a_test_set(unlabeled, tmp_path, capsys):
  arguments = ['embedding', f'--workdir={unlabeled}', f'--out={tmp_path}/u.png', '--step=0']
  cli.main(['clr-jax', 'inspect', *arguments, '--params.num_images=4'])
  said = capsys.readouterr().out
  assert 'noise is not in u-classes.png: there is no test set' in said
  assert not list(tmp_path.glob('u-classes*')) and len(list(tmp_path.iterdir())) == 6
  rows = read(tmp_path / 'u-neighbours.csv')
  assert len(rows) == 4 * 8 and {row['query_label'] for row in rows} == {''}
  assert all(row['query'] != row['neighbour'] for row in rows)
  nearest = [(row['query'], row['neighbour']) for row in rows if row['rank'] == '1']
  assert nearest[0] == nearest[1][::-1]
  assert {row['label'] for row in read(tmp_path / 'u-points.csv')} == {''}
  subject = open_subject(read_config(workdir.Workdir(unlabeled)), str(unlabeled))
  images, _ = subject.experiment.source.load(np.arange(2))
  made = augmented.views_of(subject.experiment, images, seed=0)
  sizes = {name: view.shape[1:] for name, view in made.items()}
  assert sizes == {
    **dict.fromkeys(('view 1', 'view 2'), (8, 8, 3)),
    **dict.fromkeys(('crop 1', 'crop 2', 'crop 3'), (4, 4, 3)),
  }


def test_what_cannot_be_opened_is_named(digits, tmp_path, capsys):
  bare = make_run(tmp_path / 'bare', save=False)
  with pytest.raises(UserError, match='no checkpoint') as error:
    embedding.figures([str(bare)], str(tmp_path / 'x.png'))
  assert '\n' not in str(error.value)
  opened = networks.open_networks([str(bare), str(digits), str(tmp_path / 'nothing')])
  assert [network.name for network in opened] == ['digits']
  lines = capsys.readouterr().out.splitlines()
  assert len(lines) == 2 and all(line.startswith('left out: ') for line in lines)
  for options, sentence in (
    ({'projection': 'umap'}, "unknown projection 'umap'"),
    ({'num_images': 0}, 'num_images=0 must be at least 1'),
  ):
    with pytest.raises(UserError, match=sentence):
      embedding.figures([str(digits)], str(tmp_path / 'x.png'), **options)


def test_a_run_of_another_version_is_left_out(digits, tmp_path, monkeypatch):
  def open_older(config, directory, step=None):
    raise AttributeError("'augment'\n")

  monkeypatch.setattr(networks, 'open_subject', open_older)
  with pytest.raises(UserError, match=r'is of another version of clr-jax \(augment\)'):
    networks.open_networks([str(digits)])


def test_neighbours_leave_the_query_itself_out():
  bank = np.array([[1, 0], [1, 0], [1, 0], [0, 1]], np.float32)
  similarity, index = neighbours(bank, bank[[2, 3]], k=9, own=np.array([2, 3]))
  np.testing.assert_array_equal(index, [[0, 1, 3], [0, 1, 2]])
  np.testing.assert_allclose(similarity, [[1, 1, 0], [0, 0, 0]], atol=1e-6)
  _, index = neighbours(bank, bank[[2]], k=1, own=np.array([2]))  # copies come before it
  np.testing.assert_array_equal(index, [[0]])
  assert neighbours(bank, bank, k=9)[1].shape == (4, 4)


def test_classes_without_images_have_no_accuracy():
  counts = classes.confusion(np.array([0, 0, 2]), np.array([0, 1, 2]), 3)
  np.testing.assert_array_equal(counts, [[1, 1, 0], [0, 0, 0], [0, 0, 1]])
  np.testing.assert_array_equal(classes.class_accuracy(counts), [0.5, np.nan, 1])


def test_many_classes_share_a_look_beyond_the_first(subject):
  network = networks.Network('x', subject, *subject.features)
  label = np.arange(30)
  few = list(points._groups(30, label % 10, network))
  looks = [tuple(look.items()) for _, _, look in few]
  assert len(set(looks)) == 10 and [name for _, name, _ in few] == list('0123456789')
  assert sorted(np.concatenate([rows for rows, _, _ in few])) == list(range(30))
  others, *shown = points._groups(30, label, network)  # 10 classes have names
  np.testing.assert_array_equal(others[0], np.arange(10, 30))
  assert others[1] == 'other classes' and len(shown) == 10


def test_mosaic_makes_room_for_text():
  cell = mosaic.Cell(0, 0, np.zeros((2, 2, 1), np.uint8), 'two\nlines')
  plain = mosaic.Cell(1, 0, np.full((2, 4, 3), 1.2))
  heights = mosaic._heights([cell, plain])
  assert heights[0] > heights[1] == 1
  assert mosaic._rgb(plain.image).max() == 1 and mosaic._rgb(cell.image).shape == (2, 2, 3)
