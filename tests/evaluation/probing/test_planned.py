"""The programs that `clr-jax plan --protocol` compiles are those that an evaluation runs."""

import jax
import numpy as np
import pytest

from clr_jax.evaluation import registry
from clr_jax.evaluation.probing import logistic, placement
from clr_jax.evaluation.probing.features import Features
from clr_jax.evaluation.probing.planned import Sizes
from clr_jax.evaluation.protocols import knn
from clr_jax.evaluation.protocols.linear import linear

SIZES = Sizes(train=301, test=40, classes=4, width=7)
PROGRAMS = {logistic: ('lbfgs', 'sgd_epoch', 'count_correct'), knn: ('merge',)}
SGD = {'solver': 'sgd', 'epochs': 2, 'batch_size': 64}


@pytest.fixture
def features():
  rng = np.random.default_rng(0)
  sets = []
  for count in (SIZES.train, SIZES.test):
    label = np.arange(count, dtype=np.int32) % SIZES.classes
    h = rng.normal(size=(count, SIZES.width)) + label[:, None]
    sets.append(Features(h.astype(np.float32), label))
  return sets


@pytest.fixture(params=['one device', pytest.param('eight', marks=pytest.mark.weekly)])
def placed(request, monkeypatch):
  if request.param == 'eight':
    monkeypatch.setattr(placement, 'SMALL', 0)
    monkeypatch.setattr(placement, 'BLOCK', 16 * 4 * SIZES.classes)


@pytest.mark.slow
@pytest.mark.parametrize(
  ('protocol', 'options'),
  [
    ('linear', {}),
    pytest.param('linear', {'l2': (1.0, 10.0), 'label_fraction': (0.5,)}, marks=pytest.mark.weekly),
    pytest.param('linear', SGD, marks=pytest.mark.weekly),
    ('linear', {**SGD, 'base_lr': (0.1, 0.5), 'held_out': 0.2}),
    ('knn', {'k': 5, 'block': 32}),
  ],
)
def test_the_plan_is_what_runs(protocol, options, features, placed, monkeypatch):
  planned = {}
  for program in registry.programs(protocol, options, SIZES, jax.local_devices()):
    key = _shapes(program.traced.jaxpr.in_avals)
    planned[key] = planned.get(key, 0) + program.calls
  ran = {}

  def recorded(function):
    def call(*args):
      key = _shapes(function.trace(*args).jaxpr.in_avals)
      ran[key] = ran.get(key, 0) + 1
      return function(*args)

    return call

  for module, names in PROGRAMS.items():
    for name in names:
      monkeypatch.setattr(module, name, recorded(getattr(module, name)))
  run = {'linear': linear, 'knn': knn.knn}[protocol]
  run(*features, **options)
  # A selection scores once more than the curves of SGD, by an equal program.
  assert ran.keys() == planned.keys()
  assert all(planned[key] <= ran[key] <= planned[key] + 1 for key in ran)


def _shapes(avals):
  return str([(aval.shape, str(aval.dtype)) for aval in avals])


@pytest.mark.parametrize('split', [False, True])
def test_features_are_placed_as_planned(split, features, monkeypatch):
  if split:
    monkeypatch.setattr(placement, 'SMALL', 0)
    monkeypatch.setattr(placement, 'BLOCK', 16 * 4 * SIZES.classes)
  (h, label), sizes = features[0], (SIZES.train, SIZES.width, SIZES.classes)
  devices = jax.local_devices()
  made = [*placement.in_blocks(h, label, 4), placement.by_rows(h, 4)]
  shapes = [*placement.abstract_blocks(*sizes, devices), placement.abstract_rows(*sizes, devices)]
  for shape, array in zip(shapes, made, strict=True):
    assert (shape.shape, shape.dtype) == (array.shape, array.dtype)
    assert len(array.sharding.device_set) == (8 if split else 1)
    assert shape.sharding.is_equivalent_to(array.sharding, array.ndim)


def test_work_of_imagenet():
  sizes = Sizes(train=1_281_167, test=50_000, classes=1000, width=2048)
  fit, test = registry.programs('linear', {}, sizes, jax.local_devices())
  assert (fit.calls, fit.iterations, fit.devices) == (1, 1000, 8)
  assert fit.flops == 4 * 1_281_167 * 2048 * 1000 and test.flops == 2 * 50_000 * 2048 * 1000
  (search,) = registry.programs('knn', {}, sizes, jax.local_devices())
  assert search.calls == 313 and search.flops == 2 * 13 * 4096 * 4096 * 2048
  assert registry.planned() == ['knn', 'linear']
