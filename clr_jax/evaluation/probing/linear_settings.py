"""How a linear layer is fitted to features: presets, solvers and their options, checked."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from clr_jax.core.config_tree import Config
from clr_jax.core.errors import UserError
from clr_jax.core.names import check_name, look_up
from clr_jax.core.options import check, component, keyword_only, options_of
from clr_jax.evaluation.probing.logistic import SCALINGS, SCHEDULES, fit_lbfgs, fit_sgd
from clr_jax.evaluation.probing.presets import PRESETS

NORMALISATIONS = ('none', 'l2', 'standardise')
SWEPT = {'lbfgs': ('l2',), 'sgd': ('base_lr', 'weight_decay')}  # several values, side by side
FIT = {'lbfgs': fit_lbfgs, 'sgd': fit_sgd}
_GIVEN = ('num_classes', 'seed', 'watch')  # no hyper-parameters: `linear` fills them in


class Settings(NamedTuple):
  """How a linear layer is fitted; every value is known.

  Attributes:
    preset: its name, '' without.
    solver: 'lbfgs' or 'sgd'.
    normalise: one of NORMALISATIONS.
    held_out: the share of the labels that are not fitted.
    options: all hyper-parameters of the solver.
  """

  preset: str
  solver: str
  normalise: str
  held_out: float
  options: dict[str, Any]

  @property
  def candidates(self) -> list[dict[str, float]]:
    """Each choice of the swept hyper-parameters: the product of their values."""
    names = SWEPT[self.solver]
    values = [np.atleast_1d(np.asarray(self.options[name], float)).tolist() for name in names]
    return [dict(zip(names, chosen, strict=True)) for chosen in itertools.product(*values)]

  @property
  def random(self) -> bool:
    """Whether a fit to all labels depends on the seed."""
    return self.solver == 'sgd' or len(self.candidates) > 1 or self.held_out > 0


def settings(
  *,
  preset: str | None = None,
  solver: str | None = None,
  normalise: str | None = None,
  standardise: bool | None = None,
  held_out: float = 0.0,
  **options: Any,
) -> Settings:
  """The arguments of `linear` of these names with the preset's and the solver's defaults.

  Raises:
    UserError: an unknown name, an option of another solver, or one that does nothing.
  """
  defaults = dict(look_up(PRESETS, preset, 'preset')) if preset else {}
  if preset and solver not in (None, 'sgd'):
    raise UserError(f'the preset {preset!r} is one of SGD: leave out solver={solver} or the preset')
  solver = solver or ('sgd' if preset else 'lbfgs')
  check_solver_options(solver, options)
  if normalise is not None and standardise is not None:
    raise UserError('give normalise or standardise, not both')
  default = str(defaults.pop('normalise', 'standardise' if solver == 'lbfgs' else 'none'))
  if standardise is not None:
    default = 'standardise' if standardise else 'none'
  normalise = normalise or default
  check_name(NORMALISATIONS, normalise, 'normalisation')
  if not 0 <= held_out < 1:
    raise UserError(f'held_out={held_out} is not in [0, 1); give the share of labels held out')
  every = {**solver_options(solver), **defaults, **options}
  if solver == 'sgd':
    _check_schedule(every, options)
  chosen = Settings(preset or '', solver, normalise, held_out, every)
  if held_out and solver == 'lbfgs' and len(chosen.candidates) == 1:
    raise UserError('held_out chooses nothing with L-BFGS and one l2: give several l2 or leave it')
  return chosen


def _check_schedule(every: dict[str, Any], given: Mapping[str, Any]) -> None:
  """Refuses names and values; what a schedule does not use is dropped."""
  check_name(SCHEDULES, every['schedule'], 'schedule of the linear layer')
  check_name(SCALINGS, every['scaling'], 'scaling')
  for key in ('epochs', 'batch_size'):
    if every[key] < 1:
      raise UserError(f'linear: {key}={every[key]} must be at least 1')
  if every['schedule'] != 'step':
    for key in ('milestones', 'factor'):
      if key in given and given[key] != solver_options('sgd')[key]:
        raise UserError(
          f'linear.{key}={given[key]} has no effect unless linear.schedule=step: set that, too, or '
          f'leave {key} out'
        )
      del every[key]


def solver_options(solver: str | None = None) -> dict[str, Any]:
  """Hyper-parameters of a solver (None: of all) with their defaults, as a user may set them."""
  solvers = FIT if solver is None else (solver,)
  return {
    name: parameter.default
    for each in solvers
    for name, parameter in keyword_only(FIT[each]).items()
    if name not in _GIVEN
  }


def flags() -> dict[str, Any]:
  """Options of a protocol that fits by `settings`, beyond its own parameters: for the flags."""
  swept = {*itertools.chain(*SWEPT.values())}
  return {k: (v,) if k in swept else v for k, v in solver_options().items()}


def check_solver_options(solver: str, options: Mapping[str, Any]) -> None:
  """UserError for an unknown solver, or an option that it does not have."""
  check_name(FIT, solver, 'linear solver')
  known = options_of(FIT[solver])
  check(known, options, what=f'the linear solver {solver!r}', given=_GIVEN, complete=False)


def settings_of(options: Mapping[str, Any]) -> Settings:
  """`settings` of those options of a protocol that it knows; the others are left alone."""
  known = {*keyword_only(settings), *solver_options()}
  return settings(**{key: value for key, value in options.items() if key in known})


def linear_sgd(**hyper) -> Config:
  """`config.eval.protocols.linear` by SGD on cached features; the defaults are the report's."""
  config = component(fit_sgd, **hyper)
  del config['seed'], config['watch']  # not options of the protocol
  config.solver = 'sgd'
  return config
