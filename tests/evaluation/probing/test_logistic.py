import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from clr_jax.core.errors import UserError
from clr_jax.evaluation.probing import placement
from clr_jax.evaluation.probing.logistic import Head, fit_lbfgs, fit_sgd, score


def blobs(num=240, features=7, classes=4, spread=1.5, seed=0):
  rng = np.random.default_rng(seed)
  label = rng.integers(0, classes, num)
  h = spread * rng.normal(size=(num, features)) + 2 * rng.normal(size=(classes, features))[label]
  return (h - h.mean(0)) / h.std(0), label


def objective(w, b, h, label, l2):
  logits = h @ w + b
  peak = logits.max(1)
  loss = np.log(np.exp(logits - peak[:, None]).sum(1)) + peak - logits[np.arange(len(h)), label]
  return loss.sum() + 0.5 * l2 * (w**2).sum()


@pytest.mark.parametrize('l2', [30.0, 1.0, 0.05])
def test_lbfgs_equals_scikit_learn(l2):
  h, label = blobs()
  reference = LogisticRegression(C=1 / l2, tol=1e-10, max_iter=10_000).fit(h, label)
  best = objective(reference.coef_.T, reference.intercept_, h, label, l2)
  head, info = fit_lbfgs(h.astype(np.float32), label, num_classes=4, l2=l2)
  w, b = np.asarray(head.w, np.float64), np.asarray(head.b, np.float64)
  np.testing.assert_allclose(objective(w, b, h, label, l2), best, rtol=1e-5)
  np.testing.assert_allclose(float(info['loss']) * len(h), best, rtol=1e-5)
  np.testing.assert_allclose(w, reference.coef_.T, atol=0.01)
  test_h, _ = blobs(seed=1)
  assert (np.argmax(test_h @ w + b, 1) == reference.predict(test_h)).mean() > 0.995
  assert score(head, h, label)[0] == pytest.approx(reference.score(h, label), abs=1 / len(h))


@pytest.mark.slow
def test_lbfgs_float64_sweep_equals_single_fits(x64):
  h, label = blobs(num=80)
  values = [10.0, 0.3]
  swept, info = fit_lbfgs(h, label, num_classes=4, l2=values, tol=1e-8)
  assert swept.w.shape == (2, 7, 4) and swept.w.dtype == jnp.float64
  assert (info['gradient'] < 1e-8).all() and (info['iterations'] < 1000).all()
  for i, l2 in enumerate(values):
    w = LogisticRegression(C=1 / l2, tol=1e-10, max_iter=10_000).fit(h, label).coef_.T
    np.testing.assert_allclose(swept.w[i], w, atol=1e-5)
    np.testing.assert_allclose(
      swept.w[i], fit_lbfgs(h, label, num_classes=4, l2=l2, tol=1e-8)[0].w, atol=1e-7
    )


def test_lbfgs_stops_on_separable_data_and_after_max_iter():
  h, label = np.array([[-1.0], [1.0]], np.float32), np.array([0, 1])
  head, info = fit_lbfgs(h, label, num_classes=2, l2=0.0)
  assert np.isfinite(head.w).all() and score(head, h, label)[0] == 1
  assert info['iterations'] < 1000
  h, label = blobs()
  assert fit_lbfgs(h, label, num_classes=4, l2=1e-3, max_iter=3)[1]['iterations'] == 3


@pytest.fixture
def split(monkeypatch):
  """Rows are split over the devices, and in blocks of 16 rows of 4 logits on each."""
  monkeypatch.setattr(placement, 'SMALL', 0)
  monkeypatch.setattr(placement, 'BLOCK', 16 * 4 * 4)


@pytest.mark.slow
@pytest.mark.parametrize('l2', [1.0, pytest.param([30.0, 0.5], marks=pytest.mark.weekly)])
def test_lbfgs_of_split_rows_is_that_of_one_device(l2, split, monkeypatch):
  h, label = blobs(num=301)
  placed, labels = placement.in_blocks(h.astype(np.float32), label, 4)
  assert placed.shape == (3, 104, 7) and len(placed.devices()) == len(jax.local_devices()) == 8
  np.testing.assert_array_equal(np.asarray(labels).ravel()[:301], label)
  assert (np.asarray(labels).ravel()[301:] == -1).all()
  head, info = fit_lbfgs(h.astype(np.float32), label, num_classes=4, l2=l2, tol=1e-5)
  monkeypatch.undo()
  expected, other = fit_lbfgs(h.astype(np.float32), label, num_classes=4, l2=l2, tol=1e-5)
  assert len(head.w.devices()) == 1
  np.testing.assert_allclose(head.w, expected.w, atol=2e-3)
  np.testing.assert_allclose(info['loss'], other['loss'], rtol=1e-5)


