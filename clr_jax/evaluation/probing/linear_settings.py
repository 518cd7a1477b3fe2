"""How a linear layer is fitted to features: solver, preset, normalization and held-out labels."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np

from clr_jax.core.bounds import BelowOne
from clr_jax.core.config_tree import Config
from clr_jax.core.errors import UserError
from clr_jax.core.options import OneOf, component, options_of, takes_options_of
from clr_jax.evaluation.probing.logistic import fit_lbfgs, fit_sgd
from clr_jax.evaluation.probing.normalization import Normalization
from clr_jax.evaluation.probing.presets import PRESETS, with_preset

Solver = Literal['lbfgs', 'sgd']
FIT: Mapping[str, Callable[..., Any]] = {'lbfgs': fit_lbfgs, 'sgd': fit_sgd}
SIDE_BY_SIDE: Mapping[str, tuple[str, ...]] = {
  'lbfgs': ('l2',),
  'sgd': ('base_lr', 'weight_decay'),
}
"""The options of a solver that may have several values."""
_HELD_OUT = 0.2  # of the labels, to choose among several values


class Settings(NamedTuple):
  """How a linear layer is fitted; every value is known.

  Attributes:
    preset: its name, '' without.
    solver: 'lbfgs' or 'sgd'.
    normalize: normalization of the features.
    held_out: the share of the labels that are not fitted.
    options: all hyper-parameters of the solver that have an effect.
  """

  preset: str
  solver: Solver
  normalize: Normalization
  held_out: float
  options: dict[str, Any]

  @property
  def candidates(self) -> list[dict[str, float]]:
    """Each choice of the options with several values: the product of these values."""
    names = SIDE_BY_SIDE[self.solver]
    values = [np.atleast_1d(np.asarray(self.options[name], float)).tolist() for name in names]
    return [dict(zip(names, chosen, strict=True)) for chosen in itertools.product(*values)]

  @property
  def random(self) -> bool:
    """Whether a fit to all labels depends on the seed."""
    return self.solver == 'sgd' or len(self.candidates) > 1 or self.held_out > 0

  def num_fitted(self, num_labels: int, num_classes: int) -> int:
    """How many of the labels are fitted before something is chosen by the others.

    Raises:
      UserError: fewer than one for each class.
    """
    if not self.held_out and len(self.candidates) == 1:
      return num_labels
    size = num_labels - max(1, round((self.held_out or _HELD_OUT) * num_labels))
    if size < num_classes:
      raise UserError(
        f'{num_labels} labels are too few to choose by some of them; give one value of '
        f'{" and ".join(SIDE_BY_SIDE[self.solver])} and no held_out, or more labels'
      )
    return size


@takes_options_of(fit_sgd)
@takes_options_of(fit_lbfgs)
def settings(
  *,
  preset: Annotated[str | None, OneOf(PRESETS)] = None,
  solver: Solver | None = None,
  normalize: Normalization | None = None,
  standardize: bool | None = None,
  held_out: BelowOne = 0.0,
  **options: Any,
) -> Settings:
  """The settings of `linear` with the defaults of the preset and of the solver.

  Args:
    preset: a source's protocol: other defaults of solver, normalize and the options.
    solver: 'lbfgs' (default without a preset), logistic regression to convergence (`fit_lbfgs`;
      l2 = 1 is scikit-learn's C = 1, on standardized features a safe choice from one label a class
      to all); 'sgd' (`fit_sgd`).
    normalize: 'none'; 'l2', features to length 1; 'standardize', to mean 0 and standard deviation 1
      of *all* training features, labeled or not (no label enters). Default: 'standardize' for
      'lbfgs', 'none' for 'sgd' (the SogCLR report's protocol).
    standardize: True is normalize='standardize', False is 'none'.
    held_out: the share of the labels that are never fitted and choose instead, in [0, 1); the
      SogCLR report's 40k of 50k is .2. 0: all labels are fitted.
    options: hyper-parameters of the solver. Several values of `l2` (lbfgs), `base_lr` or
      `weight_decay` (sgd) are fitted side by side and compared on held-out labels, by accuracy,
      then by cross-entropy. With held_out=0 these are 20 % of the labels, and the best value is
      fitted again to all.

  Raises:
    UserError: an option of another solver, or one without effect.
  """
  defaults = dict(PRESETS[preset]) if preset else {}
  if preset and solver == 'lbfgs':
    raise UserError(f'the preset {preset!r} is one of SGD: leave out solver={solver} or the preset')
  solver = solver or ('sgd' if preset else 'lbfgs')
  if normalize is not None and standardize is not None:
    raise UserError('give normalize or standardize, not both')
  if standardize is not None:
    normalize = 'standardize' if standardize else 'none'
  default = defaults.pop('normalize', 'standardize' if solver == 'lbfgs' else 'none')
  every = with_preset(FIT[solver], defaults, options, what=f'the linear solver {solver!r}')
  chosen = Settings(preset or '', solver, normalize or default, held_out, every)
  if held_out and solver == 'lbfgs' and len(chosen.candidates) == 1:
    raise UserError('held_out chooses nothing with L-BFGS and one l2: give several l2 or leave it')
  return chosen


def settings_of(options: Mapping[str, Any]) -> Settings:
  """`settings` of those options of a protocol that it has; the others are left alone."""
  known = options_of(settings)
  return settings(**{key: value for key, value in options.items() if key in known})


def linear_sgd(**hyper: Any) -> Config:
  """`config.eval.protocols.linear` by SGD on cached features; the defaults are the SogCLR report's.

  Args:
    hyper: options of `fit_sgd`.
  """
  config = component(fit_sgd, **hyper)
  config.solver = 'sgd'
  return config
