"""Eight virtual CPU devices, strict shapes."""

import gc
import os

# Compiling is most of the tests' time on two cores; this halves it. Set before jax is imported.
os.environ.setdefault('JAX_DISABLE_MOST_OPTIMIZATIONS', '1')
# The older code generator, on one thread: half of it again. Versions without it ignore the option.
os.environ.setdefault(
  'XLA_FLAGS',
  '--xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters '
  '--xla_cpu_parallel_codegen_split_count=1',
)
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')

import jax
import pytest

jax.config.update('jax_platforms', 'cpu')
jax.config.update('jax_num_cpu_devices', 8)
jax.config.update('jax_numpy_rank_promotion', 'raise')


@pytest.fixture
def x64():
  """Runs the test in float64."""
  with jax.enable_x64(True):
    yield


@pytest.fixture
def nothing_compiles(monkeypatch):
  """For bad input, which must be refused before any program is compiled."""
  # Their functions are made into programs when they are loaded, which commands do late.
  import clr_jax.evaluation.registry
  import clr_jax.figures.gradients
  import clr_jax.training.loop  # noqa: F401

  def jit(*args, **kwargs):
    raise AssertionError('nothing may be compiled before bad input is refused')

  monkeypatch.setattr(jax, 'jit', jit)


@pytest.fixture(autouse=True, scope='module')
def _forget_programs():
  """A worker would keep every compiled program of every file in memory.

  What a file leaves open is told while its own tests run, not in the middle of the next file's.
  """
  yield
  jax.clear_caches()
  gc.collect()
