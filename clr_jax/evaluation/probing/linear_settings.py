"""Settings of linear evaluation: solver, preset, normalization and held-out labels."""

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
"""Options of a solver that may have several values."""
_HELD_OUT = 0.2  # share of the labels to choose among several values


class Settings(NamedTuple):
  """Resolved settings of a linear fit.

  Attributes:
    preset: name of the preset, or ''.
    solver: 'lbfgs' or 'sgd'.
    normalize: normalization of the features.
    held_out: share of the labels that are held out.
    options: all effective hyper-parameters of the solver.
  """

  preset: str
  solver: Solver
  normalize: Normalization
  held_out: float
  options: dict[str, Any]

  @property
  def candidates(self) -> list[dict[str, float]]:
    """All combinations of the options with several values."""
    names = SIDE_BY_SIDE[self.solver]
    values = [np.atleast_1d(np.asarray(self.options[name], float)).tolist() for name in names]
    return [dict(zip(names, chosen, strict=True)) for chosen in itertools.product(*values)]

  @property
  def random(self) -> bool:
    """True if a fit to all labels depends on the seed."""
    return self.solver == 'sgd' or len(self.candidates) > 1 or self.held_out > 0

  def num_fitted(self, num_labels: int, num_classes: int) -> int:
    """Number of labels that are fitted before a selection by the others.

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
  """Resolves the settings of `linear` with the defaults of the preset and the solver.

  Args:
    preset: protocol of a source, with other defaults of solver, normalize and the options.
    solver: 'lbfgs' (default without a preset), logistic regression to convergence (`fit_lbfgs`;
      l2 = 1 is scikit-learn's C = 1, on standardized features a safe choice from one label per
      class to all labels); 'sgd' (`fit_sgd`).
    normalize: 'none'; 'l2', features of length 1; 'standardize', mean 0 and standard deviation 1 of
      *all* training features, labeled or not (labels are not used). Default: 'standardize' for
      'lbfgs', 'none' for 'sgd' (the SogCLR report's protocol).
    standardize: True means normalize='standardize', False 'none'.
    held_out: share of the labels, in [0, 1), that are never fitted but used for selection; .2 is
      the SogCLR report's 40k of 50k. 0: all labels are fitted.
    options: hyper-parameters of the solver. Several values of `l2` (lbfgs), `base_lr` or
      `weight_decay` (sgd) are fitted together and compared on held-out labels, by accuracy, then by
      cross-entropy. With held_out=0 these are 20 % of the labels, and the best value is refitted to
      all.

  Raises:
    UserError: an option of another solver, or without effect.
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
    raise UserError('held_out has no effect with L-BFGS and one l2: give several l2, or leave it')
  return chosen


def settings_of(options: Mapping[str, Any]) -> Settings:
  """`settings` of the known options of a protocol, ignoring others."""
  known = options_of(settings)
  return settings(**{key: value for key, value in options.items() if key in known})


def linear_sgd(**hyper: Any) -> Config:
  """Makes `config.eval.protocols.linear` with SGD on cached features (SogCLR report's defaults).

  Args:
    hyper: options of `fit_sgd`.
  """
  config = component(fit_sgd, **hyper)
  config.solver = 'sgd'
  return config
