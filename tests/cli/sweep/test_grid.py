"""`clr-jax sweep`: the runs of a grid, their names and commands, and what it refuses."""

import pathlib
import shlex

import pytest

from clr_jax.cli.sweep.grid import PlannedRun, check_axes, plan, read_axis
from clr_jax.core.errors import UserError
from tests.cli.calling import call

TINY = pathlib.Path(__file__).parents[2] / 'tiny.py'


@pytest.mark.parametrize(
  ('text', 'key', 'values'),
  [
    ('config.method.k1=2000,4000', 'method.k1', ('2000', '4000')),
    ('config.augment.crop_scale=(0.2,1),(0.5, 1)', 'augment.crop_scale', ('(0.2,1)', '(0.5, 1)')),
    ('config.eval.features=("trained","pixels"),("pixels",)', 'eval.features', None),
    ("config.data.name='a,b',c", 'data.name', ("'a,b'", 'c')),
    ('config.x=', 'x', ('',)),
  ],
)
def test_values_are_separated_by_commas_outside_of_brackets(text, key, values):
  axis = read_axis(text)
  assert axis.keys == (key,)
  assert axis.values == tuple((v,) for v in values or ('("trained","pixels")', '("pixels",)'))


def test_keys_that_change_together():
  axis = read_axis('config.a.b+config.c=x+1,y+2')
  assert axis == (('a.b', 'c'), (('x', '1'), ('y', '2')))
  names = [run.name for run in plan(['f'], [axis], [], (0,))]
  assert names == ['a.b=x-c=1-seed=0', 'a.b=y-c=2-seed=0']
  assert read_axis('config.a+config.b=1,2') is None and read_axis('config.a+b=1+2') is None


@pytest.mark.parametrize('text', ['method.k1=1', 'config.method.k1', 'config.=3', 'config=3', ''])
def test_other_forms_are_no_axis(text):
  assert read_axis(text) is None


def test_every_combination_is_a_run_with_a_name_of_its_own():
  axes = [read_axis('config.method.k1=1,2'), read_axis('config.augment.crop_scale=(0.2,1),(1,1)')]
  runs = plan(['a/x.py:one', 'y'], axes, [('seed', '5'), ('num_epochs', '2')], (5, 6))
  assert len({run.name for run in runs}) == 2 * 2 * 2 * 2
  assert all('/' not in run.name and '(' not in run.name for run in runs)
  first, second = runs[:2]
  assert first.name.startswith('x-one-method.k1=1-augment.crop_scale=0.2_1_')
  assert (first.name[-7:], second.name[-7:]) == ('-seed=5', '-seed=6')
  given = [('num_epochs', '2'), ('method.k1', '1'), ('augment.crop_scale', '(0.2,1)')]
  assert first.given == [*given, ('seed', '5')]
  # A name stays the same when values or seeds are added.
  more = plan(['a/x.py:one', 'y'], [read_axis('config.method.k1=1,2,3'), axes[1]], [], (5,))
  assert first.name in {run.name for run in more}


def test_long_names_are_cut_and_stay_different():
  axes = [read_axis(f'config.key{i}={"v" * 60}a,{"v" * 60}b') for i in range(5)]
  names = {run.name for run in plan(['x'], axes, [], (0,))}
  assert len(names) == 2**5 and max(map(len, names)) < 255


def test_a_run_is_one_command():
  given = [
    ('probe.enabled', False),
    ('deterministic', True),
    ('data.name', 'npz:a b'),
    ('seed', '0'),
  ]
  arguments = PlannedRun('n', 'quickstart:simclr', given).arguments('/d', ['m.py'])
  assert arguments == [
    *('train', '--config=quickstart:simclr', '--imports=m.py', '--noconfig.probe.enabled'),
    *('--config.deterministic', '--config.data.name=npz:a b', '--config.seed=0', '--workdir=/d/n'),
  ]


@pytest.mark.parametrize(
  ('grids', 'fixed', 'words'),
  [
    (['config.seed=1,2'], [], '--seeds=N'),
    (['config.a=1', 'config.a=2'], [], 'config.a is given twice'),
    (['config.a=1,2,1'], [], "config.a has the value '1' twice"),
    (['config.a=1'], [('a', '3')], 'leave --config.a out'),
  ],
)
def test_keys_and_values_given_twice_are_refused(grids, fixed, words):
  with pytest.raises(UserError, match=words):
    check_axes([read_axis(text) for text in grids], fixed)


