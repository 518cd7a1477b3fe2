"""Runs in a bucket: trained, killed, resumed, evaluated and looked at by real processes.

The bucket is tests/processes/object_store.py; the clients are the real ones, gcsfs and TensorStore.
"""

import json
import os
import signal
import subprocess
import time

import pytest

from tests.processes import launching
from tests.processes.launching import (
  ROOT,
  TINY,
  assert_same,
  assert_same_to_the_bit,
  ended,
  launch,
  rows_of,
)
from tests.processes.object_store import serving

pytest.importorskip('gcsfs')
# One worker: the reference run and the compiled programs are shared.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group('object_store')]
# The rate of tests/processes/launching.py: one process and two are compared.
TRAIN = 'train', f'--config={TINY}', '--config.optimizer.learning_rate=0.01'


@pytest.fixture(scope='module')
def store():
  with serving() as store:
    yield store


@pytest.fixture(scope='module')
def environment(store):
  """The compiled programs are kept in the store, too."""
  return {
    **store.environment(),
    'JAX_PLATFORMS': 'cpu',
    'JAX_COMPILATION_CACHE_DIR': 'gs://bucket/compiled',
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
  }


@pytest.fixture(scope='module')
def zygote(environment):
  """One of its own: the clients of a store read the environment when they are imported."""
  with launching.zygote(**environment) as parent:
    yield parent


@pytest.fixture(scope='module')
def run(zygote, environment, store):
  """`clr-jax` in a real process that must end with this code: (stdout, stderr)."""

  def run(*arguments, code=0, fault='none', **more):
    process = subprocess.run(
      zygote.command('tests.processes.child', fault, *arguments),
      cwd=ROOT,
      env={**os.environ, **environment, **more},
      capture_output=True,
      text=True,
      timeout=300,
    )
    assert process.returncode == code, (process.returncode, process.stdout, process.stderr)
    if code < 0:
      store.clock += 60  # it holds its workdir for so long
    return process.stdout, process.stderr

  return run


@pytest.fixture(scope='module')
def reference(run, tmp_path_factory):
  """A run on a disk that nothing interrupted."""
  directory = tmp_path_factory.mktemp('reference')
  run(*TRAIN, f'--workdir={directory}')
  return directory


@pytest.fixture(scope='module')
def trained(run, reference):
  """A run in the store, killed while it wrote a checkpoint, and resumed."""
  workdir = '--workdir=gs://bucket/run'
  run(*TRAIN, workdir, fault='kill_in_write', code=-signal.SIGKILL)
  out, _ = run(*TRAIN, workdir, '--config.profile=18,20')
  assert int(out.split('resumed gs://bucket/run at step ')[1].split()[0]) in (6, 12)
  return workdir


def test_killed_and_resumed_to_the_bit(store, trained, reference, tmp_path):
  assert_same_to_the_bit(store.download('run', tmp_path), reference)
  names = store.names('run/')
  steps = {name.split('/')[2] for name in names if name.startswith('run/checkpoints/')}
  assert steps == {'18', '22'}  # the half-written one and the old ones are gone
  assert any(name.endswith('.xplane.pb') for name in names)
  assert any(name.startswith('run/tensorboard/') for name in names)
  # Nothing is renamed, which is a copy there: neither by us nor by Orbax.
  assert 'copy' not in {operation.what for operation in store.operations}


def test_a_damaged_checkpoint_is_kept(run, store, trained, reference, tmp_path, monkeypatch):
  """Skipped, copied inside of the store, and written anew."""
  damaged = {}
  for name in store.names('run/'):
    content = store.objects[name][0]
    if '/checkpoints/22/' in name:
      if '/state/d/' in name:
        content = content[:-1] + bytes([content[-1] ^ 1])
      damaged[name.removeprefix('run/checkpoints/')] = content
    store.change(name.replace('run/', 'cut/', 1), content, None)
  monkeypatch.delitem(store.refused, 'copy')
  out, _ = run(*TRAIN, '--workdir=gs://bucket/cut')
  assert 'skipped damaged checkpoint 22 (state/d/' in out
  assert 'the damaged checkpoint 22 is now gs://bucket/cut/damaged/22' in out
  kept = {name.removeprefix('cut/damaged/') for name in store.names('cut/damaged/')}
  assert kept == damaged.keys()
  assert all(store.objects[f'cut/damaged/{name}'][0] == x for name, x in damaged.items())
  assert_same_to_the_bit(store.download('cut', tmp_path), reference)


def test_compiled_programs_are_shared(store, trained):
  step = [o for o in store.operations if o.name.startswith('compiled/jit_many')]
  written = {o.name for o in step if o.what == 'write'}
  assert written and written <= {o.name for o in step if o.what == 'read'}


@pytest.mark.weekly
def test_evaluated_and_looked_at(run, store, trained, tmp_path):
  out, _ = run('evaluate', 'knn', trained, '--params.k=3')
  assert 'k=3' in out
  out, _ = run('results', trained)
  assert 'k=5' in out and 'k=3' in out
  run('inspect', 'curves', trained, f'--out={tmp_path}/curves.png')
  assert (tmp_path / 'curves.png').stat().st_size and (tmp_path / 'curves.csv').stat().st_size
  run('inspect', 'curves', trained, '--out=gs://bucket/run/figures/curves.png')
  run('report', trained, '--out=gs://bucket/run/report.html')
  written = {'run/figures/curves.png', 'run/figures/curves.csv', 'run/report.html'}
  assert written <= set(store.names('run/')) and all(store.objects[name][0] for name in written)


