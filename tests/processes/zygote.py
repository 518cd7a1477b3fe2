"""Real processes without the seconds that each of them would spend on imports.

A parent that has imported the library forks for every command (`serve`). A small program asks it to
and stands for the new process: it has the same streams, passes signals on, and ends in the same way
(`python zygote.py SOCKET MODULE ARGUMENTS...`). So every command has a process of its own, which
can be killed for real. Shared are the imports and the seed of Python's hashes; tests that need them
fresh start `python -m MODULE` themselves. Where the parent has threads, so that a fork is not safe,
or where modules would be imported from elsewhere, the program becomes that fresh process.
"""

import array
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import sys
import warnings

PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
# Modules that commands import, now or late.
IMPORTED = (
  'clr_jax.cli.main',
  'clr_jax.evaluation.runner',
  'clr_jax.training.loop',
  'sklearn.datasets',
)


# ---------------------------------------------------------------- the program
def ask(path: str, module: str, arguments: list[str]) -> int:
  """Has a command run in a new process; returns its exit code, or dies of the signal it died of."""
  signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)  # until there is a process to pass them on to
  with socket.socket(socket.AF_UNIX) as server:
    server.connect(path)
    streams = array.array('i', [0, 1, 2])
    server.sendmsg([b'.'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, streams)])
    lines = server.makefile('rw')
    request = {'module': module, 'arguments': arguments, 'cwd': os.getcwd(), 'env': {**os.environ}}
    print(json.dumps(request), file=lines, flush=True)
    pid = int(lines.readline())
    if pid:
      for number in PASSED_ON:
        signal.signal(number, lambda number, _: os.kill(pid, number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
    if not pid:
      os.execv(sys.executable, [sys.executable, '-m', module, *arguments])
    code = os.waitstatus_to_exitcode(int(lines.readline()))
  if code < 0:
    if -code != signal.SIGKILL:
      signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
  return code


# ---------------------------------------------------------------- the parent
class Parent:
  """Forks for every request, and tells each program how its process ended."""

  def __init__(self, path: str):
    for name in IMPORTED:
      importlib.import_module(name)
    gc.freeze()  # a collection in a child would copy every page
    self._listener = socket.socket(socket.AF_UNIX)
    self._listener.bind(f'{path}.new')
    self._listener.listen()
    os.rename(f'{path}.new', path)
    self._events = selectors.DefaultSelector()
    self._events.register(self._listener, selectors.EVENT_READ)
    self._events.register(sys.stdin, selectors.EVENT_READ)
    self._running: dict[int, tuple[int, socket.socket]] = {}  # pid -> (its descriptor, program)

  def serve(self) -> dict | None:
    """Returns None when standard input is closed; in every child, the request to become."""
    while True:
      for key, _ in self._events.select():
        if key.fileobj is sys.stdin:
          for pid in self._running:
            os.kill(pid, signal.SIGKILL)
          return None
        if key.fileobj is self._listener:
          request = self._start(self._listener.accept()[0])
          if request is not None:
            return request
        elif key.data in self._running:
          self._meet(key.data, ended=isinstance(key.fileobj, int))

  def _start(self, program: socket.socket) -> dict | None:
    """Forks; the request in the child, None in the parent."""
    _, streams, *_ = socket.recv_fds(program, 1, 3)
    line = program.makefile().readline()
    request = json.loads(line or '{}')
    alone = len(os.listdir('/proc/self/task')) == 1
    pid = 0
    if request and alone and request['env'].get('PYTHONPATH') == os.environ.get('PYTHONPATH'):
      with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # JAX warns of forks; there is no backend yet
        pid = os.fork()
      if pid == 0:
        self._leave()
        return {**request, 'streams': streams}
      self._running[pid] = os.pidfd_open(pid), program
      for end in self._running[pid]:
        self._events.register(end, selectors.EVENT_READ, pid)
    for stream in streams:
      os.close(stream)
    if request:
      program.sendall(f'{pid}\n'.encode())
    if not pid:
      program.close()
    return None

  def _meet(self, pid: int, *, ended: bool) -> None:
    """A process ended, or its program was killed and it must die, too."""
    descriptor, program = self._running[pid]
    if not ended:
      self._events.unregister(program)
      os.kill(pid, signal.SIGKILL)
      return
    status = os.waitpid(pid, 0)[1]
    self._events.unregister(descriptor)
    os.close(descriptor)
    if program in self._events.get_map():
      self._events.unregister(program)
      program.sendall(f'{status}\n'.encode())
    program.close()
    del self._running[pid]

  def _leave(self) -> None:
    """Closes in a child what is the parent's."""
    self._events.close()
    self._listener.close()
    for descriptor, program in self._running.values():
      os.close(descriptor)
      program.close()


def become(request: dict) -> None:
  """Runs the module as `python -m` would have it in a fresh process."""
  for number, stream in enumerate(request['streams']):
    os.dup2(stream, number)
    os.close(stream)
  os.chdir(request['cwd'])
  _take_environment(request['env'])
  sys.argv = [request['module'], *request['arguments']]
  runpy.run_module(request['module'], run_name='__main__', alter_sys=True)


def _take_environment(env: dict[str, str]) -> None:
  """Sets again the environment variables that JAX has read on import."""
  import jax

  for name, value in env.items():
    option = name.lower()
    if name.startswith('JAX_') and option in jax.config.values and os.environ.get(name) != value:
      kind = type(jax.config.values[option])
      is_on = value.lower() in ('1', 'true')
      jax.config.update(option, is_on if kind is bool else kind(value) if kind is float else value)
  os.environ.clear()
  os.environ.update(env)
  if env.get('PYTHONUNBUFFERED'):
    sys.stdout.reconfigure(write_through=True)


if __name__ == '__main__':
  if sys.argv[1] == 'serve':
    request = Parent(sys.argv[2]).serve()
    if request is not None:
      become(request)
  else:
    sys.exit(ask(sys.argv[1], sys.argv[2], sys.argv[3:]))
