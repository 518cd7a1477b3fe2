"""Classifiers that a run has already, `own_head` and `online`, and TCL's published linear stage."""

import jax
import numpy as np
import pytest

from clr_jax.core.errors import UserError
from clr_jax.evaluation import registry as protocols
from clr_jax.evaluation.probing.finetuning import Recipe, backbone_weights, fit, own_classifier
from clr_jax.evaluation.protocols import finetune, linear_augmented, online, own_head
from tests.evaluation.network import make_subject, same


@pytest.fixture(scope='module')
def supervised():
  return make_subject('supervised')


@pytest.fixture(scope='module')
def simclr():
  return make_subject('simclr', **{'probe.enabled': True})


def expected_top1(subject, classify):
  """Accuracy of logits = classify(features) on all test images."""
  image, label = subject.sets.test.load(np.arange(subject.sets.test.num_examples))
  image = image.astype('float32') / 255
  outputs = jax.jit(subject.experiment.method.represent)(*subject.weights, image)
  return (classify(np.asarray(outputs['h'], float)).argmax(-1) == label).mean()


@pytest.mark.slow
def test_the_own_head_is_measured_on_all_test_images(supervised):
  head = supervised.weights[0]['classifier']
  (kernel,), (bias,) = (
    [np.asarray(x, float) for x in jax.tree.leaves(head) if x.ndim == axes] for axes in (2, 1)
  )
  (found,) = own_head.measure(supervised)
  assert found.value == pytest.approx(expected_top1(supervised, lambda h: h @ kernel + bias))
  assert (found.protocol, found.params) == ('own_head', {'num_images': 100})


@pytest.mark.slow
def test_the_online_probe_is_measured_on_all_test_images(simclr):
  probe = {k: np.asarray(v, float) for k, v in simclr.weights[0]['probe'].items()}
  (found,) = online.measure(simclr)
  wanted = expected_top1(simclr, lambda h: h @ probe['kernel'] + probe['bias'])
  assert found.value == pytest.approx(wanted)
  assert (found.protocol, found.params) == ('online', {'num_images': 100})


@pytest.mark.slow
def test_networks_without_these_classifiers_are_refused(supervised, simclr):
  protocols.check_network(simclr.experiment, simclr.sets, 'online')
  protocols.check_network(supervised.experiment, supervised.sets, 'own_head')
  with pytest.raises(UserError, match='own_head measures the classification head of a network'):
    protocols.check_network(simclr.experiment, simclr.sets, 'own_head')
  with pytest.raises(UserError, match=r'online measures the online probe.*probe\.enabled=True'):
    protocols.check_network(supervised.experiment, supervised.sets, 'online')
  other = supervised.sets._replace(train=_TwoClasses(supervised.sets.train))
  with pytest.raises(UserError, match='knows 10 classes'):
    protocols.check_network(supervised.experiment, other, 'own_head')


class _TwoClasses:
  """A source with another number of classes."""

  def __init__(self, source):
    self._source, self.num_classes = source, 2

  def __getattr__(self, name):
    return getattr(self._source, name)


@pytest.mark.slow
def test_fine_tuning_starts_from_the_own_head(supervised):
  frozen = {'epochs': 1, 'backbone_lr': 0.0, 'head_lr': 0.0, 'augment': 'none'}
  params = supervised.weights[0]
  recipe = Recipe(
    **{**frozen, 'batch_size': 120, 'momentum': 0.0, 'weight_decay': 0.0},
    schedule='constant',
    milestones=(),
    factor=0.0,
    warmup_epochs=0.0,
    head_layers=1,
    normalize='none',
    detach_features=False,
    head='own',
  )
  weights = backbone_weights(supervised.experiment, *supervised.weights)
  train, test = supervised.sets
  first = own_classifier(supervised.experiment, params)
  tuned = fit(
    supervised.experiment,
    weights,
    train,
    [test],
    recipe,
    test_every=1,
    seed=0,
    classifier=first,
  )
  ours = jax.tree.leaves(tuned.params['classifier'])
  assert same(ours, jax.tree.leaves(params['classifier']))
  found, *_ = finetune.measure(supervised, head='own', schedule='constant', **frozen)
  assert found.params['head'] == 'own'
  with pytest.raises(UserError, match='one layer: set head_layers=1'):
    finetune.check(supervised.sets, {'head': 'own', 'head_layers': 2})


