"""Jitted functions that the host calls, compiled with the options that CPUs need."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.core import Tracer

# On CPUs XLA uses YNNPACK for convolutions, products and sums. For the weight gradient of a 3x3
# convolution it is 5 to 14 times slower than XLA's own code, so use it for sums only (JAX 0.10.2,
# 0.12.0).
CPU_OPTIONS: Mapping[str, str | bool] = {
  'xla_cpu_experimental_ynn_fusion_type': 'LIBRARY_FUSION_TYPE_REDUCE',
}
# Half of the time to compile. Random draws keep their bits, products differ by rounding.
_QUICK_OPTIONS: Mapping[str, str | bool | int] = {'xla_backend_optimization_level': 1}


def host_jit(
  function: Callable[..., Any], *, called_once: bool = False, **options: Any
) -> HostProgram:
  """`jax.jit` with the compiler options of this device, for functions that the host calls.

  JAX accepts compiler options for the outermost program only: called by another program or
  differentiated, the function is a plain `jax.jit`.

  Args:
    function: a pure function, as for `jax.jit`.
    called_once: compile in half of the time, to a slower program.
    options: options of `jax.jit` except `compiler_options`.
  """
  return HostProgram(function, options, called_once)


class HostProgram:
  """A jitted function whose compiler options are chosen at the first call; see `host_jit`.

  Choosing them starts JAX's backend, which must not happen on import.
  """

  def __init__(self, function: Callable[..., Any], options: Mapping[str, Any], called_once: bool):
    functools.update_wrapper(self, function)
    self._function, self._options, self._called_once = function, options, called_once

  @functools.cached_property
  def _outermost(self) -> jax.stages.Wrapped:
    chosen = compiler_options()
    quicker = jax.config.read('jax_disable_most_optimizations') or _users_own(_QUICK_OPTIONS)
    if chosen is not None and self._called_once and not quicker:
      chosen = {**chosen, **_QUICK_OPTIONS}
    return jax.jit(self._function, compiler_options=chosen, **self._options)

  @functools.cached_property
  def _inner(self) -> jax.stages.Wrapped:
    return jax.jit(self._function, **self._options)

  def __call__(self, *args: Any, **kwargs: Any) -> Any:
    traced = any(isinstance(x, Tracer) for x in jax.tree.leaves((args, kwargs)))
    return (self._inner if traced else self._outermost)(*args, **kwargs)

  def cache_size(self) -> int:
    """Number of programs compiled for calls by the host."""
    return self._outermost._cache_size()  # pyright: ignore[reportAttributeAccessIssue]

  def lower(self, *args: Any, **kwargs: Any) -> jax.stages.Lowered:
    """Lowers the function for arguments of these shapes."""
    return self._outermost.lower(*args, **kwargs)

  def trace(self, *args: Any, **kwargs: Any) -> jax.stages.Traced:
    """Traces the function, without compiler options, for lowering to other platforms."""
    return self._inner.trace(*args, **kwargs)


@functools.cache
def compiler_options() -> dict[str, str | bool] | None:
  """Compiler options of host programs on this backend; None for JAX's defaults.

  Values that the user sets in XLA_FLAGS take precedence. Starts the backend.
  """
  if jax.default_backend() != 'cpu' or _users_own(CPU_OPTIONS):
    return None
  options: dict[str, str | bool] = dict(CPU_OPTIONS)
  try:
    jax.jit(lambda: 0, compiler_options=options).lower().compile()
  except (jax.errors.JaxRuntimeError, ValueError):  # XLA lacks the option in this version
    return None
  return options


def _users_own(options: Mapping[str, Any]) -> bool:
  return any(name in os.environ.get('XLA_FLAGS', '') for name in options)
