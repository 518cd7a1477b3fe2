"""The command line in this process: what it prints, and what it refuses in one sentence."""

import itertools
import json
import os
import pathlib
import sys

import jax
import numpy as np
import pytest

from clr_jax.cli import main as cli
from clr_jax.experiment.config_files import load
from clr_jax.experiment.schema import keys_without_effect, option_texts
from clr_jax.rundir import results as results_lib
from clr_jax.rundir import workdir
from clr_jax.rundir.identity import open_run
from clr_jax.training import loop as train
from tests.cli.calling import call

TINY = pathlib.Path(__file__).parent.parent / 'tiny.py'


@pytest.fixture
def refused(capsys, tmp_path, nothing_compiles):
  """refused(words, ...): the command ends with code 2 and one line that holds all of the words."""

  def check(*arguments, words):
    before = sorted(p.relative_to(tmp_path) for p in tmp_path.rglob('*'))
    code = call(*arguments)
    out, err = capsys.readouterr()
    assert code == 2, (code, out, err)
    assert err.startswith('clr-jax: ') and err.count('\n') == 1, err
    for word in words:
      assert word in err, err
    assert not out
    assert sorted(p.relative_to(tmp_path) for p in tmp_path.rglob('*')) == before

  return check


def npz(path, shape, labels=True, train_shape=None):
  """{split} files of noise; `shape` is that of the test images, and of the others by default."""
  rng = np.random.default_rng(0)
  for split, size in (('train', train_shape or shape), ('test', shape)):
    arrays = {'image': rng.integers(0, 255, (70, *size)).astype(np.uint8)}
    if labels:
      arrays['label'] = np.arange(70) % 3
    np.savez(path / f'{split}.npz', **arrays)
  return f'npz:{path}/{{split}}.npz'


@pytest.fixture
def started(tmp_path):
  """The workdir of a run that was opened and never reached a checkpoint."""
  directory = tmp_path / 'started'
  config = load(f'{TINY}')
  open_run(workdir.Workdir(directory), config, keys_without_effect(config))
  return directory