@pytest.mark.slow
def test_an_own_head_must_be_there(simclr):
  with pytest.raises(UserError, match='simclr has no classification head of its own'):
    finetune.measure(simclr, head='own', epochs=1)


@pytest.mark.slow
def test_the_published_linear_stage_of_tcl(simclr):
  """One step on all images by hand: features of the batch's statistics, then the moved ones."""
  options = {'epochs': 1, 'batch_size': 120, 'policy': 'none'}
  last, best = linear_augmented.measure(simclr, preset='tcl_published', **options)
  used = {'preset': 'tcl_published', 'policy': 'none', 'batch_norm': 'train', 'schedule': 'tcl'}
  assert used.items() <= last.params.items()
  assert (last.protocol, last.params['selection']) == ('linear_augmented', 'last')
  assert last.value == best.value

  backbone = simclr.experiment.backbone
  params, statistics = backbone_weights(simclr.experiment, *simclr.weights)
  recipe = Recipe(
    epochs=1,
    batch_size=120,
    backbone_lr=0.0,
    head_lr=0.5,
    momentum=0.9,
    weight_decay=1e-4,
    schedule='tcl',
    milestones=(),
    factor=0.0,
    warmup_epochs=0.0,
    head_layers=1,
    normalize='none',
    detach_features=True,
    augment='none',
  )
  train, test = simclr.sets
  start, after = (
    fit(
      simclr.experiment,
      (params, statistics),
      train,
      [test],
      recipe._replace(head_lr=rate, weight_decay=rate * 2e-4),
      test_every=1,
      seed=0,
    )
    for rate in (0.0, 0.5)
  )
  image, label = train.load(np.arange(120))
  variables = {'params': params, 'batch_stats': statistics}
  image = image.astype('float32') / 255
  h, moved = jax.jit(lambda v, x: backbone.apply(v, x, train=True, mutable=['batch_stats']))(
    variables, image
  )
  h = np.asarray(h[0] if isinstance(h, tuple) else h, float)
  leaves = jax.tree.leaves(start.params['classifier'])
  (w,), (b,) = ([np.asarray(x, float) for x in leaves if x.ndim == axes] for axes in (2, 1))
  logits = h @ w + b
  p = np.exp(logits - logits.max(1, keepdims=True))
  error = (p / p.sum(1, keepdims=True) - np.eye(10)[label]) / 120
  wanted = w - 0.5 * (h.T @ error + 1e-4 * w), b - 0.5 * (error.sum(0) + 1e-4 * b)
  for found in jax.tree.leaves(after.params['classifier']):
    np.testing.assert_allclose(found, wanted[found.ndim == 1], atol=1e-5)
  assert same(jax.tree.leaves(after.params['backbone']), jax.tree.leaves(params))
  for found, expected in zip(
    jax.tree.leaves(after.state['batch_stats']['backbone']),
    jax.tree.leaves(moved['batch_stats']),
    strict=True,
  ):
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.weekly
def test_the_runs_own_views_are_a_policy(simclr):
  last, _ = linear_augmented.measure(simclr, policy='own', augmentations=1, epochs=2, batch_size=64)
  assert (last.params['policy'], last.params['augmentations']) == ('own', 1)


@pytest.mark.slow
@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'augmentations': 2}, 'augmentations=2 has no effect with batch_norm=train'),
    ({'nesterov': True}, 'nesterov=True cannot be used with batch_norm=train'),
    ({'base_lr': (0.1, 0.2)}, 'fits one head'),
    ({'held_out': 0.2}, 'fits one head'),
    ({'normalize': 'standardize'}, 'fits one head'),
  ],
)
def test_options_without_a_place_in_the_published_stage(simclr, options, message):
  with pytest.raises(UserError, match=message):
    protocols.check(
      simclr.sets, 'linear_augmented', {'preset': 'tcl_published', **options}, ['trained']
    )