@pytest.mark.slow
def test_sgd_of_split_rows_is_that_of_one_device(split, monkeypatch):
  h, label = blobs(num=301)
  h, options = h.astype(np.float32), {'epochs': 3, 'batch_size': 64, 'base_lr': [0.1, 0.5]}
  assert len(placement.by_rows(h, 4).devices()) == 8
  head, curves = fit_sgd(h, label, 4, watch=[(h, label)], **options)
  monkeypatch.undo()
  expected, other = fit_sgd(h, label, 4, watch=[(h, label)], **options)
  np.testing.assert_allclose(head.w, expected.w, atol=1e-6)
  np.testing.assert_allclose(curves, other, atol=1e-6)


def test_the_layout_of_imagenet():
  row, logits = 2048 * 4, 1000 * 4
  found = placement.shape_of(1_281_167, row, logits, 8)
  assert found.devices == 8 and found.rows % 8 == 0
  assert found.blocks * found.rows - 1_281_167 < found.blocks * 8
  assert found.rows // 8 * logits <= placement.BLOCK
  assert placement.shape_of(50_000, 512 * 4, 10 * 4, 8) == (1, 1, 50_000)


def numpy_sgd(h, label, order, w, *, rates, size, momentum, weight_decay, nesterov=False):
  """Momentum as in torch.optim.SGD; `order` [epochs, N]."""
  b, vw, vb = np.zeros(w.shape[1]), 0.0, 0.0
  for epoch, lr in enumerate(rates):
    for start in range(0, len(h), size):
      rows = order[epoch][start : start + size]
      logits = h[rows] @ w + b
      p = np.exp(logits - logits.max(1, keepdims=True))
      error = (p / p.sum(1, keepdims=True) - np.eye(w.shape[1])[label[rows]]) / len(rows)
      gw, gb = h[rows].T @ error + weight_decay * w, error.sum(0) + weight_decay * b
      vw, vb = momentum * vw + gw, momentum * vb + gb
      if nesterov:
        w, b = w - lr * (gw + momentum * vw), b - lr * (gb + momentum * vb)
      else:
        w, b = w - lr * vw, b - lr * vb
  return w, b


COSINE = [0.125 * 0.5 * (1 + np.cos(np.pi * epoch / 4)) for epoch in range(4)]


DECAY = {'base_lr': 2.0, 'schedule': 'step', 'milestones': (1, 3)}
# TCL's code: a cosine to a thousandth, of which the epochs 0 and 1 have the first value.
LATE = [0.125 * (1e-3 + 0.999 * (1 + math.cos(math.pi * e / 4)) / 2) for e in (0, 0, 1, 2)]
GROWTH = {'base_lr': 2.0, 'schedule': 'step', 'milestones': (2,), 'factor': 1.5}


@pytest.mark.parametrize(
  ('schedule', 'rates', 'nesterov'),
  [
    ({'base_lr': 2.0}, COSINE, False),
    ({'base_lr': 0.125, 'scaling': 'none'}, COSINE, True),
    (DECAY, [0.125, 0.0125, 0.0125, 0.00125], False),
    (GROWTH, [0.125, 0.125, 0.1875, 0.1875], True),
    ({'base_lr': 2.0, 'schedule': 'constant'}, [0.125] * 4, False),
    ({'base_lr': 2.0, 'schedule': 'tcl'}, LATE, False),
    ({'base_lr': 2.0, 'init': 'zero'}, COSINE, False),
  ],
)
def test_sgd_follows_the_protocol(x64, schedule, rates, nesterov):
  h, label = blobs(num=50)
  options = {'momentum': 0.9, 'weight_decay': 0.01, 'nesterov': nesterov}
  head, _ = fit_sgd(h, label, num_classes=4, batch_size=16, epochs=4, seed=3, **options, **schedule)
  # The same initial weights (a rate of 0) and the same orders of the examples.
  first = {'init': schedule.get('init', 'normal')}
  start, _ = fit_sgd(h, label, num_classes=4, epochs=1, base_lr=0.0, seed=3, **first)
  assert (start.w == 0).all() == ('init' in schedule)
  key = jax.random.split(jax.random.key(3))[0]
  order = [np.asarray(jax.random.permutation(jax.random.fold_in(key, e), 50)) for e in range(4)]
  w, b = numpy_sgd(h, label, order, np.asarray(start.w), rates=rates, size=16, **options)
  np.testing.assert_allclose(head.w, w, atol=1e-10)
  np.testing.assert_allclose(head.b, b, atol=1e-10)