# ---------------------------------------------------------------- refusals
@pytest.mark.parametrize(
  ('arguments', 'words'),
  [
    (['--config.method.temprature=1'], ['method.temprature', 'method.temperature']),
    (['--config.nonsense=1'], ['nonsense']),
    (['--config.method.name=simclrr'], ['simclrr', 'simclr']),
    (['--config.augment.name=afine'], ['afine', 'affine']),
    (['--config.optimizer.name=sdg'], ['sdg', 'sgd']),
    (['--config.model.name=resnet_tinny'], ['resnet_tinny']),
    (['--config.batch_size=2000'], ['batch_size=2000', '1437']),
    (['--config.batch_size=60'], ['batch_size=60', '8']),
    (['--config.batch_size=abc'], ['batch_size', 'abc']),
    (['--config.batch_size=0'], ['batch']),
    (['--config.num_epochs=0'], ['num_epochs']),
    (['--config.num_epochs=abc'], ['num_epochs', 'abc']),
    (['--config.stop_at_epoch=True'], ['stop_at_epoch=True cannot be read: give a number']),
    (['--config.model.mean=(0.5,0.5,0.5)'], ['model.mean', '3 values']),
    (['--config.eval.features=("trainde",)'], ['trainde', 'trained']),
    (['--config.eval.protocols.knn.k=0'], ['k=0']),
    (['--config.data.name=npz:nowhere.npz'], ['nowhere.npz']),
    (['--config.data.test_split=tset'], ['tset']),
    (
      ['--config.data.test_split=train[80%:]'],
      ['287 of the 287', "data.train_split='train[:80%]' and data.test_split='train[80%:]'"],
    ),
    (
      ['--config.eval.train_split=train[:70%]', '--config.eval.test_split=train[60%:]'],
      ["eval.train_split='train[:60%]' and eval.test_split='train[60%:]'"],
    ),
    (
      ['--config.eval.train_split=train[:70%]', '--config.eval.test_split=train[70%:]'],
      ["data.train_split='train[:70%]' and eval.test_split='train[70%:]'"],
    ),
    (['--config.init_from=nowhere'], ['clr-jax: init_from=', 'nowhere has no checkpoints']),
    (['--config.eval.protocols.knn.temperature=nan'], ['eval.protocols.knn.temperature=nan is']),
    (['--config.precision=float16'], ['float16', 'bfloat16']),
    (['--confg.seed=1'], ['confg']),
    (['--batch_size=32'], ['unknown option --batch_size: did you mean --config.batch_size?']),
    (['--method.gamma', '0.9'], ['did you mean --config.method.gamma?']),
    (['--config.eval.data=npz:no.npz'], ['clr-jax: eval.data=npz:', 'no.npz: there is no file']),
    (['--config.eval.test_split=tset'], ['clr-jax: eval.test_split=tset: digits has no split']),
    (['--config.eval.protocols.knn.k=5,0'], ['clr-jax: eval.protocols.knn.k=0 is not allowed']),
    (['--config.accumulate=16'], ['accumulate=16', '8 devices', 'lower accumulate']),
    (['--config.telemetry.bins=9'], ['bins=9 has no effect unless telemetry.enabled=True', '40']),
    (['--config.probe.enabled=0', '--config.probe.learning_rate=2'], ['probe.enabled=True']),
    (['--config.loggers=csv,csv'], ["loggers=('csv', 'csv') is", 'without repetitions']),
    (['--config.profile={[]:1}'], ['--config.profile={[]:1} cannot be read']),
    (['--workdir='], ['--workdir=: give the path of a folder']),
    (['--workdir=s3://b/x'], ['s3://b/x', 'only local paths and gs://']),
    (['--config=nowhere.py'], ['nowhere.py']),  # of an option given twice the last counts
    (['--config.keep_best=nosuch'], ['keep_best', 'nosuch', 'online_knn_top1']),
    (['--config.keep_best=online_knn_top1', '--config.eval_every=0'], ['set eval_every above 0']),
    (['--config.keep_best=online_probe_top1', '--config.probe.enabled=False'], ['online_knn_top1']),
    (['--config.augment.size=28', '--config.data.image_size=64'], ['28 pixels', '64', 'augment.s']),
    (['--config.eval.protocols.knn.k=2000'], ['clr-jax: eval.protocols.knn.k=2000 is', 'lower k']),
    (['--config.method.hidden_dim=1048576', '--config.method.out_dim=1048576'], ['GiB']),
    (['--distributed=1'], ['--distributed=1', 'takes no value']),
    (['-batch_size=32'], ['unknown option -batch_size: did you mean --config.batch_size?']),
    (['--noconfig.probe.enabled=True'], ['unknown option --noconfig.probe.enabled']),
    (['--coordinator=nohost'], ['--coordinator=nohost: give HOST:PORT']),
    (['--coordinator=a:99999'], ['--coordinator=a:99999: give HOST:PORT, the port from 1 to']),
    (
      ['--coordinator=a:1', '--num_processes=2', '--process_id=2'],
      ['--process_id=2', '--num_processes=2', 'from 0 to 1'],
    ),
    (['something'], ['something']),
    (['--config.method.name=byol', '--config.batch_size=2000'], ['batch_size=2000']),
  ],
)
def test_train_refuses(refused, tmp_path, arguments, words):
  new = tmp_path / 'new'
  refused('train', f'--config={TINY}', f'--workdir={new}', *arguments, words=words)