def test_config_files_of_the_same_name_are_refused():
  for other in ('x', 'b/x.py'):
    with pytest.raises(UserError, match=rf'--config=x and --config={other} would have the same'):
      plan(['x', 'y', other], [], [], (0,))
  assert len(plan(['x', 'x:1'], [], [], (0,))) == 2


# ---------------------------------------------------------------- the command
def sweep(*arguments):
  return call('sweep', f'--config={TINY}:simclr', *arguments)


def test_list_prints_a_command_for_each_run(tmp_path, capsys):
  grid = '--grid', 'config.method.temperature=0.1,0.5', '--seeds=2'
  assert sweep(*grid, f'--workdir={tmp_path}/new', '--list', '--config.num_epochs=3') == 0
  out, err = capsys.readouterr()
  lines = [shlex.split(line) for line in out.splitlines()]
  assert [line[-1].rpartition('/')[2] for line in lines] == [
    f'method.temperature={t}-seed={s}' for t in ('0.1', '0.5') for s in (0, 1)
  ]
  assert lines[1] == [
    *('clr-jax', 'train', f'--config={TINY}:simclr', '--config.num_epochs=3'),
    *('--config.method.temperature=0.1', '--config.seed=1', lines[1][-1]),
  ]
  assert not err and not any(tmp_path.iterdir())
  assert sweep('--grid=config.method.temperature=0.5,0.50', '--workdir=gs://b', '--list') == 2
  assert 'have the same config' in capsys.readouterr().err


@pytest.mark.parametrize(
  ('arguments', 'words'),
  [
    (['--grid=config.method.temprature=1'], ['method.temprature', 'method.temperature']),
    (['--grid=config.method.temperature=1,hot'], ['method.temperature=hot', 'a number']),
    (['--grid=config.method.temperature=0.1,-1'], ['method.temperature=-1']),
    (['--grid=config.batch_size=5000,64'], ['batch_size=5000-seed=0: ', '1437']),
    (['--grid=config.method.temperature=0.5,0.50'], ['have the same config']),
    (['--grid=method.k1=1'], ['--grid=method.k1=1: give config.KEY=VALUE,VALUE']),
    (['--params.by=method.k9', '--params.kind=pie'], ['kind', 'pie', 'lines']),
    (['--seeds=2147483647'], ['has 2,147,483,647 runs and may have 10,000']),
    (['--jobs=0'], ['--jobs=0: give a whole number']),
    (['--jobs=100000'], ['--jobs=100000', 'cores']),
    (['--devices_per_run=2'], ['--devices_per_run=2 has no effect on a CPU']),
    (['--summary'], ['has none of the runs yet']),
    (['--list', '--summary'], ['--summary and --list cannot be combined: give one of them']),
  ],
)
def test_bad_input_is_refused_before_anything_starts(
  tmp_path, capsys, monkeypatch, nothing_compiles, arguments, words
):
  monkeypatch.setenv('JAX_PLATFORMS', 'cpu')
  code = sweep(f'--workdir={tmp_path}/new', *arguments)
  err = capsys.readouterr().err
  assert code == 2, err
  (message,) = [line for line in err.splitlines() if not line.startswith('checking ')]
  assert all(word in message for word in words), message
  assert not any(tmp_path.iterdir())


def test_folders_that_hold_something_else(tmp_path, capsys):
  (tmp_path / 'file').write_text('mine')
  (tmp_path / 'run').mkdir()
  (tmp_path / 'run' / 'config.json').write_text('{}')
  for folder, words in (
    (tmp_path / 'file', 'is a file'),
    (tmp_path / 'run', 'is a run'),
    (tmp_path / 'file' / 'x', 'cannot be written (Not a directory)'),
    ('gs://bucket/x', 'sweep --list'),
  ):
    assert sweep(f'--workdir={folder}') == 2
    err = capsys.readouterr().err
    assert words in err and err.count('\n') == 1, err  # not after minutes of checks
