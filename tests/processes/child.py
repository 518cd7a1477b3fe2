"""`clr-jax` in a real process that meets a fault.

python -m tests.processes.child FAULT COMMAND ARGUMENTS...
"""

import os
import pathlib
import resource
import signal
import sys
import tempfile
import time

import orbax.checkpoint as ocp
from etils import epath

import clr_jax.augment
import clr_jax.evaluation.runner
import clr_jax.experiment.build
import clr_jax.rundir.checkpoint
import clr_jax.rundir.checksums
import clr_jax.rundir.metrics
import clr_jax.rundir.removal
import clr_jax.rundir.results
import clr_jax.training.loop
from clr_jax.cli import main as cli
from clr_jax.core.errors import UserError
from clr_jax.data.base import Source
from tests import tiny_table


def at_call(owner, name, number, fault, *, after=False):
  """Calls `fault` before (or after) the `number`th call of owner.name, counted from 1."""
  original, calls = getattr(owner, name), []

  def wrapped(*args, **kwargs):
    calls.append(None)
    if len(calls) == number and not after:
      fault()
    result = original(*args, **kwargs)
    if len(calls) == number and after:
      fault()
    return result

  setattr(owner, name, wrapped)


def at_step(number, fault):
  """Calls `fault` before the dispatch number `number` of this process."""
  original = clr_jax.training.loop.make_dispatch

  def make_dispatch(*args):
    holder = type('Holder', (), {'dispatch': staticmethod(original(*args))})
    at_call(holder, 'dispatch', number, fault)
    return lambda *operands: holder.dispatch(*operands)

  clr_jax.training.loop.make_dispatch = make_dispatch


def send(number):
  return lambda: os.kill(os.getpid(), number)


def long_work_at(number):
  """Sends a signal to this process, whose main thread then does nothing else for a minute."""

  def meet():
    send(number)()
    time.sleep(60)

  return meet


def once_saved(step, fault):
  """`fault`, when checkpoint `step` is whole: it is written while training goes on."""

  def wait():
    workdir = next(a.split('=', 1)[1] for a in sys.argv if a.startswith('--workdir='))
    whole = epath.Path(workdir) / 'checkpoints' / str(step)
    if '://' in workdir:  # a store has a folder with its first file
      whole /= 'commit_success.txt'
    while not whole.exists():
      time.sleep(0.01)
    fault()

  return wait


def signals_at_work(*numbers):
  """Sends signals to this process one after the other, in a thread whose work is slow."""

  def meet():
    for number in numbers:
      send(number)()
      time.sleep(1)
    time.sleep(60)

  return meet


def out_of_memory():
  import jax

  raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory allocating 8589934592 bytes.')


def disk_full():
  """From here on no file can grow: every write fails, in Python and in C++."""
  signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
  resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))


def only_in(process, fault):
  """`fault`, in one of several processes."""

  def meet():
    import jax

    if jax.process_index() == process:
      fault()

  return meet