@pytest.mark.parametrize(
  ('arguments', 'words'),
  [
    (['tarin'], ['tarin', 'train']),
    (['train', '--workdir=x'], ['--config']),
    (['train', f'--config={TINY}', '--workdir=x', '--num_processes=2'], ['--coordinator']),
    (['train', '--config=nowhere.py', '--workdir=x'], ['nowhere.py', 'quickstart']),
    (
      ['train', f'--config={TINY}', '--workdir=x', '--num_processes=two'],
      ['clr-jax: --num_processes=two: give a whole number of at least 1'],
    ),
    (['train', f'--config={TINY}', '--workdir=x', '--params.k=3'], ['--params.k']),
    (['train', f'--config={TINY}', '--workdir=x', '--noconfig.seed'], ['--config.seed', 'boolean']),
    (['train', f'--config={TINY}'], ['--workdir']),
    (['train', f'--config={TINY}:simclrr', '--workdir=x'], ['simclrr']),
    (['train', f'--config={pathlib.Path(__file__)}', '--workdir=x'], ['get_config']),
    (['evaluate'], ['one of few-label, finetune, knn, linear, ', 'must be given']),
    (['train', '-config=x', '--workdir=x'], ["unknown option -config: did you mean '--config'?"]),
    (['evaluate', 'knn', '--again'], ["unknown option --again: use '--overwrite' instead ("]),
    (['-'], ['unknown']),
    (['evaluate', 'robustness', '--workdir=x', '--out='], ['--out=: give the path of a file']),
    (['export', '--workdir='], ['--workdir=: give the path of a folder']),
    (['export', '--workdir=x', '--out='], ['--out=: give the path of a folder']),
    (['export', '--workdir=x', '--step=-1'], ['--step=-1: give a whole number']),
    (['export', '--workdir=x', '--out=/proc/x'], ['/proc/x cannot be written', 'another folder']),
    (['datasets', '--data_dir=nowhere'], ['--data_dir=nowhere is not a folder: correct the path']),
    (['inspect', 'curves', '--workdir=x', '--out=new/x.png'], ['x is not a run']),
    (['inspect', 'curves', '--workdir=x', '--params.x=1'], ['--params.x', 'none, so leave it out']),
    (
      ['inspect', 'curves', '--workdir=x', '--step=99999999999'],
      ['--step=99999999999: give a whole number of at least 0 and of at most 2147483647'],
    ),
    (['evaluate', 'liner', '--workdir=x'], ['liner', 'linear']),
    (['evaluate', 'knn'], ['--workdir']),
    (['evaluate', 'knn', '--workdir=nowhere'], ['nowhere']),
    (['inspect'], ['curves', 'few-label']),
    (['inspect', 'cruves', '--workdir=x'], ['cruves', 'curves']),
    (['inspect', 'curves', '--workdir=x', '--step=3'], ['--step', 'curves']),
    (['inspect', 'curves', '--workdir=x', '--out=x.pdf'], ['x.pdf', '.png']),
    (['results'], ['--workdir']),
    (['results', '--workdir=nowhere'], ['nowhere']),
    (['results', '--wrkdir=x'], ['--wrkdir', '--workdir']),
    (['methods', '--x=1'], ['x']),
    (['bench'], ['--config must be given']),
    (['bench', '--config'], ['--config needs a value: write --config=VALUE']),
    (['inspect', 'curves', '--workdir=x', '--step=-1'], ['--step=-1: give a whole number']),
    (['inspect', 'gradients', '--workdir=x', '--params.span=1e300'], ['--params.span=1e+300']),
    (['inspect', 'gradients', '--workdir=x', '--params.etas=abc'], ["--params.etas=('abc',)"]),
    (['inspect', 'curves', '--workdir=x', '--out=s3://x.png'], ['s3://x.png', 'gs://']),
    (['evaluate', 'knn', '--workdir=x', '--params.k=5,0'], ['clr-jax: --params.k=0 is not']),
    (['evaluate', 'transfer', '--workdir=x', '--params.k=5'], ['--params.k has no effect', 'knn']),
    (['bench', f'--config={TINY}', '--collectives=2', '--steps=9'], ['--steps has no effect with']),
    (['bench', f'--config={TINY}', '--repeats=0'], ['--repeats', 'at least 1']),
    (['--x=1'], ['--x']),
  ],
)
def test_commands_refuse(refused, arguments, words):
  refused(*arguments, words=words)


@pytest.mark.parametrize('method', ['supcon', 'tcl', 'supervised'])
def test_labels_that_are_missing(refused, tmp_path, method):
  name = npz(tmp_path, (8, 8), labels=False)
  arguments = f'--config={TINY}:{method}', f'--config.data.name={name}'
  refused('train', *arguments, f'--workdir={tmp_path / "new"}', words=['labels'])


def test_a_flat_folder_has_no_labels(refused, tmp_path):
  from PIL import Image

  for first, split in enumerate(('train', 'test')):
    (tmp_path / 'images' / split).mkdir(parents=True)
    for i in range(70):
      Image.new('L', (8, 8), first + 2 * i).save(tmp_path / 'images' / split / f'{i}.png')
  arguments = f'--config={TINY}:supcon', f'--config.data.name=folder:{tmp_path / "images"}'
  refused('train', *arguments, f'--workdir={tmp_path / "new"}', words=['labels'])


@pytest.mark.parametrize(
  ('train', 'test', 'words'),
  [
    ([0, 1, 2, 3], [0, 1, 2, 3, 4], ['no image of 4', 'same classes']),
    ([1, 2, 3], [1, 2, 2**32 + 3], [f'no image of {2**32 + 3}']),
    (['cat', 'dog'], ['cat', 'cow'], ['no image of cow']),
  ],
)
def test_classes_that_only_the_test_set_has(refused, tmp_path, train, test, words):
  for split, labels in (('train', train), ('test', test)):
    image = np.zeros((70, 8, 8), np.uint8)
    np.savez(tmp_path / f'{split}.npz', image=image, label=np.resize(labels, 70))
  arguments = f'--config={TINY}', f'--config.data.name={tmp_path}/{{split}}.npz'
  refused('train', *arguments, f'--workdir={tmp_path / "new"}', words=words)