@pytest.mark.slow
def test_sgd_initial_weights_sweep_and_curve():
  h, label = blobs(num=600)
  start, _ = fit_sgd(np.zeros((3, 4000), np.float32), np.arange(3), 3, epochs=1, base_lr=0.0)
  assert np.std(start.w) == pytest.approx(0.01, rel=0.05) and (start.b == 0).all()
  rates = [0.01, 1.0]
  watch = [(h, label), (h[:9], label[:9])]
  run = lambda lr: fit_sgd(  # noqa: E731
    h, label, num_classes=4, epochs=5, batch_size=64, base_lr=lr, watch=watch
  )
  heads, (curves, few) = run(rates)
  assert heads.w.shape == (2, 7, 4) and curves.shape == few.shape == (2, 5)
  for i, lr in enumerate(rates):
    head, (curve, _) = run(lr)
    np.testing.assert_allclose(heads.w[i], head.w, atol=1e-6)
    np.testing.assert_allclose(curves[i], curve, atol=2 / len(h))
    assert curve[-1] == score(head, h, label)[0]
  assert few[1, -1] == score(jax.tree.map(lambda x: x[1], heads), h[:9], label[:9])[0]


def test_sgd_sweeps_learning_rate_and_weight_decay_together():
  h, label = blobs(num=100)
  run = lambda lr, wd: fit_sgd(  # noqa: E731
    h, label, num_classes=4, epochs=3, batch_size=32, base_lr=lr, weight_decay=wd
  )[0]
  heads = run([0.1, 1.0], [0.5, 0.0])
  for i, pair in enumerate([(0.1, 0.5), (1.0, 0.0)]):
    np.testing.assert_allclose(heads.w[i], run(*pair).w, atol=1e-6)
  np.testing.assert_allclose(run(0.1, [0.5, 0.0]).w[0], heads.w[0], atol=1e-6)


def test_sgd_takes_the_augmented_copies_in_turn(x64):
  h, label = blobs(num=50)
  copies = np.stack([h, -h])
  run = lambda h, epochs: fit_sgd(  # noqa: E731
    h, label, num_classes=4, epochs=epochs, batch_size=50, schedule='constant', momentum=0.0
  )[0]
  one, two, three = (run(copies, epochs) for epochs in (1, 2, 3))
  np.testing.assert_allclose(one.w, run(h, 1).w, atol=1e-12)

  def step(head, h):
    """A batch of all examples: plain gradient descent."""
    logits = h @ np.asarray(head.w) + np.asarray(head.b)
    p = np.exp(logits - logits.max(1, keepdims=True))
    error = (p / p.sum(1, keepdims=True) - np.eye(4)[label]) / 50
    return np.asarray(head.w) - 0.1 * 50 / 256 * h.T @ error

  np.testing.assert_allclose(two.w, step(one, -h), atol=1e-12)
  np.testing.assert_allclose(three.w, step(two, h), atol=1e-12)


def test_sgd_batch_larger_than_the_set_is_the_whole_set():
  h, label = blobs(num=50)
  large, whole = (
    fit_sgd(h, label, num_classes=4, epochs=3, batch_size=size)[0] for size in (1024, 50)
  )
  np.testing.assert_array_equal(large.w, whole.w)


def test_score():
  head = Head(jnp.array([[1.0, -1.0]]), jnp.array([0.0, 0.5]))
  accuracy, loss = score(head, np.array([[1.0], [-1.0], [0.1]]), np.array([0, 1, 0]))
  assert accuracy == pytest.approx(2 / 3)  # the logits of the third are .1 and .4
  assert loss == pytest.approx(np.mean(np.log1p(np.exp([-1.5, -2.5, 0.3]))), rel=1e-5)


@pytest.mark.parametrize(
  ('fit', 'options', 'message'),
  [
    (fit_sgd, {'schedule': 'cosin'}, "schedule='cosin' is not allowed: did you mean 'cosine'"),
    (fit_sgd, {'epochs': 0}, 'epochs=0'),
    (fit_sgd, {'base_lr': []}, r'base_lr=\[\]'),
    (fit_lbfgs, {'l2': -1.0}, 'l2=-1.0'),
    (fit_lbfgs, {'epochs': 3}, "fit_lbfgs has no option 'epochs'"),
  ],
)
def test_bad_options(fit, options, message):
  with pytest.raises(UserError, match=message):
    fit(*blobs(), 4, **options)