def test_weights_are_taken_from_there(run, trained, tmp_path):
  start = '--config.init_from=gs://bucket/run', '--config.stop_at_epoch=0.05'
  out, _ = run(*TRAIN, f'--workdir={tmp_path}', *start)
  assert 'weights from gs://bucket/run, step 22: 55 arrays taken' in out


def test_another_trajectory_is_refused(run, trained):
  _, err = run(*TRAIN, trained, '--config.seed=5', code=2)
  assert 'holds a run with another config (seed: 0 -> 5)' in err


def sentence(err):
  """The one line for the user; TensorStore logs below level W."""
  assert 'Traceback' not in err, err
  return next(line for line in err.splitlines() if line.startswith('clr-jax: '))


def test_no_client(run, tmp_path):
  (tmp_path / 'gcsfs.py').write_text('raise ImportError("No module named \'gcsfs\'")')
  _, err = run('results', '--workdir=gs://bucket/run', code=2, PYTHONPATH=str(tmp_path))
  assert "pip install 'clr-jax[gcs]'" in sentence(err)


def test_no_bucket(run):
  _, err = run(*TRAIN, '--workdir=gs://absent/run', code=2)
  assert 'there is no bucket gs://absent: create it first' in sentence(err)
  _, err = run('inspect', 'curves', '--workdir=gs://absent/run', '--out=gs://absent/x.png', code=2)
  assert 'there is no bucket gs://absent' in sentence(err)


@pytest.mark.parametrize(
  ('what', 'status', 'command'),
  [
    ('stat', 401, ('results', '--workdir=gs://bucket/run')),
    ('begin', 403, (*TRAIN, '--workdir=gs://bucket/new')),  # public, not ours
    ('bucket', 403, ('evaluate', 'knn', '--workdir=gs://bucket/run')),  # Orbax asks for it
  ],
)
def test_no_credentials(run, store, trained, monkeypatch, what, status, command):
  monkeypatch.setitem(store.refused, what, status)
  _, err = run(*command, code=2)
  assert 'gs://bucket cannot be used (' in sentence(err)
  assert 'log in with `gcloud auth application-default login`' in sentence(err)


@pytest.mark.weekly
def test_writes_refused_in_the_middle(run, store, reference, tmp_path, monkeypatch):
  """From the first object of the second checkpoint on, as when an account loses its role."""

  def lose_access(operation):
    if operation.name.startswith('lost/checkpoints/12/'):
      store.refused.update(write=403, begin=403)

  monkeypatch.setattr(store, 'on_operation', lose_access)
  monkeypatch.setattr(store, 'refused', dict(store.refused))
  _, err = run(*TRAIN, '--workdir=gs://bucket/lost', code=74)
  last = err.splitlines()[-1]  # TensorStore prints stacks before it
  assert last.startswith('clr-jax: '), err
  assert 'make the workdir writable; run the same command to resume' in last, err
  monkeypatch.undo()
  out, _ = run(*TRAIN, '--workdir=gs://bucket/lost')
  assert 'resumed gs://bucket/lost at step 6' in out
  assert_same_to_the_bit(store.download('lost', tmp_path), reference)


@pytest.mark.weekly
def test_one_run_holds_its_workdir(run, zygote, store, environment):
  """While it lives; the clock of the store tells, and that is months from ours."""
  arguments = *TRAIN, '--workdir=gs://bucket/held', '--config.stop_at_epoch=0.1'
  first = subprocess.Popen(
    zygote.command('tests.processes.child', 'hang_in_step_1', *arguments),
    cwd=ROOT,
    env={**os.environ, **environment},
    stderr=subprocess.DEVNULL,
  )
  while 'held/data.json' not in store.names('held/'):
    assert first.poll() is None
    time.sleep(0.1)
  _, err = run(*arguments, code=2)
  who = json.loads(store.objects['held/.lock'][0])
  assert 'gs://bucket/held was in use ' in err and ': waiting up to ' in err
  assert f'gs://bucket/held is in use by another run (process {who["pid"]} on ' in sentence(err)
  os.kill(who['pid'], signal.SIGKILL)
  first.wait()
  store.clock += 30
  _, err = run(*arguments)
  assert ': waiting up to ' in err
  assert store.names('held/.lock') == []


@pytest.mark.weekly
def test_two_processes_share_a_run(zygote, store, environment, reference, monkeypatch, tmp_path):
  """The second is killed in a step; both go on to what one process trains on a disk."""
  for name, value in environment.items():
    monkeypatch.setenv(name, value)
  both = *TRAIN, '--workdir=gs://bucket/two'
  code, output = ended(launch(zygote.script(tmp_path, 'tests.processes.child', 'kill_1'), 2, *both))
  assert code == 128 + signal.SIGKILL, output
  store.clock += 60
  code, output = ended(launch(zygote.script(tmp_path, 'clr_jax'), 2, *both))
  assert code == 0 and 'resumed gs://bucket/two at step 6' in output, output
  assert_same(rows_of(store.download('two', tmp_path / 'two')), rows_of(reference))
