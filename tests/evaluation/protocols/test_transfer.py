"""Transfer: the target's images as the run's own, its own classes, the other protocols' numbers."""

import functools

import jax
import numpy as np
import pytest
from PIL import Image

from clr_jax.core.errors import UserError
from clr_jax.evaluation import registry as protocols
from clr_jax.evaluation import runner as evaluation
from clr_jax.evaluation.probing.features import extract
from clr_jax.evaluation.probing.finetuning import Tuned
from clr_jax.evaluation.probing.sets import SPLITS, target_sets
from clr_jax.evaluation.probing.subject import Subject
from clr_jax.evaluation.protocols import finetune, transfer
from clr_jax.evaluation.protocols.knn import knn
from clr_jax.evaluation.protocols.transfer import on_target
from clr_jax.experiment.build import build_experiment
from clr_jax.experiment.schema import keys_without_effect
from clr_jax.rundir import results as results_lib
from clr_jax.rundir import workdir
from clr_jax.rundir.identity import open_run
from tests.evaluation.network import make_subject, same
from tests.evaluation.runs import tiny


@pytest.fixture(scope='module')
def subject():
  return make_subject()  # gray, 8x8


@pytest.fixture(scope='module')
def target(tmp_path_factory):
  """60 and 20 color images of 12x9 in three classes, told apart by their brightness."""
  folder, rng = tmp_path_factory.mktemp('colors'), np.random.default_rng(0)
  for split, count in (('train', 60), ('test', 20)):
    label = np.arange(count) % 3
    image = rng.integers(0, 85, (count, 12, 9, 3)) + 85 * label[:, None, None, None]
    np.savez(folder / f'{split}.npz', image=image.astype(np.uint8), label=label)
  return f'npz:{folder}/{{split}}.npz'


def fitted(image):
  """PIL: gray, the shorter side 8, the center."""
  small = Image.fromarray(image).convert('L').resize((8, 11), Image.Resampling.BILINEAR)
  return np.asarray(small.crop((0, 1, 8, 9)))[..., None]


def test_the_targets_images_are_as_the_runs_and_its_classes_its_own(subject, target):
  on = on_target(subject, {'target': target})
  assert [s.image_shape for s in on.sets] == [(8, 8, 1)] * 2
  assert [s.num_classes for s in on.sets] == [3, 3]
  raw = np.load(target.removeprefix('npz:').replace('{split}', 'train'))['image']
  np.testing.assert_array_equal(on.sets.train.arrays()[0], [fitted(image) for image in raw])
  assert on.checksum == on.sets.checksum() != subject.checksum
  assert on.weights is subject.weights and on.step == subject.step
  assert subject.sets.train.name == 'digits'  # as it was
  assert on_target(subject, {'target': target, 'protocol': 'knn'}) is on  # its features are shared


def test_gray_images_for_a_run_on_colors(target):
  experiment = build_experiment(
    tiny('simclr', **{'data.name': target, 'data.image_size': 8, 'batch_size': 16})
  )
  sets = target_sets(experiment, 'digits')
  assert sets.train.image_shape == (8, 8, 3) and sets.train.num_classes == 10
  image = sets.train.arrays()[0]
  np.testing.assert_array_equal(image, np.repeat(image[..., :1], 3, axis=-1))


@pytest.mark.slow
def test_the_number_is_the_other_protocols(subject, target):
  on = on_target(subject, {'target': target})
  take = functools.partial(extract, subject.experiment.method.represent, *subject.weights)
  (wanted,) = knn(take(on.sets.train), take(on.sets.test), k=5)
  (found,) = transfer.measure(on, target=target, protocol='knn', k=5, l2=(2.0,))  # l2 is of linear
  assert found.value == wanted.value > 0.6  # by brightness; chance is 0.35
  assert (found.protocol, found.metric, found.features) == ('transfer', 'top1', 'trained')
  assert found.params == {'target': target, 'protocol': 'knn', **wanted.params}
  halves = list(transfer.measure(on, target=target, label_fraction=(0.5, 1.0), l2=(2.0,)))
  assert [m.params['label_fraction'] for m in halves] == [0.5, 1.0]
  assert {m.params['l2'] for m in halves} == {2.0}


