"""`clr-jax inspect embedding`: every number in its CSV files by an independent computation."""

import jax
import numpy as np
import pytest
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.metrics import confusion_matrix, recall_score

from clr_jax.cli import main as cli
from clr_jax.core.errors import UserError
from clr_jax.evaluation.protocols.knn import knn
from clr_jax.experiment import config_base
from clr_jax.experiment.build import build_experiment
from clr_jax.experiment.config_files import load
from clr_jax.experiment.schema import keys_without_effect
from clr_jax.figures.analysis import points
from clr_jax.figures.analysis.confusion import class_accuracy, confusion
from clr_jax.figures.analysis.neighbors import nearest_others
from clr_jax.figures.analysis.networks import Network, random_rows
from clr_jax.figures.analysis.points import point_panel
from clr_jax.figures.analysis.views import views_of
from clr_jax.figures.drawing.draw import draw_figure
from clr_jax.figures.embedding import embedding
from clr_jax.rundir.checkpoint import Checkpoints
from clr_jax.rundir.identity import open_run
from clr_jax.rundir.reader import Run, read_runs
from clr_jax.rundir.workdir import Workdir
from tests.evaluation.runs import one_device  # noqa: F401  (a fixture)
from tests.figures.run_files import TINY, read_csv, write_run

pytestmark = pytest.mark.xdist_group('embedding')  # runs made once


@pytest.fixture(scope='module')
def digits(tmp_path_factory):
  """A gray labeled run."""
  split = {'data.train_split': 'train[:150]', 'data.test_split': 'test[:70]'}
  directory = tmp_path_factory.mktemp('runs') / 'digits'
  return write_run(directory, method='simclr', checkpoint=True, **split)


@pytest.fixture(scope='module')
def unlabeled(tmp_path_factory):
  """An RGB run without labels and test set, views of two sizes; two of its queries are alike."""
  folder = tmp_path_factory.mktemp('runs')
  image = np.random.default_rng(0).integers(0, 256, (80, 10, 8, 3), np.uint8)
  first, second, *_ = random_rows(80, 4, 0)
  image[second] = image[first]
  np.savez(folder / 'noise.npz', image=image)
  changes = {'data.name': f'npz:{folder}/noise.npz', 'data.test_split': ''}
  config = load(f'{TINY}:simclr')
  with config.unlocked():
    config.update_from_flattened_dict(changes)
    config.augment = config_base.views('multicrop_swav', size=8, local_size=4, num_local=3)
  open_run(Workdir(folder / 'noise'), config, keys_without_effect(config))
  with Checkpoints(folder / 'noise') as checkpoints:
    assert checkpoints.save(0, build_experiment(config).init())
  return folder / 'noise'


@pytest.fixture(scope='module')
def drawn(digits, tmp_path_factory):
  """The figures of the labeled run, made once."""
  out = tmp_path_factory.mktemp('pictures') / 'new' / 'x.png'
  options = {'num_points': 50, 'num_images': 5, 'num_neighbors': 4, 'seed': 3}
  written = draw_figure('embedding', [digits], str(out), **options)
  assert all(path.exists() for path in written) and len(written) == 9
  for path in written:
    if path.suffix == '.png':
      assert np.asarray(Image.open(path).convert('L')).std() > 10
  return out


@pytest.fixture(scope='module')
def network(digits):
  return Network(Run(digits))


def columns(rows, *names):
  return (np.array([float(row[name]) for row in rows]) for name in names)


def cosines(bank, query):
  bank, query = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (bank, query))
  return query.astype(np.float64) @ bank.T.astype(np.float64)


