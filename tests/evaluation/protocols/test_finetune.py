"""Fine-tuning: what changes, what does not, the labels used, the epochs reported, the refusals."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from clr_jax import methods
from clr_jax.core.errors import UserError
from clr_jax.core.options import keyword_only, options_of
from clr_jax.data import SubsetSource
from clr_jax.evaluation import registry as protocols
from clr_jax.evaluation import runner as evaluation
from clr_jax.evaluation.probing import finetuning
from clr_jax.evaluation.probing.features import extract
from clr_jax.evaluation.probing.finetuning import Recipe, Tuned, backbone_weights, fit
from clr_jax.evaluation.probing.recipes import PRESETS, make_recipe
from clr_jax.evaluation.probing.subject import FEATURES, Subject
from clr_jax.evaluation.probing.subsets import labeled_subset
from clr_jax.evaluation.protocols import finetune
from clr_jax.experiment.build import build_experiment
from clr_jax.experiment.config_files import load
from clr_jax.experiment.schema import keys_without_effect
from clr_jax.ops import sharding
from clr_jax.rundir import results as results_lib
from clr_jax.rundir import workdir
from clr_jax.rundir.identity import open_run
from clr_jax.rundir.weights import Network
from tests.evaluation.network import leaves, make_subject, same
from tests.evaluation.runs import tiny
from tests.method_cases import SKELETONS

RECIPE = Recipe(
  epochs=13,
  batch_size=24,
  backbone_lr=0.1,
  head_lr=1.0,
  momentum=0.9,
  weight_decay=1e-4,
  schedule='step',
  milestones=(10.0,),
  factor=0.2,
  warmup_epochs=0.0,
  head_layers=2,
  normalize='l2',
  detach_features=False,
  augment='none',
)


@pytest.fixture(scope='module')
def subject():
  return make_subject()


def train(subject, recipe=RECIPE, seed=0):
  weights = backbone_weights(subject.experiment, *subject.weights)
  train, test = subject.sets
  return fit(subject.experiment, weights, train, [test], recipe, test_every=5, seed=seed)


@pytest.fixture(scope='module')
def tuned(subject):
  return train(subject)


class TestTraining:
  @pytest.mark.slow
  def test_all_of_the_network_learns_and_the_given_one_stays(self, subject, tuned):
    before = backbone_weights(subject.experiment, *subject.weights)
    for old, new in zip(leaves(before[0]), leaves(tuned.params['backbone']), strict=True):
      assert not np.array_equal(old, new)
    assert not same(leaves(before[1]), leaves(tuned.state['batch_stats']['backbone']))
    assert len(tuned.loss) == 13 and tuned.loss[-1] < 0.7 * tuned.loss[0]
    assert tuned.epoch == [5, 10, 13]
    assert tuned.scores[-1][0] > 0.3  # chance is 0.1

  @pytest.mark.slow
  def test_the_checkpoint_is_not_changed(self, subject):
    before = leaves(subject.weights)
    train(subject)
    assert same(before, leaves(subject.weights))

  @pytest.mark.slow
  def test_a_seed_is_a_training(self, subject, tuned):
    assert train(subject).loss == tuned.loss
    assert train(subject, seed=1).loss != tuned.loss

  @pytest.mark.slow
  def test_draws_do_not_compile_again(self, subject, tuned):
    del tuned  # has compiled it
    programs = finetuning._program.cache_info().misses
    train(subject, seed=2)
    assert program(subject).step.cache_size() == 1
    assert finetuning._program.cache_info().misses == programs

  @pytest.mark.parametrize(
    'changes',
    [
      pytest.param({'detach_features': True, 'weight_decay': 0.1}, marks=pytest.mark.slow),
      pytest.param({'backbone_lr': 0.0}, marks=pytest.mark.weekly),
    ],
  )
  def test_a_fixed_encoder_keeps_its_bits_and_not_its_statistics(self, subject, changes):
    tuned = train(subject, RECIPE._replace(**changes))
    weights, statistics = map(leaves, backbone_weights(subject.experiment, *subject.weights))
    assert same(weights, leaves(tuned.params['backbone']))
    assert not same(statistics, leaves(tuned.state['batch_stats']['backbone']))
    assert tuned.loss[-1] < tuned.loss[0]  # the head learns

  @pytest.mark.slow
  def test_head_rate_of_zero_keeps_the_head(self, subject):
    tuned = train(subject, RECIPE._replace(head_lr=0.0, weight_decay=0.0))
    first = program(subject).init(jax.random.key(0))
    assert same(leaves(first.params['classifier']), leaves(tuned.params['classifier']))
    before, _ = backbone_weights(subject.experiment, *subject.weights)
    assert not same(leaves(before), leaves(tuned.params['backbone']))

  @pytest.mark.slow
  def test_batch_norm_is_in_inference_mode_in_the_test(self, subject, tuned):
    """The result of an image does not depend on the others in its batch."""
    take = functools.partial(
      extract, tuned.represent, tuned.params, tuned.state, subject.sets.test, key='logits'
    )
    whole = take(batch_size=100)
    np.testing.assert_allclose(take(batch_size=7).h, whole.h, atol=1e-4)
    top1 = (whole.h.argmax(1) == whole.label).mean()
    assert top1 == pytest.approx(tuned.scores[-1][0])


def program(subject):
  """That of RECIPE."""
  experiment, source = subject.experiment, subject.sets.train
  backbone = experiment.backbone
  shape = source.stored_shape
  return finetuning._program(backbone, RECIPE, 10, shape, False, 8, 5, experiment.mesh, None)


class TestProtocol:
  @pytest.fixture
  def asked(self, monkeypatch):
    """Records arguments of `fit`; the best epoch is 2 on the test set, 1 on the held-out set."""
    calls = []

    def instead(experiment, weights, train, tested, recipe, *, test_every, seed, classifier):
      calls.append({**locals()})
      scores = [row[: len(tested)] for row in ([0.2, 0.5], [0.6, 0.4], [0.4, 0.1])]
      return Tuned(lambda *_: {}, {}, {}, [3.0, 2.0, 1.0], [1, 2, 3], scores)

    monkeypatch.setattr(finetune, 'fit', instead)
    return calls

  def test_last_and_best_epoch(self, subject, asked):
    last, best = finetune.measure(subject, epochs=3)
    assert (last.value, last.params['selection'], last.params['epoch']) == (0.4, 'last', 3)
    assert (best.value, best.params['selection'], best.params['epoch']) == (0.6, 'best_on_test', 2)
    assert last.params['preset'] == 'small' and last.params['num_labels'] == 120
    assert last.arrays['loss'].tolist() == [3, 2, 1]
    assert last.arrays['top1'].tolist() == [0.2, 0.6, 0.4]
    assert best.arrays is None and asked[0]['train'] is subject.sets.train

  def test_the_epoch_chosen_on_held_out_labels(self, subject, asked):
    found = finetune.measure(subject, epochs=3, held_out=0.25)[2]
    assert (found.value, found.params['selection']) == (0.2, 'best_on_held_out')
    fitted, held = asked[0]['train'], asked[0]['tested'][1]
    assert (fitted.num_examples, held.num_examples) == (90, 30)
    assert not set(fitted._rows) & set(held._rows)
    assert set(fitted.labels()) == set(range(10))

  @pytest.mark.parametrize(
    'amount', [{'label_fraction': 0.25}, {'per_class': 3}, {'per_class': 3, 'balanced': False}]
  )
  def test_the_labels_are_those_of_few_label_evaluation(self, subject, asked, amount):
    finetune.measure(subject, **amount, draw=1, seed=4)
    label = subject.sets.train.labels()
    rows = labeled_subset(label, **amount, draw=1, seed=4)
    assert isinstance(asked[0]['train'], SubsetSource)
    np.testing.assert_array_equal(asked[0]['train'].labels(), label[rows])
    np.testing.assert_array_equal(asked[0]['train']._rows, rows)

  def test_fewer_labels_give_smaller_batches_and_more_epochs(self, subject, asked):
    for fraction in (1.0, 0.2):
      finetune.measure(subject, label_fraction=fraction)
    sizes = [(c['recipe'].batch_size, c['recipe'].epochs) for c in asked]
    assert sizes == [(8, 15), (8, 50)]
    finetune.measure(subject, batch_size=512, epochs=2)
    assert asked[-1]['recipe'].batch_size == 120

  def test_the_robustness_documents_recipes(self, subject, asked):
    finetune.measure(subject, preset='robustness', detach_features=True)
    recipe = asked[-1]['recipe']
    assert (recipe.head_layers, recipe.normalize, recipe.head_lr) == (2, 'l2', 0.8)
    assert recipe.detach_features and recipe.milestones == (60.0,) and recipe.epochs == 100
    finetune.measure(subject, preset='robustness', schedule='cosine', warmup_epochs=3.0)
    recipe = asked[-1]['recipe']
    assert (recipe.milestones, recipe.factor, recipe.warmup_epochs) == ((), 0.0, 3.0)
    finetune.measure(subject.of_kind('untrained'), preset='robustness_supervised')
    recipe = asked[-1]['recipe']
    assert recipe.backbone_lr == recipe.head_lr == 0.01  # 120 labels
    assert recipe.epochs == 200 and recipe.weight_decay == 5e-4
    finetune.measure(subject, preset='robustness_supervised', backbone_lr=0.3)
    assert asked[-1]['recipe'].backbone_lr == 0.3 and asked[-1]['recipe'].head_lr == 0.01

  def test_untrained_starts_from_step_0(self, subject, asked):
    params, state = subject.weights  # of step 0
    later = Network(7, jax.tree.map(lambda x: x + 1, params), state)
    for kind in FEATURES[:2]:
      finetune.measure(Subject(subject.experiment, subject.sets, later, kind))
    trained, untrained = (leaves(call['weights'][0]) for call in asked)
    assert same(leaves(params['backbone']), untrained)
    assert same(leaves(later.params['backbone']), trained)

  def test_a_sweep_resumes(self, subject, asked, tmp_path):
    run = workdir.Workdir(tmp_path)
    config = subject.experiment.config
    config_hash = open_run(run, config, keys_without_effect(config)).config_hash
    options = {'draw': (0, 1), 'backbone_lr': (0.1, 0.2), 'epochs': 3}
    measure = functools.partial(evaluation.evaluate, subject, run, config_hash, 'finetune')
    protocols.check(subject.sets, 'finetune', options, ['trained'])
    measure({**options, 'draw': (0,), 'backbone_lr': (0.1,)})
    measure(options)
    assert len(asked) == 4
    assert len(results_lib.read_results(run)) == 8
    measure(options)
    assert len(asked) == 4 and len(results_lib.read_results(run)) == 8

  def test_every_field_of_a_recipe_is_an_option_with_a_default_and_a_value_in_presets(self):
    assert set(Recipe._fields) == set(options_of(make_recipe)) < set(options_of(finetune.measure))
    for preset in ('robustness', 'robustness_supervised'):
      assert set(Recipe._fields) - set(PRESETS[preset]) == {'detach_features'}


@pytest.mark.slow
def test_the_supervised_baseline_learns():
  subject = make_subject(kind='untrained', **{'model.width': 8, 'eval.train_split': 'train[:400]'})
  last, best = finetune.measure(subject)
  assert 0.7 < last.value <= best.value


class TestRefusals:
  @pytest.mark.parametrize(
    ('options', 'words'),
    [
      ({'preset': 'robust'}, "did you mean 'robustness'"),
      ({'schedule': 'cosin'}, "did you mean 'cosine'"),
      ({'augment': 'simclrr'}, "did you mean 'simclr'"),
      ({'normalize': 'l3'}, "normalize='l3' is not allowed: give one of 'none', 'l2'"),
      ({'head_layers': 3}, 'head_layers=3 is not allowed: give one of 1, 2'),
      ({'epochs': 0}, 'epochs=0 is not allowed'),
      ({'backbone_lr': -0.1}, 'backbone_lr=-0.1'),
      ({'head_lr': float('nan')}, 'head_lr=nan'),
      ({'draw': -1}, 'draw=-1'),
      ({'held_out': 1.0}, 'held_out=1.0 .*less than 1'),
      ({'warmup_epochs': 2.0, 'schedule': 'constant'}, 'has no effect unless .*schedule=cosine'),
      ({'milestones': (3,)}, 'milestones=.* has no effect unless .*schedule=step'),
      ({'preset': 'robustness', 'warmup_epochs': 2.0}, 'has no effect unless schedule=cosine'),
      ({'schedule': 'step'}, 'schedule=step needs milestones'),
      (
        {'schedule': 'step', 'milestones': (1, 3), 'epochs': 3},
        'finetune: milestones: 3 has no effect in a run of 3 epochs',
      ),
      ({'per_class': 2, 'label_fraction': 0.5}, 'label_fraction or per_class, not both'),
      ({'label_fraction': 0.05}, '6 labels are too few for 10 classes'),
      ({'per_class': 100}, 'per_class=100 must be at most'),
      ({'per_class': 1, 'held_out': 0.5}, '5 labels are too few for 10 classes'),
      ({'epochs': 1, 'warmup_epochs': 2.0}, 'warmup_epochs=2.0 exceeds epochs=1: lower it'),
    ],
  )
  def test_options(self, subject, options, words):
    with pytest.raises(UserError, match=words):
      protocols.check(subject.sets, 'finetune', options, ['trained'])

  def test_milestones_of_a_preset_may_lie_after_the_end(self, subject):
    options = {'preset': 'robustness', 'epochs': 3}
    protocols.check(subject.sets, 'finetune', options, ['trained'])
    recipe = make_recipe(subject, 60, **finetune._resolved('robustness', {'epochs': 3}))
    assert recipe.milestones == (60.0,) and finetuning._schedule(recipe, 10, 30)(29) == 1

  def test_a_warm_up_longer_than_the_training(self, subject):
    with pytest.raises(UserError, match=r'warmup_epochs=2\.0 exceeds epochs=1: lower'):
      finetune.measure(subject, epochs=1, warmup_epochs=2.0)

  def test_more_devices_than_labels(self, subject):
    experiment = dataclasses.replace(subject.experiment, mesh=sharding.make_mesh())
    other = Subject(experiment, subject.sets, subject._network)
    with pytest.raises(UserError, match='a batch of 6 labels cannot be split across 8 devices'):
      finetune.measure(other, batch_size=6)


def networks(name):
  """Representations that the evaluation of a method may use."""
  takes_it = 'represent' in keyword_only(methods.factory(name))
  return ['online', 'target'] if takes_it else [None]


class TestBackbone:
  """That of every method is found, whatever else it has, and it is the one that represents."""

  @pytest.mark.parametrize(
    ('name', 'represent'),
    [
      pytest.param(name, r, marks=[pytest.mark.slow] * (name not in SKELETONS))
      for name in methods.names()
      for r in networks(name)
    ],
  )
  def test_its_feature_is_the_methods(self, name, represent):
    config = load(f'quickstart:{name}')
    config.data.image_size, config.augment.size, config.model.width = 8, 8, 2
    if represent is not None:
      config.method.represent = represent
    experiment = build_experiment(config, devices=jax.devices()[:1])
    abstract, rng = experiment.abstract_state, np.random.default_rng(0)
    params, state = jax.tree.map(
      lambda x: rng.uniform(0.5, 1.5, x.shape).astype(np.float32),
      (
        abstract.params,
        {k: abstract.state[k] for k in ('batch_stats', 'target') if k in abstract.state},
      ),
    )
    weights, statistics = backbone_weights(experiment, params, state)
    images = rng.uniform(size=(2, 8, 8, 1)).astype(np.float32)
    backbone = experiment.backbone
    h = backbone.apply({'params': weights, 'batch_stats': statistics}, images, train=False)
    np.testing.assert_array_equal(h, experiment.plain.represent(params, state, images)['h'])

  def test_a_method_that_keeps_it_elsewhere(self, subject):
    params, state = subject.weights
    other = {('encoder' if k == 'backbone' else k): v for k, v in params.items()}
    with pytest.raises(UserError, match='simclr does not keep the network of config'):
      backbone_weights(subject.experiment, other, state)
    wider = build_experiment(tiny('simclr', **{'model.width': 6}))
    with pytest.raises(UserError, match='it cannot be fine-tuned'):
      backbone_weights(wider, params, state)
