"""`clr-jax` in a real process that meets a fault: python -m tests.child FAULT ARGUMENTS..."""

import os
import pathlib
import resource
import signal
import sys
import time

import orbax.checkpoint as ocp

import clr_jax.checkpoint
import clr_jax.evaluate.run
import clr_jax.metrics
import clr_jax.results
import clr_jax.train
from clr_jax import cli


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
  original = clr_jax.train.make_dispatch

  def make_dispatch(*args):
    holder = type('Holder', (), {'dispatch': staticmethod(original(*args))})
    at_call(holder, 'dispatch', number, fault)
    return lambda *operands: holder.dispatch(*operands)

  clr_jax.train.make_dispatch = make_dispatch


def send(number):
  return lambda: os.kill(os.getpid(), number)


def once_saved(step, fault):
  """`fault`, when checkpoint `step` is whole: it is written while training goes on."""

  def wait():
    workdir = next(a.split('=', 1)[1] for a in sys.argv if a.startswith('--workdir='))
    while not (pathlib.Path(workdir) / 'checkpoints' / str(step)).exists():
      time.sleep(0.01)
    fault()

  return wait


def out_of_memory():
  import jax

  raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory allocating 8589934592 bytes.')


def disk_full():
  """From here on no file can grow: every write fails, in Python and in C++."""
  signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
  resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))


def kill_second():
  """Process 1 is killed in a step, the others are not."""
  import jax

  kill = once_saved(6, send(signal.SIGKILL))
  at_step(10, lambda: jax.process_index() and kill())


def late():
  """Process 1 sees neither the newest checkpoint nor the markers of complete evaluations yet."""
  import jax

  marker, steps = clr_jax.evaluate.run._marker, ocp.CheckpointManager.all_steps

  def is_late():
    return jax.process_index() == 1

  def late_marker(*args):
    path = marker(*args)
    return path.with_name('unseen') if is_late() else path

  def late_steps(self, *args, **kwargs):
    found = sorted(steps(self, *args, **kwargs))
    return found[:-1] if is_late() else found

  clr_jax.evaluate.run._marker = late_marker
  ocp.CheckpointManager.all_steps = late_steps


Checkpoints, Online = clr_jax.checkpoint.Checkpoints, clr_jax.evaluate.run.Online
MetricWriter = clr_jax.metrics.MetricWriter
FAULTS = {
  'none': lambda: None,
  'kill_first_step': lambda: at_step(1, send(signal.SIGKILL)),
  'kill_in_step': lambda: at_step(15, send(signal.SIGKILL)),
  'kill_before_save': lambda: at_call(Checkpoints, 'save', 2, once_saved(6, send(signal.SIGKILL))),
  'kill_in_write': lambda: at_call(Checkpoints, 'save', 2, send(signal.SIGKILL), after=True),
  'kill_in_evaluation': lambda: at_call(Online, '__call__', 2, send(signal.SIGKILL)),
  'kill_before_results': lambda: at_call(clr_jax.results, 'write_result', 1, send(signal.SIGKILL)),
  'kill_in_results': lambda: at_call(clr_jax.results, 'write_result', 2, send(signal.SIGKILL)),
  'kill_second': kill_second,
  'sigterm': lambda: at_step(3, send(signal.SIGTERM)),
  'ctrl_c': lambda: at_step(7, send(signal.SIGINT)),
  'sigterm_at_end': lambda: at_call(Online, '__call__', 3, send(signal.SIGTERM)),
  'sigterm_in_results': lambda: at_call(clr_jax.results, 'write_result', 1, send(signal.SIGTERM)),
  'hang': lambda: at_step(5, lambda: time.sleep(600)),
  'late': late,
  'disk_full_of_checkpoints': lambda: at_call(Checkpoints, 'save', 2, disk_full),
  'disk_full_of_metrics': lambda: at_call(MetricWriter, 'flush', 3, disk_full),
  'disk_full_of_results': lambda: at_call(clr_jax.results, 'write_result', 1, disk_full),
  'out_of_memory': lambda: at_step(2, out_of_memory),
}

if __name__ == '__main__':
  FAULTS[sys.argv[1]]()
  cli.main(['clr-jax', *sys.argv[2:]])
