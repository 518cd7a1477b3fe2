import types

import jax
import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from clr_jax.core.errors import UserError
from clr_jax.evaluation.probing import placement
from clr_jax.evaluation.probing.features import Features
from clr_jax.evaluation.probing.planned import Sizes
from clr_jax.evaluation.protocols.knn import knn, measure, nearest, programs


def features(num, seed, classes=5):
  rng = np.random.default_rng(seed)
  label = 3 * rng.integers(0, classes, num)
  h = rng.normal(size=(num, 8)) + np.random.default_rng(9).normal(size=(15, 8))[label] + 20
  return Features(h.astype(np.float32), label.astype(np.int32))


TRAIN, TEST = features(150, 1), features(70, 2)


@pytest.mark.parametrize('distance', ['euclidean', 'cosine'])
@pytest.mark.parametrize('k', [1, 10])
def test_uniform_equals_scikit_learn(distance, k):
  reference = KNeighborsClassifier(k, metric=distance).fit(
    np.asarray(TRAIN.h, np.float64), TRAIN.label
  )
  (got,) = knn(TRAIN, TEST, k=k, distance=distance, weights='uniform')
  assert got.value == reference.score(np.asarray(TEST.h, np.float64), TEST.label)
  assert got.params == {
    'k': k,
    'k_asked': k,
    'distance': distance,
    'weights': 'uniform',
    'num_train': 150,
    'num_test': 70,
  }
  assert (got.metric, got.protocol, got.features) == ('top1', 'knn', 'trained')


@pytest.mark.parametrize('k', [7, 150])
@pytest.mark.parametrize('distance', ['euclidean', 'cosine'])
def test_vote_equals_brute_force(k, distance):
  a, b = (np.asarray(x.h, np.float64) for x in (TEST, TRAIN))
  if distance == 'cosine':
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    sim = a @ b.T
  else:
    sim = -((a[:, None] - b) ** 2).sum(-1) / 2
  correct = []
  for row, label in zip(sim, TEST.label, strict=True):
    near = np.argsort(-row, kind='stable')[:k]
    vote = np.bincount(TRAIN.label[near], np.exp((row[near] - row.max()) / 0.02))
    correct.append(vote.argmax() == label)
  (got,) = knn(TRAIN, TEST, k=k, distance=distance, temperature=0.02)
  assert got.value == np.mean(correct) and 0.3 < got.value < 1
  assert got.params['temperature'] == 0.02


def test_vote_weighs_by_similarity_and_temperature():
  train = Features(np.array([[1, 0], [0.6, 0.8], [0.6, 0.8]], np.float32), np.int32([4, 2, 2]))
  test = Features(np.array([[1, 0]], np.float32), np.int32([4]))
  # exp((1 - .6) / T) against 2: the far majority wins at T = 1 and loses at T = .1.
  assert knn(train, test, temperature=1.0)[0].value == 0
  assert knn(train, test, temperature=0.1)[0].value == 1
  assert knn(train, test, weights='uniform')[0].value == 0


@pytest.mark.parametrize('distance', ['euclidean', 'cosine'])
def test_neighbors_do_not_depend_on_the_block(distance):
  bank, query = TRAIN.h - 20, TEST.h - 20  # around 0: no ties within rounding
  whole = nearest(bank, query, k=20, distance=distance)
  assert (np.diff(whole[0], axis=1) <= 0).all()
  for block in (1, 7, 64, 149):
    similarity, index = nearest(bank, query, k=20, distance=distance, block=block)
    np.testing.assert_allclose(similarity, whole[0], atol=1e-5)
    np.testing.assert_array_equal(index, whole[1])


@pytest.mark.slow
@pytest.mark.parametrize('distance', ['euclidean', 'cosine'])
def test_eight_devices_find_the_same_neighbors(distance, monkeypatch):
  bank, query = TRAIN.h - 20, TEST.h - 20
  one = nearest(bank, query, k=20, distance=distance, block=30)
  monkeypatch.setattr(placement, 'SMALL', 0)
  eight = nearest(bank, query, k=20, distance=distance, block=30)  # 8 does not divide 30
  np.testing.assert_allclose(eight[0], one[0], atol=1e-6)
  np.testing.assert_array_equal(eight[1], one[1])


@pytest.mark.slow
def test_many_queries_are_split_over_the_devices():
  sizes = Sizes(train=1_281_167, test=50_000, classes=1000, width=2048)
  (search,) = programs(sizes, {}, jax.local_devices())
  assert search.devices == 8
  text = search.traced.lower().compile().as_text()
  assert f'f32[13,{4096 // 8},2048]' in text and 'all-gather' not in text


def test_ties_go_to_the_first_of_the_bank_and_the_smallest_label():
  bank = np.tile(np.array([[0, 1], [1, 0]], np.float32), (4, 1))
  query = np.array([[1, 0]], np.float32)
  for block in (2, 3, 100):
    assert nearest(bank, query, k=5, block=block)[1].tolist() == [[1, 3, 5, 7, 0]]
  train = Features(bank, np.int32([9, 7, 9, 5, 9, 7, 9, 5]))
  assert knn(train, Features(query, np.int32([5])), k=4)[0].value == 1


def test_euclidean_neighbors_of_features_far_from_the_origin():
  rng = np.random.default_rng(0)
  bank, query = (1e3 + rng.normal(size=(n, 4)).astype(np.float32) for n in (60, 20))
  exact = ((query[:, None].astype(np.float64) - bank) ** 2).sum(-1)
  index = nearest(bank, query, k=5, distance='euclidean')[1]
  np.testing.assert_array_equal(index, np.argsort(exact, axis=1)[:, :5])


def test_the_protocol_measures_the_features_of_a_subject():
  subject = types.SimpleNamespace(features=(TRAIN, TEST), kind='pixels')
  (got,) = measure(subject, k=3)  # type: ignore
  (same,) = knn(TRAIN, TEST, 'pixels', k=3)
  assert (got.value, got.params, got.features) == (same.value, same.params, 'pixels')


def test_k_is_at_most_the_bank():
  (got,) = knn(TRAIN, TEST)
  assert got.params['k'] == 150 and got.params['k_asked'] == 200


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'train': TRAIN._replace(label=None)}, 'needs labels'),
    ({'k': 0}, 'k=0 is not allowed'),
    ({'temperature': 0.0}, 'temperature=0.0 is not allowed'),
    ({'distance': 'manhattan'}, "distance='manhattan' is not allowed"),
    ({'weights': 'distance'}, "weights='distance' is not allowed"),
    ({'neighbors': 3}, "knn has no option 'neighbors'"),
  ],
)
def test_bad_input(change, message):
  with pytest.raises(UserError, match=message):
    knn(**{'train': TRAIN, 'test': TEST, **change})