def in_float64():
  """Trains in float64 (JAX_ENABLE_X64=1 must be set), on views that are images shifted at random.

  A program for one device rounds the float32 augmentations otherwise than one for two, by 1e-6.
  That can turn a ReLU on or off, which moves gradients by percents, in float64 as in float32.
  """
  import jax
  import jax.numpy as jnp

  def wide(tree):
    def cast(x):
      return x.astype(jnp.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x

    return jax.tree.map(cast, tree)

  def shifted(self, key, images):
    shifts = jax.random.randint(key, (self.num_views, len(images)), 0, 4)
    roll = jax.vmap(lambda image, shift: jnp.roll(image, shift, 0))
    return {'global': jnp.stack([roll(images / 255.0, shift) for shift in shifts], 1)}

  init_state = clr_jax.experiment.build.init_state
  clr_jax.experiment.build.init_state = lambda *args: wide(init_state(*args))
  clr_jax.augment.Views.__call__ = shifted


def not_a_number():
  """The last row of the tenth batch is NaN; of several processes only the last one reads it."""
  import jax
  import jax.numpy as jnp

  original = clr_jax.experiment.build.make_train_step

  def make_train_step(method, *args, **kwargs):
    def embed(params, state, batch, rng, step):
      def injured(views):
        row = jnp.arange(len(views)).reshape(-1, *[1] * (views.ndim - 1))
        return jnp.where((row == len(views) - 1) & (step == 9), jnp.nan, views)

      return method.embed(
        params, state, batch._replace(views=jax.tree.map(injured, batch.views)), rng, step
      )

    return original(method._replace(embed=embed), *args, **kwargs)

  clr_jax.experiment.build.make_train_step = make_train_step


def late():
  """Process 1 sees neither the newest checkpoint nor the markers of complete evaluations yet."""
  import jax

  runner, steps = clr_jax.evaluation.runner, ocp.CheckpointManager.all_steps
  marker = runner._Marker.of

  def is_late():
    return jax.process_index() == 1

  def late_marker(*args):
    path = marker(*args).path
    return runner._Marker(path.with_name('unseen') if is_late() else path)

  def late_steps(self, *args, **kwargs):
    found = sorted(steps(self, *args, **kwargs))
    return found[:-1] if is_late() else found

  runner._Marker.of = late_marker
  ocp.CheckpointManager.all_steps = late_steps


def kubernetes():
  """A pod of an indexed Job of two; stands in for the package by which JAX asks Kubernetes."""
  from unittest import mock

  from jax._src.clusters.k8s_cluster import K8sCluster

  package = mock.MagicMock()
  package.client.CoreV1Api().list_namespaced_pod().items = [mock.MagicMock()]
  package.client.BatchV1Api().read_namespaced_job().spec.parallelism = 2
  sys.modules['kubernetes'] = package
  mock.patch.object(K8sCluster, '_namespace', lambda: 'default').start()  # a file in the pod


def unread_in_1():
  """Process 1 cannot read its part of the newest checkpoint."""

  def cut_off():
    raise ValueError('its part is cut off')

  at_call(ocp.StandardCheckpointHandler, 'restore', 1, only_in(1, cut_off))


def unreadable_in_1():
  """From the second evaluation on process 1 cannot read its images."""

  def damaged():
    raise UserError('cannot read the image x.png')

  def meet():
    at_call(Source, 'load', 1, only_in(1, damaged))

  at_call(Online, '__call__', 2, meet)


def one_table():
  """`clr-jax reproduce` knows one table of two rows, which take seconds."""
  from clr_jax.studies import ledger, tables

  folder = tiny_table.write(pathlib.Path(tempfile.mkdtemp()))
  tables.folder = ledger.folder = lambda: folder


Checkpoints, Online = clr_jax.rundir.checkpoint.Checkpoints, clr_jax.evaluation.runner.Online
MetricWriter = clr_jax.rundir.metrics.MetricWriter
FAULTS = {
  'none': lambda: None,
  'kill_first_step': lambda: at_step(1, send(signal.SIGKILL)),
  'kill_in_step': lambda: at_step(15, send(signal.SIGKILL)),
  'kill_before_save': lambda: at_call(Checkpoints, 'save', 2, once_saved(6, send(signal.SIGKILL))),
  'kill_in_write': lambda: at_call(Checkpoints, 'save', 2, send(signal.SIGKILL), after=True),
  'kill_in_evaluation': lambda: at_call(Online, '__call__', 2, send(signal.SIGKILL)),
  'kill_before_results': lambda: at_call(
    clr_jax.rundir.results, 'write_result', 1, send(signal.SIGKILL)
  ),
  'kill_in_results': lambda: at_call(
    clr_jax.rundir.results, 'write_result', 2, send(signal.SIGKILL)
  ),
  'kill_0': lambda: at_step(10, only_in(0, once_saved(6, send(signal.SIGKILL)))),
  'kill_1': lambda: at_step(10, only_in(1, once_saved(6, send(signal.SIGKILL)))),
  'stop_1': lambda: at_step(10, only_in(1, once_saved(6, send(signal.SIGSTOP)))),
  'not_a_number': not_a_number,
  'sigterm': lambda: at_step(3, send(signal.SIGTERM)),
  'ctrl_c': lambda: at_step(7, send(signal.SIGINT)),
  'ctrl_c_twice_in_write': lambda: at_call(
    clr_jax.rundir.checksums, 'write', 2, signals_at_work(signal.SIGINT, signal.SIGINT)
  ),
  'sigterm_ctrl_c_in_removal': lambda: at_call(
    # At the start, after the first save and after the second, which moves the first away.
    clr_jax.rundir.removal,
    'delete_removed',
    3,
    signals_at_work(signal.SIGTERM, signal.SIGINT),
  ),
  'sigterm_at_end': lambda: at_call(Online, '__call__', 3, send(signal.SIGTERM)),
  'sigterm_in_results': lambda: at_call(
    clr_jax.rundir.results, 'write_result', 1, send(signal.SIGTERM)
  ),
  'long_step': lambda: at_step(8, long_work_at(signal.SIGTERM)),
  'long_evaluation': lambda: at_call(Online, '__call__', 2, long_work_at(signal.SIGTERM)),
  'long_last_evaluation': lambda: at_call(Online, '__call__', 3, long_work_at(signal.SIGTERM)),
  'sigterm_1_in_evaluation': lambda: at_call(
    clr_jax.evaluation.runner, 'offline', 1, only_in(1, long_work_at(signal.SIGTERM))
  ),
  'hang': lambda: at_step(5, lambda: time.sleep(600)),
  'hang_in_step_1': lambda: at_step(1, lambda: time.sleep(600)),
  'hang_later': lambda: at_step(10, once_saved(6, lambda: time.sleep(600))),
  'in_float64': in_float64,
  'kubernetes': kubernetes,
  'late': late,
  'unread_in_1': unread_in_1,
  'unreadable_in_1': unreadable_in_1,
  'one_table': one_table,
  'disk_full_of_checkpoints': lambda: at_call(Checkpoints, 'save', 2, disk_full),
  'disk_full_of_metrics': lambda: at_call(MetricWriter, 'flush', 3, disk_full),
  'disk_full_of_results': lambda: at_call(clr_jax.rundir.results, 'write_result', 1, disk_full),
  'disk_full_in_0': lambda: at_call(Checkpoints, 'save', 2, only_in(0, disk_full)),
  'out_of_memory': lambda: at_step(2, out_of_memory),
}

if __name__ == '__main__':
  FAULTS[sys.argv.pop(1)]()
  cli.main()