@pytest.mark.slow
def test_points_are_pca_of_the_test_features(drawn, network):
  index, x, y, label = columns(
    read_csv(drawn.with_name('x-points.csv')), 'index', 'x', 'y', 'label'
  )
  index = index.astype(int)
  assert len(set(index)) == 50 and index.max() < 70
  _, test = network.features
  np.testing.assert_array_equal(label, test.label[index])
  expected = PCA(2, svd_solver='full').fit_transform(test.h[index].astype(np.float64))
  found = np.stack([x, y], 1)
  signs = np.sign((found * expected).sum(0))
  np.testing.assert_allclose(found, expected * signs, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_neighbors_are_those_of_all_cosines(drawn, network):
  rows = read_csv(drawn.with_name('x-neighbors.csv'))
  query, rank, at, cosine, own, other = columns(
    rows, 'query', 'rank', 'neighbor', 'cosine', 'query_label', 'neighbor_label'
  )
  train, test = network.features
  assert len(rows) == 5 * 4
  np.testing.assert_array_equal(rank, np.tile([1, 2, 3, 4], 5))
  every = cosines(train.h, test.h[query[::4].astype(int)])
  best = np.sort(every, 1)[:, ::-1][:, :4]
  np.testing.assert_allclose(cosine.reshape(5, 4), best, atol=1e-6)
  chosen = np.take_along_axis(every, at.astype(int).reshape(5, 4), 1)
  np.testing.assert_allclose(chosen, best, atol=1e-6)
  np.testing.assert_array_equal(own, test.label[query.astype(int)])
  np.testing.assert_array_equal(other, train.label[at.astype(int)])


@pytest.mark.slow
def test_confusion_is_that_of_all_votes(drawn, network):
  train, test = network.features
  every = cosines(train.h, test.h)
  votes = np.zeros((70, 10))
  for i, near in enumerate(np.argsort(-every, 1, kind='stable')[:, :5]):  # the config's k
    np.add.at(votes[i], train.label[near], np.exp(every[i, near] / 0.1))
  expected = confusion_matrix(test.label, votes.argmax(1), labels=np.arange(10))
  counts = np.zeros((10, 10), int)
  rows = read_csv(drawn.with_name('x-classes-confusion.csv'))
  for row in rows:
    counts[int(row['label']), int(row['predicted'])] = int(row['images'])
  np.testing.assert_array_equal(counts, expected)
  images, top1 = columns(read_csv(drawn.with_name('x-classes.csv')), 'images', 'top1')
  np.testing.assert_array_equal(images, np.bincount(test.label, minlength=10))
  recall = recall_score(test.label, votes.argmax(1), labels=np.arange(10), average=None)
  np.testing.assert_allclose(top1, recall)
  assert np.isclose(knn(train, test, k=5)[0].value, np.trace(expected) / 70)


@pytest.mark.slow
def test_views_are_those_of_training(drawn, network):
  index, label = columns(read_csv(drawn.with_name('x-views.csv')), 'index', 'label')
  experiment = network.subject.experiment
  images, labels = experiment.source.load(index.astype(int))
  np.testing.assert_array_equal(label, labels)
  made = views_of(experiment, images, seed=3)
  assert list(made) == ['view 1', 'view 2']
  expected = jax.jit(experiment.views)(jax.random.key(3), images)['global']
  np.testing.assert_allclose(np.stack(list(made.values()), 1), expected, atol=1e-6)
  assert made['view 1'].shape == (5, 8, 8, 1) and not np.allclose(made['view 1'], made['view 2'])


@pytest.mark.weekly
def test_unlabeled_images_without_a_test_set(unlabeled, tmp_path, capsys):
  arguments = ['embedding', f'--workdir={unlabeled}', f'--out={tmp_path}/u.png', '--step=0']
  cli.main(['clr-jax', 'inspect', *arguments, '--params.num_images=4'])
  said = capsys.readouterr().out
  assert 'left out: classes of noise, which has no test set' in said
  assert not list(tmp_path.glob('u-classes*')) and len(list(tmp_path.iterdir())) == 6
  rows = read_csv(tmp_path / 'u-neighbors.csv')
  assert len(rows) == 4 * 8 and {row['query_label'] for row in rows} == {''}
  assert all(row['query'] != row['neighbor'] for row in rows)
  nearest = [(row['query'], row['neighbor']) for row in rows if row['rank'] == '1']
  assert nearest[0] == nearest[1][::-1]
  assert {row['label'] for row in read_csv(tmp_path / 'u-points.csv')} == {''}
  experiment = Network(Run(unlabeled)).subject.experiment
  images, _ = experiment.source.load(np.arange(2))
  made = views_of(experiment, images, seed=0)
  sizes = {name: view.shape[1:] for name, view in made.items()}
  assert sizes == {
    **dict.fromkeys(('view 1', 'view 2'), (8, 8, 3)),
    **dict.fromkeys(('crop 1', 'crop 2', 'crop 3'), (4, 4, 3)),
  }


@pytest.mark.slow
def test_runs_that_cannot_be_opened_are_named(digits, tmp_path, monkeypatch):
  bare = write_run(tmp_path / 'bare')
  with pytest.raises(UserError, match='no checkpoint') as error:
    draw_figure('embedding', [bare], str(tmp_path / 'x.png'))
  assert '\n' not in str(error.value)
  found = embedding(read_runs([bare, digits])[0], num_points=10, num_images=1, num_neighbors=1)
  assert [panel.title for panel in found.drawn[0].panels] == ['digits, step 0']
  assert len(found.missing) == 1 and 'no checkpoint' in found.missing[0]
  monkeypatch.setattr(Network, '__init__', None)  # bad options are refused before
  for options, sentence in (
    ({'projection': 'umap'}, "projection='umap' is not allowed: give one of 'pca', 'tsne'"),
    ({'num_images': 0}, 'num_images=0 is not allowed'),
  ):
    with pytest.raises(UserError, match=sentence):
      draw_figure('embedding', [digits], str(tmp_path / 'x.png'), **options)


def test_neighbors_leave_the_query_itself_out():
  bank = np.array([[1, 0], [1, 0], [1, 0], [0, 1]], np.float32)
  similarity, index = nearest_others(bank, bank[[2, 3]], k=9, own=np.array([2, 3]))
  np.testing.assert_array_equal(index, [[0, 1, 3], [0, 1, 2]])
  np.testing.assert_allclose(similarity, [[1, 1, 0], [0, 0, 0]], atol=1e-6)
  _, index = nearest_others(bank, bank[[2]], k=1, own=np.array([2]))  # copies come before it
  np.testing.assert_array_equal(index, [[0]])
  assert nearest_others(bank, bank, k=9)[1].shape == (4, 4)


def test_classes_without_images_have_no_accuracy():
  counts = confusion(np.array([0, 0, 2]), np.array([0, 1, 2]), 3)
  np.testing.assert_array_equal(counts, [[1, 1, 0], [0, 0, 0], [0, 0, 1]])
  np.testing.assert_array_equal(class_accuracy(counts), [0.5, np.nan, 1])


@pytest.mark.slow
def test_neighbors_among_many_classes_share_a_color(network, monkeypatch):
  _, test = network.features
  rows, label = np.arange(30), np.arange(30) % 10
  features = test._replace(h=test.h[:30], label=label)
  few = point_panel(network, rows, features).marks
  assert [mark.name for mark in few] == list('0123456789')
  assert len({mark.look for mark in few}) == 10
  assert sorted(i for mark in few for i in mark.ids) == list(range(30))
  monkeypatch.setattr(points, '_MOST_COLORS', 4)
  panel = point_panel(network, rows, features)
  assert [mark.name for mark in panel.marks] == ['0 to 2', '3 to 5', '6 to 8', '9']
  assert [mark.look for mark in panel.marks] == [0, 1, 2, 3]
  assert panel.marks[1].ids == [i for i in range(30) if i % 10 in (3, 4, 5)]
  assert 'each color stands for 3 consecutive classes' in panel.note
