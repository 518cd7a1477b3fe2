"""Few-label evaluation: a linear layer on frozen features, and a supervised baseline."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

import numpy as np

from clr_jax.core.bounds import Count, Repeats, Seed, Share
from clr_jax.core.errors import UserError
from clr_jax.core.options import DISTINCT, OneOf, takes_options_of
from clr_jax.evaluation.probing.linear_draws import measure_subsets
from clr_jax.evaluation.probing.linear_settings import settings, settings_of
from clr_jax.evaluation.probing.recipes import PRESETS
from clr_jax.evaluation.probing.sets import Sets
from clr_jax.evaluation.probing.subject import Subject
from clr_jax.evaluation.probing.subsets import labeled_subset
from clr_jax.evaluation.protocols import finetune
from clr_jax.rundir.results import Measurement

FRACTIONS = (0.01, 0.1, 1.0)  # from the robustness document's table 1, and SimCLR
PER_CLASS = (1, 5, 10)
FITS_CLASSES = True


@takes_options_of(settings)
def measure(
  subject: Subject,
  *,
  label_fraction: Share | Annotated[Sequence[Share], DISTINCT] = FRACTIONS,
  per_class: Count | Annotated[Sequence[Count], DISTINCT] = PER_CLASS,
  balanced: bool = True,
  draws: Repeats = 5,
  seed: Seed = 0,
  baseline: Annotated[str, OneOf(('', *PRESETS))] = '',
  **options: Any,
) -> Iterator[Measurement]:
  """Measures top-1 test accuracy, in [0, 1], with few training labels, but all images.

  The classifier is that of `linear`. Every draw is another subset of the labels, the same for all
  networks, features and presets (`labeled_subset`), so that only the features differ. `finetune`
  with the same amount, seed and draw uses the same labels.

  Args:
    subject: a network and the labeled sets.
    label_fraction: shares of the labels.
    per_class: numbers of labels per class.
    balanced: True for class-stratified subsets, or equal numbers per class; False for as many
      labels drawn at random, as in the robustness document.
    draws: number of subsets per amount.
    seed: RNG seed of subsets, held-out splits, initial weights and batches.
    baseline: preset of `finetune`, such as 'small_supervised' or 'robustness_supervised', to train
      the whole network from scratch on each subset, too, when evaluating trained features; `params`
      record it as 'baseline'.
    options: solver, preset and hyper-parameters, see `settings`.
  """
  amounts = [{**amount, 'balanced': balanced} for amount in _amounts(label_fraction, per_class)]
  how = {'protocol': 'few_label', 'draws': draws, 'seed': seed, 'features': subject.kind}
  yield from measure_subsets(*subject.features, amounts, settings(**options), **how)
  if not baseline or not subject.is_pretrained:
    return
  untrained = subject.of_kind('untrained')
  for amount in amounts:
    for draw in range(draws):
      for found in finetune.measure(untrained, preset=baseline, draw=draw, seed=seed, **amount):
        dropped = ('preset', 'label_fraction', 'per_class')
        params = {k: v for k, v in found.params.items() if k not in dropped}
        params = {'baseline': baseline, **amount, **params}
        yield found._replace(protocol='few_label', params=params)


def check(sets: Sets, options: Mapping[str, Any]) -> None:
  """Raises a UserError for conflicting options and for impossible amounts of labels."""
  chosen = settings_of(options)
  if options.get('baseline'):
    finetune.check(sets, {'preset': options['baseline']})
  amounts = _amounts(options.get('label_fraction', FRACTIONS), options.get('per_class', PER_CLASS))
  label = sets.train.labels()
  if label is None:
    return  # a run without labels is not evaluated at its end
  for amount in amounts:
    rows = labeled_subset(label, **amount, balanced=options.get('balanced', True))
    chosen.num_fitted(len(rows), len(np.unique(label)))


def _amounts(label_fraction: Any, per_class: Any) -> list[dict[str, Any]]:
  """Arguments of `labeled_subset`."""
  amounts = [{'label_fraction': f} for f in np.atleast_1d(label_fraction).tolist()]
  amounts += [{'per_class': n} for n in np.atleast_1d(per_class).tolist()]
  if not amounts:
    raise UserError('few_label: label_fraction and per_class are both empty; give some amounts')
  return amounts