@pytest.mark.parametrize('channels', [2, 4])
def test_channels_that_are_neither_gray_nor_rgb(refused, tmp_path, channels):
  name = npz(tmp_path, (8, 8, channels))
  arguments = f'--config={TINY}', f'--config.data.name={name}', f'--workdir={tmp_path / "new"}'
  refused('train', *arguments, words=[str(channels), 'channels'])


def test_sets_of_different_shapes(refused, tmp_path):
  name = npz(tmp_path, (9, 9), train_shape=(8, 8))
  arguments = f'--config={TINY}', f'--config.data.name={name}', f'--workdir={tmp_path / "new"}'
  refused('train', *arguments, words=['(9, 9, 1)', '(8, 8, 1)', 'set data.image_size'])
  npz(tmp_path, (8, 8, 3), train_shape=(8, 8))
  refused('train', *arguments, words=['(8, 8, 3)', '(8, 8, 1)', 'convert', 'channels'])


def test_another_trajectory(refused, started):
  (started / 'metrics').mkdir()
  (started / 'metrics' / 'row.jsonl').write_text('{"step": 1}\n')
  arguments = f'--config={TINY}', f'--workdir={started}'
  refused('train', *arguments, '--config.method.temperature=0.25', words=['method.temperature: '])
  refused('train', *arguments, '--config.seed=3', words=['seed: 0 -> 3', 'new workdir'])


def test_a_workdir_that_is_something_else(refused, tmp_path):
  (tmp_path / 'file').write_text('mine')
  (tmp_path / 'foreign').mkdir()
  (tmp_path / 'foreign' / 'thesis.tex').write_text('mine')
  command = 'train', f'--config={TINY}'
  refused(*command, f'--workdir={tmp_path / "file"}', words=['is a file'])
  refused(*command, f'--workdir={tmp_path / "foreign"}', words=['thesis.tex'])
  refused('evaluate', 'knn', f'--workdir={tmp_path / "foreign"}', words=['not a run'])


def test_evaluate_without_a_checkpoint(refused, started):
  refused('evaluate', 'knn', f'--workdir={started}', words=['no checkpoint'])
  refused('evaluate', 'knn', f'--workdir={started}', '--params.kk=3', words=['params.kk', 'k'])
  refused('evaluate', 'knn', f'--workdir={started}', '--params.k=a', words=["k='a'", 'whole'])
  refused('evaluate', 'knn', f'--workdir={started}', '--features=x', words=["'x'", 'trained'])


def test_evaluate_linear_needs_labels(refused, tmp_path):
  config = load(f'{TINY}')
  config.data.name = npz(tmp_path, (8, 8), labels=False)
  directory = tmp_path / 'run'
  open_run(workdir.Workdir(directory), config, keys_without_effect(config))
  refused('evaluate', 'linear', f'--workdir={directory}', words=['labels'])


def test_no_such_device(refused, monkeypatch):
  def devices():
    raise RuntimeError("Unable to initialize backend 'cuda': no GPU")

  monkeypatch.setattr(jax, 'devices', devices)
  monkeypatch.setenv('JAX_PLATFORMS', 'cuda')
  refused('train', f'--config={TINY}', '--workdir=x', words=['JAX_PLATFORMS=cuda', 'no GPU'])


def test_a_deleted_folder(refused, monkeypatch, tmp_path):
  (tmp_path / 'gone').mkdir()
  monkeypatch.chdir(tmp_path / 'gone')
  (tmp_path / 'gone').rmdir()
  refused('methods', words=['the current folder was deleted'])
  monkeypatch.chdir(tmp_path)


# ---------------------------------------------------------------- output
def test_help_and_no_arguments(capsys):
  for arguments, code in (([], 2), (['--help'], 0), (['help'], 0)):
    assert call(*arguments) == code
    out = capsys.readouterr().out
    for command in ('train', 'evaluate', 'results', 'bench', 'methods', 'datasets', 'quickstart'):
      assert command in out


