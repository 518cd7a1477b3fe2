"""Every archive of reference numbers, case by case, in float64 and float32.

Float64 shows that a formula is the reference's; in float32 the first case of each archive is a
slow test, the others, which differ in their options, are weekly ones. LONG is slow in float64, too.

Archives are `*.npz` in $CLR_GOLDEN_DIR (default: `data` beside this file) with keys
`case{c}__{name}`, or of one case with keys of any form. A checker is a function named after its
archive in one of the `check_*.py` modules here; it feeds the library's own functions with the
arrays of a case and compares with `close(actual, expected, what)`. Inputs and expectations come
only from the archive; an archive without a checker fails.
"""

import importlib
import os
import pathlib

import jax
import numpy as np
import pytest

HERE = pathlib.Path(__file__).parent
DATA = pathlib.Path(os.environ.get('CLR_GOLDEN_DIR', HERE / 'data'))
CHECKERS = {
  name: function
  for path in sorted(HERE.glob('check_*.py'))
  for name, function in vars(importlib.import_module(f'tests.golden.{path.stem}')).items()
  if name[:2] in ('a_', 'b_', 'c_')
}
TOLERANCE = {'float64': 1e-9, 'float32': 1e-4}
# Long to compile; tests of wrappers, plug-ins, losses and heads check their formulas, too.
LONG = (
  *('b_ft', 'b_gradscale', 'b_margin', 'b_mochi', 'b_plb', 'b_tikhonov', 'b_unmix'),
  *('c_debiased', 'c_heads', 'c_infomin', 'c_swav', 'c_vicreg', 'c_wmse'),
)


class Case(dict):
  """The arrays of one case, floats in the precision under test; attribute access."""

  def __getattr__(self, name):
    try:
      return self[name]
    except KeyError:
      raise AttributeError(name) from None


def load(archive: str, number: int, dtype: str) -> Case:
  with np.load(DATA / f'{archive}.npz', allow_pickle=False) as data:
    prefix = f'case{number}__' if 'n_cases' in data else ''
    arrays = {k.removeprefix(prefix): data[k] for k in data if k.startswith(prefix)}
  case = Case()
  for name, value in arrays.items():
    if value.dtype == np.float64:
      value = value.astype(dtype) if value.ndim else float(value)
    elif not value.ndim:
      value = value.item()
    case[name] = value
  return case


def make_close(dtype: str):
  def close(actual, expected, what: str, tolerance: float | None = None):
    """max|actual - expected| <= tolerance * max|expected|, NaN exactly where expected has NaN.

    `tolerance` overrides the float32 one where the archive's README names a looser number.
    """
    limit = TOLERANCE[dtype] if tolerance is None or dtype == 'float64' else tolerance
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape, f'{what}: shape {actual.shape}, not {expected.shape}'
    known = ~np.isnan(expected)
    assert (np.isnan(actual) == ~known).all(), f'{what}: NaN differs'
    scale = np.max(np.abs(expected), where=known, initial=0.0)
    if scale < 1e-12:  # an exact zero up to the reference's own rounding
      scale = 1.0
    error = np.max(np.abs(actual - expected), where=known, initial=0.0) / scale
    assert error <= limit, f'{what}: relative error {error:.2e} > {limit:.0e}'

  return close


def cases():
  for path in sorted(DATA.glob('*.npz')):
    with np.load(path, allow_pickle=False) as data:
      for number in range(int(data.get('n_cases', 1))):
        for dtype in TOLERANCE:
          seldom = (dtype == 'float32') + (number > 0 or path.stem in LONG)
          marks = [[], [pytest.mark.slow], [pytest.mark.weekly]][seldom]
          name = f'{path.stem}-case{number}-{dtype}'
          yield pytest.param(path.stem, number, dtype, id=name, marks=marks)


@pytest.mark.parametrize(('archive', 'number', 'dtype'), list(cases()))
def test_golden(archive, number, dtype):
  assert archive in CHECKERS, f'no checker for {archive}.npz: add one to tests/golden/check_*.py'
  with jax.enable_x64(dtype == 'float64'), jax.default_matmul_precision('highest'):
    CHECKERS[archive](load(archive, number, dtype), make_close(dtype))
