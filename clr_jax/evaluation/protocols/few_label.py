"""Few labels: a linear layer on frozen features, and the supervised network on the same labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from clr_jax.core.errors import UserError
from clr_jax.evaluation.probing.linear_settings import settings, settings_of
from clr_jax.evaluation.probing.sets import Sets
from clr_jax.evaluation.probing.subject import Subject
from clr_jax.evaluation.probing.subsets import labeled_subset
from clr_jax.evaluation.protocols import finetune
from clr_jax.evaluation.protocols.linear import measure_subsets, num_fitted
from clr_jax.rundir.results import Measurement

FRACTIONS = (0.01, 0.1, 1.0)  # of the robustness document's table 1, and of SimCLR
PER_CLASS = (1, 5, 10)


def few_label(
  subject: Subject,
  *,
  preset: str | None = None,
  solver: str | None = None,
  label_fraction: Sequence[float] = FRACTIONS,
  per_class: Sequence[int] = PER_CLASS,
  balanced: bool = True,
  draws: int = 5,
  seed: int = 0,
  normalise: str | None = None,
  held_out: float = 0.0,
  baseline: str = '',
  features: Literal['trained', 'untrained', 'pixels'] = 'trained',
  **options: Any,
) -> Iterator[Measurement]:
  """Top-1 test accuracy, in [0, 1], with a few of the training labels; the images are all used.

  The classifier is that of `linear`, on the features of one network. Every draw is another subset
  of the labels, the same for all networks, features and presets (`labeled_subset`), so that
  differences are differences of the features. `finetune` with the same amount, seed and draw has
  the same labels too.

  Args:
    subject: a network and the labeled sets.
    label_fraction: shares of the labels.
    per_class: numbers of labels for each class.
    balanced: subsets are class-stratified, or have the same number for each class; False: as many
      labels drawn at random, as in the robustness document.
    draws: subsets for each amount.
    seed: of subsets, held-out splits, initial weights and batches.
    preset, solver, normalise, held_out, options: see `linear`.
    baseline: a preset of `finetune`, such as 'small_supervised' or 'robustness_supervised': for the
      trained network's features, also trains the whole network from scratch on each subset;
      `params` have this preset as 'baseline'.
    features: which features these are, for the record.

  Raises:
    UserError: what `check` refuses.
  """
  chosen = settings(preset=preset, solver=solver, normalise=normalise, held_out=held_out, **options)
  amounts = _amounts(label_fraction, per_class)
  train, test = subject.features
  given = [{**amount, 'balanced': balanced} for amount in amounts]
  yield from measure_subsets(
    train, test, given, chosen, protocol='few_label', draws=draws, seed=seed, features=features
  )
  if baseline and features == 'trained':
    for amount in given:
      for draw in range(draws):
        for measurement in finetune.finetune(
          subject, features='untrained', preset=baseline, draw=draw, seed=seed, **amount
        ):
          dropped = ('preset', 'label_fraction', 'per_class')
          params = {k: v for k, v in measurement.params.items() if k not in dropped}
          params = {'baseline': baseline, **amount, **params}
          yield measurement._replace(protocol='few_label', params=params)


def check(sets: Sets, options: Mapping[str, Any]) -> None:
  """UserError for options that cannot be, before anything is computed."""
  chosen = settings_of(options)
  if options.get('draws', 1) < 1:
    raise UserError(f'few_label: draws={options["draws"]} must be at least 1')
  if options.get('baseline'):
    finetune.check(sets, {'preset': options['baseline']})
  amounts = _amounts(options.get('label_fraction', FRACTIONS), options.get('per_class', PER_CLASS))
  label = sets.train.labels()
  if label is None:
    return  # a run without labels is not evaluated at its end
  for amount in amounts:
    rows = labeled_subset(label, **amount, balanced=options.get('balanced', True))
    num_fitted(chosen, len(rows), len(np.unique(label)))


def _amounts(label_fraction: Any, per_class: Any) -> list[dict[str, Any]]:
  """Arguments of `labeled_subset`."""
  # The flag --params.per_class= gives one empty text.
  given = [[v for v in np.atleast_1d(x).tolist() if v != ''] for x in (label_fraction, per_class)]
  amounts = [{'label_fraction': f} for f in given[0]]
  amounts += [{'per_class': int(n)} for n in given[1]]
  if not amounts:
    raise UserError('few_label: label_fraction and per_class are both empty; give some amounts')
  return amounts
