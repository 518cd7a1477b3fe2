"""Programs that the host calls, compiled with the options that CPUs need."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.core import Tracer

# XLA gives convolutions, products and sums on CPUs to YNNPACK, which takes 5 to 14 times as long
# for the weight gradient of a 3x3 convolution as XLA's own code: sums only (JAX 0.10.2, 0.12.0).
CPU_OPTIONS: Mapping[str, str | bool] = {
  'xla_cpu_experimental_ynn_fusion_type': 'LIBRARY_FUSION_TYPE_REDUCE',
}


def host_jit(function: Callable[..., Any], **options: Any) -> HostProgram:
  """`jax.jit` for functions that the host calls, with the compiler options of this device.

  JAX takes compiler options at the outermost program only: where another program calls the
  function, or a derivative of it is taken, it is a plain `jax.jit`.

  Args:
    function: pure, as for `jax.jit`.
    options: options of `jax.jit`, but `compiler_options`.
  """
  return HostProgram(function, options)


class HostProgram:
  """A jitted function whose compiler options are chosen when it is first called; see `host_jit`.

  Choosing them starts JAX's backend, which the import of a module must not do.
  """

  def __init__(self, function: Callable[..., Any], options: Mapping[str, Any]):
    functools.update_wrapper(self, function)
    self._function, self._options = function, options

  @functools.cached_property
  def _outermost(self) -> jax.stages.Wrapped:
    return jax.jit(self._function, compiler_options=compiler_options(), **self._options)

  @functools.cached_property
  def _inner(self) -> jax.stages.Wrapped:
    return jax.jit(self._function, **self._options)

  def __call__(self, *args: Any, **kwargs: Any) -> Any:
    traced = any(isinstance(x, Tracer) for x in jax.tree.leaves((args, kwargs)))
    return (self._inner if traced else self._outermost)(*args, **kwargs)

  def cache_size(self) -> int:
    """Number of programs that were compiled for calls by the host."""
    return self._outermost._cache_size()  # pyright: ignore[reportAttributeAccessIssue]

  def lower(self, *args: Any, **kwargs: Any) -> jax.stages.Lowered:
    """The program for arguments of these shapes, not compiled yet."""
    return self._outermost.lower(*args, **kwargs)

  def trace(self, *args: Any, **kwargs: Any) -> jax.stages.Traced:
    """The traced function, for lowering to other platforms: without compiler options."""
    return self._inner.trace(*args, **kwargs)


@functools.cache
def compiler_options() -> dict[str, str | bool] | None:
  """The compiler options of host programs on this backend; None for JAX's defaults.

  A value in XLA_FLAGS is the user's and stays. Starts the backend.
  """
  given = os.environ.get('XLA_FLAGS', '')
  if jax.default_backend() != 'cpu' or any(name in given for name in CPU_OPTIONS):
    return None
  options: dict[str, str | bool] = dict(CPU_OPTIONS)
  try:
    jax.jit(lambda: 0, compiler_options=options).lower().compile()
  except (jax.errors.JaxRuntimeError, ValueError):  # this version of XLA has no such option
    return None
  return options
