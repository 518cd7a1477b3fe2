"""Programs that the host calls: their options reach the compiler, and they compose."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clr_jax.core import programs
from clr_jax.core.programs import compiler_options, host_jit


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
  monkeypatch.delenv('XLA_FLAGS', raising=False)
  compiler_options.cache_clear()
  yield
  compiler_options.cache_clear()


@pytest.fixture
def optimized():
  """Compiles as outside of the tests."""
  before = jax.config.read('jax_disable_most_optimizations')
  jax.config.update('jax_disable_most_optimizations', False)
  yield
  jax.config.update('jax_disable_most_optimizations', before)


def double(x):
  """Twice x."""
  return 2 * x


def test_the_options_reach_the_compiler():
  program = host_jit(lambda x: x.sum(0))
  lowered = program.lower(jnp.ones((512, 64)))
  assert compiler_options() == dict(programs.CPU_OPTIONS)
  held = re.findall(r'ynn\w*', lowered.compile().as_text() or '')
  default = jax.jit(lambda x: x.sum(0)).lower(jnp.ones((512, 64)))
  other = default.compile({'xla_cpu_experimental_ynn_fusion_type': ''}).as_text() or ''
  assert held and not re.findall(r'ynn\w*', other)


def test_a_program_called_once_is_compiled_quickly_to_the_same_bits(monkeypatch, optimized):
  def draw(key):
    return jax.random.truncated_normal(key, -2, 2, (64, 3)), jax.random.normal(key, (3, 5))

  quick, good = host_jit(draw, called_once=True), host_jit(draw)
  jax.tree.map(np.testing.assert_array_equal, quick(jax.random.key(0)), good(jax.random.key(0)))
  monkeypatch.setattr(programs, '_QUICK_OPTIONS', {'xla_no_such_option': 1})
  with pytest.raises(jax.errors.JaxRuntimeError, match='xla_no_such_option'):
    host_jit(draw, called_once=True)(jax.random.key(0))  # it reaches the compiler
  monkeypatch.setenv('XLA_FLAGS', '--xla_no_such_option=1')
  host_jit(draw, called_once=True)(jax.random.key(0))  # the user's own value stays


def test_an_option_that_xla_does_not_know_is_left_out(monkeypatch):
  monkeypatch.setattr(programs, 'CPU_OPTIONS', {'xla_cpu_no_such_option': 'x'})
  assert compiler_options() is None
  np.testing.assert_array_equal(host_jit(double)(jnp.arange(3)), [0, 2, 4])


def test_the_users_own_value_stays(monkeypatch):
  monkeypatch.setenv('XLA_FLAGS', '--xla_cpu_experimental_ynn_fusion_type=')
  assert compiler_options() is None


def test_inside_another_program_it_is_a_plain_jit():
  program = host_jit(double)
  assert program.__doc__ == 'Twice x.'
  x = jnp.arange(3.0)
  np.testing.assert_array_equal(jax.jit(program)(x), 2 * x)
  np.testing.assert_array_equal(jax.grad(lambda x: program(x).sum())(x), [2, 2, 2])
  np.testing.assert_array_equal(jax.vmap(program)(x), 2 * x)
  np.testing.assert_array_equal(jax.jvp(lambda x: program(x=x), (x,), (x,))[1], 2 * x)
  assert jax.eval_shape(program, x).shape == (3,)


def test_static_and_donated_arguments():
  program = host_jit(lambda n, x: x * n, static_argnums=0, donate_argnums=1)
  x = jnp.arange(3.0)
  np.testing.assert_array_equal(program(3, x), [0, 3, 6])
  assert x.is_deleted()