@pytest.fixture
def tuned(monkeypatch):
  """How often something was fine-tuned, on which classes."""
  calls = []

  def instead(experiment, weights, train, tested, recipe, **_):
    calls.append((train.num_classes, recipe.backbone_lr))
    return Tuned(lambda *_: {}, {}, {}, [1.0], [1], [[0.25]])

  monkeypatch.setattr(finetune, 'fit', instead)
  return calls


@pytest.mark.slow
def test_a_matrix_of_targets_and_protocols_is_resumable(subject, target, tuned, tmp_path):
  run = workdir.Workdir(tmp_path)
  config = subject.experiment.config
  config_hash = open_run(run, config, keys_without_effect(config)).config_hash
  options = {'target': (target, 'digits'), 'protocol': 'knn,finetune', 'backbone_lr': (0.1, 0.2)}
  protocols.check(subject.sets, 'transfer', options, ['trained'])
  units = list(protocols.units('transfer', options))
  assert [(u['target'], u['protocol']) for u in units] == [
    (to, protocol) for to in (target, 'digits') for protocol in ('knn', 'finetune')
  ]
  for _ in range(2):
    evaluation.evaluate(subject, run, config_hash, 'transfer', options)
  assert tuned == [(3, 0.1), (3, 0.2), (10, 0.1), (10, 0.2)]  # once
  records = results_lib.read_results(run)
  assert {r['protocol'] for r in records} == {'transfer'}
  sums = [on_target(subject, {'target': to}).checksum for to in (target, 'digits')]
  assert list(dict.fromkeys(r['data_checksum'] for r in records)) == sums
  assert records[0]['data'] == f'{target} train, test'
  table = protocols.table('transfer')([{**r, 'run': name} for name in ('a', 'b') for r in records])
  header, a, b = table.splitlines()
  assert header.count('knn') == header.count('finetune') == 2
  assert a.split()[:2] == ['a', 'trained'] and b.split()[0] == 'b' and '0.2500' in b


def test_the_matrix_shows_the_last_epoch_the_newest_options_and_the_mean_of_draws():
  def record(value, protocol='transfer', **params):
    params = {'target': 'x', 'protocol': 'finetune', 'selection': 'last', **params}
    row = {'value': value, 'step': 1, 'params': params, 'run': 'a', 'features': 'trained'}
    return {**row, 'protocol': protocol}

  rows = [
    record(0.9, epochs=5),
    record(0.1, draw=0),
    record(0.7, draw=0, selection='best_on_test'),
    record(0.4, draw=1),
    record(0.2, draw=0),
    record(0.5, protocol='finetune'),
    {**record(0.6, target='y'), 'features': 'untrained'},
  ]
  assert [line.split() for line in transfer.table(rows).splitlines()] == [
    ['x', 'finetune', 'y', 'finetune'],
    ['a', 'trained', '0.3000', '-'],
    ['a', 'untrained', '-', '0.6000'],
  ]


@pytest.mark.slow
def test_an_untrained_networks_statistics_are_estimated_once(target, monkeypatch):
  subject = make_subject(kind='untrained')
  calls = []
  monkeypatch.setattr(
    'clr_jax.evaluation.probing.subject.estimate_batch_stats',
    lambda method, params, state, source, **_: calls.append(source) or state,
  )
  found = [on_target(subject, {'target': to}).weights for to in (target, 'digits')]
  assert calls == [subject.experiment.source]
  assert same(*map(jax.tree.leaves, found))