def test_help_of_a_command(capsys, tmp_path):
  def said(*arguments):
    assert call(*arguments) == 0
    return capsys.readouterr().out

  assert said('train', '--help').startswith('usage: clr-jax train [-h] --config FILE')
  assert 'list the methods' in said('methods', '-h')
  lines = said('train', '--help', f'--config={TINY}', f'--workdir={tmp_path}/x').splitlines()
  described = dict(itertools.pairwise(lines))
  batch = option_texts(load(f'{TINY}'))['batch_size']
  assert described['  --config.batch_size=64'] == f'        {batch}'
  assert described['  --config.eval.protocols.knn.k=5'].startswith('        ')
  assert '  --config.batch_size=64' in lines and '  --config.method.temperature=0.3' in lines
  assert any(line.startswith('  --num_processes ') for line in lines)
  lines = said('evaluate', 'knn', '--help').splitlines()  # without a run: not its config's
  assert lines[lines.index('  --params.k=200') + 1].startswith('        number of neighb')
  assert not any(line.startswith('  --config.') for line in lines)
  assert '  --params.by=None' in said('inspect', 'scores', '--help').splitlines()
  assert not any(tmp_path.iterdir())


def test_methods_and_datasets_have_a_line_each(capsys, tmp_path):
  assert call('methods') == 0
  lines = capsys.readouterr().out.splitlines()
  assert {'simclr', 'sogclr', 'supcon', 'supervised', 'tcl'} <= {x.split()[0] for x in lines}
  assert all(len(x.split()) > 2 for x in lines)
  assert call('datasets', f'--data_dir={tmp_path}') == 0
  lines = capsys.readouterr().out.splitlines()
  assert {'digits', 'npz:PATH', 'folder:PATH'} <= {x.split()[0] for x in lines}


def test_results_oldest_first(capsys, started):
  assert call('results', f'--workdir={started}') == 0
  assert capsys.readouterr().out == 'no results yet\n'
  for value in (0.5, 0.75):
    results_lib.write_result(
      workdir.Workdir(started),
      results_lib.Measurement('top1', value, 'knn', {'k': int(value * 100)}, 'trained', 0.1),
      step=3,
      checkpoint=None,
      config_hash='abc',
      data='digits train, test',
      data_checksum='def',
      seed=0,
    )
  assert call('results', f'--workdir={started}', '--json') == 0
  records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
  assert [r['value'] for r in records] == [0.5, 0.75]
  fields = (
    'metric value protocol params features step checkpoint config_hash code_version libraries'
  )
  assert {*fields.split(), 'data_checksum', 'seed', 'device', 'seconds'} <= records[0].keys()
  assert call('results', f'--workdir={started}') == 0
  table = capsys.readouterr().out
  assert '50.00 %' in table and '75.00 %' in table and 'knn' in table


def test_a_command_leaves_the_process_as_it_was(capsys, monkeypatch, tmp_path):
  monkeypatch.delenv('XLA_FLAGS', raising=False)
  monkeypatch.setattr(train, 'train', lambda config, directory, notes: None)
  before = dict(jax.config.values), list(sys.argv), list(sys.path)
  for _ in range(2):
    assert call('train', f'--config={TINY}', '--workdir', tmp_path, '--config.seed=3') == 0
  assert (dict(jax.config.values), sys.argv, sys.path) == before
  assert os.environ['XLA_FLAGS'].count('deterministic') == 1


def test_overrides_reach_the_run(monkeypatch, tmp_path):
  seen = []
  monkeypatch.setattr(train, 'train', lambda *given, notes: seen.append(given))
  arguments = '--config.seed', '3', '--config.method.temperature=0.25', '--config.stop_at_epoch=0.5'
  assert call('train', '--config', f'{TINY}:simclr', '--workdir', tmp_path, *arguments) == 0
  ((config, directory),) = seen
  assert directory == str(tmp_path)
  assert (config.seed, config.method.temperature, config.stop_at_epoch) == (3, 0.25, 0.5)
  assert config.method.name == 'simclr'


@pytest.mark.parametrize('pod', [False, True])
def test_a_cluster_that_is_not_recognized(monkeypatch, capsys, pod):
  def initialize(*args):
    raise RuntimeError('coordinator_address\nis not there.\n\nRPC: more')

  monkeypatch.setattr(jax.distributed, 'initialize', initialize)
  monkeypatch.delenv('KUBERNETES_SERVICE_HOST', raising=False)
  if pod:
    monkeypatch.setenv('KUBERNETES_SERVICE_HOST', '10.0.0.1')
  with pytest.raises(SystemExit) as ended:
    cli.main(['clr-jax', 'train', '--config=quickstart', '--workdir=unused', '--distributed'])
  assert ended.value.code == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert '(coordinator_address is not there.): ' in line and '--process_id' in line
  assert ('package kubernetes' in line) == pod
