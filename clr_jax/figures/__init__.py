"""Figures of runs: `clr_jax/figures/NAME.py` has a function NAME, which `clr-jax inspect` draws.

`drawing` contains types and renderers, `analysis` the computations. The report of all figures on
one page is in `clr_jax.report`.
"""

from __future__ import annotations

from etils import epath

from clr_jax.core.config_tree import Config
from clr_jax.core.errors import UserError
from clr_jax.core.options import component, describe, options_of
from clr_jax.core.registry import ModuleRegistry
from clr_jax.core.storage import check_path, check_writable, translate_errors

WITHOUT_RUNS = ('margins', 'operators')
"""Names of the figures that need no run."""

FIGURES = ModuleRegistry('figure', __name__, __path__, besides=('analysis', 'drawing'))


def names() -> list[str]:
  """Names of all figures, without importing them; a protocol's figure has the protocol's name."""
  return FIGURES.names()


def parameters(name: str) -> Config:
  """Options of a figure with their defaults."""
  return component(FIGURES.factory(name))


def option_texts(name: str) -> dict[str, str]:
  """Descriptions of the options of a figure, in the words of its docstring."""
  options = options_of(FIGURES.factory(name))
  return {key: option.text or describe(option.hint) for key, option in options.items()}


def check_out(out: str, suffix: str) -> None:
  """Raises an error, before any work, for a file that cannot be written or has another suffix.

  Raises:
    UserError: an invalid path.
  """
  check_path(out)
  path = epath.Path(out)
  if path.suffix != suffix:
    raise UserError(f'--out={out}: give a path that ends in {suffix}')
  try:
    with translate_errors(path):
      if path.is_dir():
        raise UserError(f'--out={out} is a folder: name a file')
      check_writable(path.parent, f'.{path.name}')
  except OSError as error:
    raise UserError(
      f'--out={out} cannot be written ({error.strerror or error}): give another path'
    ) from None