def test_options_of_all_protocols_can_be_flags():
  config = protocols.parameters('transfer')
  for name in ('linear', 'finetune', 'knn'):
    assert set(protocols.parameters(name)) < set(config)
  config.backbone_lr = (0.1,)
  config.test_every = 2  # was None, an integer
  with pytest.raises(TypeError):
    config.test_every = 'two'


@pytest.mark.parametrize(
  ('protocol', 'preset', 'other'),
  [('finetune', 'moco_transfer', 'moco'), ('linear', 'moco', 'small')],
)
def test_presets_are_those_of_the_chosen_protocol(protocol, preset, other):
  """The commands of table 8 of feature transformation, as flags and in `eval.protocols`."""
  given = {'target': 'i_naturalist2018', 'protocol': protocol, 'preset': preset}
  assert protocols.parameters('transfer', given).preset == preset
  assert protocols.units('transfer', given) == [given]
  with pytest.raises(UserError, match=f"preset='{other}' is not allowed"):
    protocols.units('transfer', {**given, 'preset': other})


def test_usual_splits():
  assert SPLITS['imagenet2012'] == ('train', 'validation')


class TestRefusals:
  @pytest.mark.parametrize(
    ('options', 'words'),
    [
      ({'target': ''}, 'transfer needs the name of one or several'),
      ({}, 'transfer needs the name of one or several'),
      ({'target': 'digits', 'protocol': 'fine_tune'}, "did you mean 'finetune'"),
      ({'target': 'digitz'}, "there is no data set 'digitz'.*did you mean digits"),
      ({'target': 'digits', 'test_split': 'dev'}, "digits has no split 'dev'"),
      (
        {'target': 'digits', 'train_split': 'train[:60%]', 'test_split': 'train[50%:]'},
        r"also in train_split='train\[:60%\]' of digits: .* such as train_split='train\[:50%\]'",
      ),
      (
        {'target': 'digits', 'train_split': 'test', 'test_split': 'train[:9]'},
        "9 images of test_split=.* are also in data.train_split='train' of digits",
      ),
    ],
  )
  def test_options(self, subject, options, words):
    with pytest.raises(UserError, match=words):
      on_target(subject, options)

  def test_sets_that_cannot_be(self, subject, target, tmp_path):
    with np.load(target.removeprefix('npz:').replace('{split}', 'test')) as file:
      image, label = file['image'], file['label']
    np.savez(tmp_path / 'train.npz', image=image, label=np.minimum(label, 1))
    np.savez(tmp_path / 'test.npz', image=image, label=label)
    with pytest.raises(UserError, match=r'the 3 classes of .* are not the 2 of'):
      on_target(subject, {'target': f'npz:{tmp_path}/{{split}}.npz'})
    np.savez(tmp_path / 'test.npz', image=image)
    with pytest.raises(UserError, match='needs labels and'):
      on_target(subject, {'target': f'npz:{tmp_path}/{{split}}.npz', 'train_split': 'train[:9]'})

  def test_runs_on_images_that_are_not_square(self, target):
    experiment = build_experiment(tiny('simclr', **{'data.name': target, 'batch_size': 16}))
    with pytest.raises(UserError, match='are 12x9 but transfer makes images square'):
      target_sets(experiment, 'digits')

  def test_too_few_labels_of_the_target(self, subject, target):
    with pytest.raises(UserError, match=r'label_fraction=0\.02 is 1 labels'):
      on_target(subject, {'target': target, 'label_fraction': (0.02,)})

  def test_options_that_the_protocol_refuses(self, subject, target):
    """At once, as `evaluate` asks for all subjects before it measures on the first."""
    options = {'target': target, 'schedule': 'step'}
    on_target(subject, {**options, 'protocol': 'knn'})
    with pytest.raises(UserError, match='schedule=step needs milestones'):
      on_target(subject, {**options, 'protocol': 'finetune'})

  def test_a_subject_on_other_data(self, subject):
    assert isinstance(subject, Subject)
    with pytest.raises(AssertionError):
      next(transfer.measure(subject, target='cifar10'))
