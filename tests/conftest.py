"""Eight virtual CPU devices, strict shapes, one cache of compiled programs.

CLR_TEST_CACHE=DIR keeps the compiled programs for the next run, which then takes half the time.
"""

import atexit
import gc
import hashlib
import os
import pathlib
import platform
import re
import resource
import shutil
import tempfile

# Compiling is most of the tests' time on two cores; this halves it. Set before jax is imported.
os.environ.setdefault('JAX_DISABLE_MOST_OPTIMIZATIONS', '1')
# The older code generator, on one thread: half of it again. Versions without it ignore the option.
os.environ.setdefault(
  'XLA_FLAGS',
  '--xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters '
  '--xla_cpu_parallel_codegen_split_count=1',
)
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')


def _cpu() -> str:
  """A name for what this CPU can do, which compiled programs may use."""
  info = pathlib.Path('/proc/cpuinfo')
  text = info.read_text() if info.exists() else platform.processor()
  features = sorted(set(re.findall(r'^(?:model name|flags|Features).*', text, re.M)))
  return hashlib.sha256('\n'.join(features).encode()).hexdigest()[:16]


# The first process of a run makes it; pytest-xdist's workers and all that they start inherit it.
if 'CLR_TEST_CACHE' not in os.environ:
  os.environ['CLR_TEST_CACHE'] = tempfile.mkdtemp(prefix='clr_jax_compiled_')
  atexit.register(shutil.rmtree, os.environ['CLR_TEST_CACHE'], ignore_errors=True)
os.environ['JAX_COMPILATION_CACHE_DIR'] = f'{os.environ["CLR_TEST_CACHE"]}/{_cpu()}'
os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0'

import hypothesis  # noqa: E402
import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update('jax_platforms', 'cpu')
jax.config.update('jax_num_cpu_devices', 8)
jax.config.update('jax_numpy_rank_promotion', 'raise')

# Compiling, and other work on the machine, are slow: that is no fault of a test's.
hypothesis.settings.register_profile(
  'slow machine', deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile('slow machine')

LIMIT = 2_000_000_000  # bytes of a worker above which it forgets its programs


def pytest_addoption(parser):
  parser.addoption(
    '--imports', metavar='FILE.py', action='append', default=[], help='methods of yours to test'
  )


def pytest_configure(config):
  """Registers methods of a user's, which the contract tests then find as they find all."""
  # Late, for only then are the options of JAX above set in every process.
  from clr_jax.core import user_code

  user_code.load(config.getoption('--imports'), chosen=True)


def pytest_collection_modifyitems(config, items):
  """`-m slow` leaves out what is weekly in a file that is slow as a whole."""
  if config.option.markexpr != 'slow':
    return
  weekly = [item for item in items if item.get_closest_marker('weekly')]
  if weekly:
    config.hook.pytest_deselected(items=weekly)
    items[:] = [item for item in items if not item.get_closest_marker('weekly')]


def pytest_collection_finish():
  """Keeps the modules and tests out of the collections after each file."""
  gc.collect()
  gc.freeze()


@pytest.fixture
def x64():
  """Runs the test in float64."""
  with jax.enable_x64(True):
    yield


@pytest.fixture
def nothing_compiles(monkeypatch):
  """For bad input, which must be refused before any program is compiled."""
  # Their functions are made into programs when they are loaded, which commands do late.
  import clr_jax.figures.gradients
  import clr_jax.training.loop  # noqa: F401
  from clr_jax.evaluation.protocols import PROTOCOLS

  for name in PROTOCOLS.names():
    PROTOCOLS.module(name)

  def jit(*args, **kwargs):
    raise AssertionError('nothing may be compiled before bad input is refused')

  monkeypatch.setattr(jax, 'jit', jit)


@pytest.fixture(autouse=True, scope='module')
def _forget_programs():
  """Keeps the memory of a worker bounded.

  Warnings about files that a test left open come during its own file, not during the next one.
  """
  yield
  gc.collect()
  if _resident() > LIMIT:
    gc.unfreeze()
    jax.clear_caches()
    gc.collect()
  gc.freeze()  # so that the next collection visits only what the next file makes


def _resident() -> int:
  """Bytes of memory of this process; where that is not known, the most that it ever had."""
  statm = pathlib.Path('/proc/self/statm')
  if statm.exists():
    return int(statm.read_text().split()[1]) * resource.getpagesize()
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
