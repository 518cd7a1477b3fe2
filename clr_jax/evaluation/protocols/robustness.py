"""Robustness of predictions to adversarial attacks and common corruptions."""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import Ge, Le, MinLen

from clr_jax.core.bounds import Count, Iterations, Positive, Repeats, Seed
from clr_jax.core.errors import UserError
from clr_jax.core.options import DISTINCT, SEVERAL, OneOf, takes_options_of
from clr_jax.evaluation import corruptions
from clr_jax.evaluation.attacks import Classifier, Problem
from clr_jax.evaluation.attacks.base import correct
from clr_jax.evaluation.attacks.losses import Loss
from clr_jax.evaluation.attacks.named import ATTACKS
from clr_jax.evaluation.attacks.plb import Barrier
from clr_jax.evaluation.probing.classifier import Logits, classifier
from clr_jax.evaluation.probing.sets import Sets
from clr_jax.evaluation.probing.subject import Kind, Subject
from clr_jax.ops import sharding
from clr_jax.ops.batches import batches
from clr_jax.rundir.results import Measurement

NEEDS_NETWORK = True
FITS_CLASSES = True
# Budgets of the curves for pixels in [0, 1]: .5 is the robustness project's, 8/255 is usual.
EPSILONS = {
  'l2': (0.1, 0.25, 0.5, 1.0),
  'linf': (1 / 255, 2 / 255, 4 / 255, 8 / 255),
  'l1': (1.0, 2.5, 5.0, 10.0),
  'l0': (1.0, 5.0, 10.0, 25.0),
}
Severity = Annotated[int, Ge(1), Le(5)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttackOptions:
  """Options of the attacks; each uses some of them (`named.ATTACKS`).

  Attributes:
    steps: number of iterations of PGD and APGD; 20 as in the robustness project.
    restarts: number of runs of PGD, from random starts if several.
    loss: loss that PGD raises.
    prox_weight: ProxLogBarrier's weight of the distance.
    barrier: ProxLogBarrier's margin, of the 'logits' (paper) or of the probabilities, 'probs' (the
      robustness project).
    outer, inner: numbers of ProxLogBarrier's steps, 30 x 30 in the robustness project.
  """

  steps: Iterations = 20
  restarts: Repeats = 1
  loss: Loss = 'cross_entropy'
  prox_weight: Positive = 1.0
  barrier: Barrier = 'probs'
  outer: Iterations = 30
  inner: Iterations = 30


@takes_options_of(AttackOptions)
def measure(
  subject: Subject,
  *,
  attack: Annotated[str | Sequence[str], OneOf((*ATTACKS, 'corruptions')), SEVERAL] = (
    'pgd_l2',
    'plb_l2',
  ),
  num_images: Count = 200,
  epsilons: Annotated[Sequence[Positive], DISTINCT] = (),
  severities: Annotated[Sequence[Severity], MinLen(1), DISTINCT] = corruptions.SEVERITIES,
  head: Logits = 'auto',
  normalize: bool = True,
  batch_size: Count = 100,
  seed: Seed = 0,
  **options: Any,
) -> Iterator[Measurement]:
  """Measures accuracy on attacked or corrupted test images.

  Args:
    subject: the network; networks without logits get logistic regression on their features.
    attack: 'pgd_l2', 'pgd_linf' (`attacks.pgd`, one attack per budget), 'early_stop_l2' (the
      robustness project's form, at the largest budget), 'plb_l2', 'plb_linf', 'plb_l1',
      'plb_l0' (`attacks.plb`, the smallest perturbation), 'worst_case_l2', 'worst_case_linf'
      (`attacks.worst_case`, AutoAttack's sequence at the largest budget), or 'corruptions'.
    num_images: number of test images, chosen by `seed`; the same for every network.
    epsilons: budgets, at which robust accuracy is reported; default: EPSILONS.
    severities: severities of the corruptions.
    head: attacked logits: 'own', those of a supervised network; 'linear', logistic regression on
      the features; 'auto', 'own' if the network has logits.
    normalize: train the linear layer on unit features, which the attack uses, too.
    batch_size: images attacked at a time; beyond rounding the result does not depend on it.
    seed: RNG seed of image selection, random starts and corruptions.
    options: see `AttackOptions`.

  Yields:
    'clean_top1'; for an attack 'median_distance' of all images (0 if misclassified without attack,
    infinite if the attack failed; all distances are in `arrays`) and 'robust_top1' per budget; for
    corruptions 'corrupted_top1' of each family, the mean over severities, and 'mean_corrupted_top1'
    of the families in the paper's mean, with the whole table in `arrays`.
  """
  chosen = AttackOptions(**options)
  for name in (attack,) if isinstance(attack, str) else attack:
    trial = _start(subject, name, num_images, head, normalize, batch_size, seed)
    yield trial.measured('clean_top1', trial.clean.mean(), {})
    if name == 'corruptions':
      yield from _corrupt(trial, [int(severity) for severity in severities])
    else:
      yield from _attack(trial, name, epsilons, chosen)


def check(sets: Sets, options: Mapping[str, Any]) -> None:
  """Raises a UserError for unsupported images or classes, and for several processes."""
  height, width, channels = sets.train.image_shape
  attack, classes = options['attack'], sets.train.num_classes
  least = 3 if attack.startswith('worst_case') else 1
  if attack == 'corruptions':
    corruptions.names_for(channels)
    least = corruptions.LEAST_SIDE
  if min(height, width) < least:
    raise UserError(
      f'{attack} needs images of at least {least}x{least} pixels, not {height}x{width}: leave it '
      'out or set data.image_size'
    )
  if attack.startswith('worst_case') and classes is not None and classes < 4:
    pgd = attack.replace('worst_case', 'pgd')
    raise UserError(f'{attack} needs 4 classes or more, not {classes}: use {pgd}')
  if jax.process_count() > 1:
    raise UserError('evaluate robustness runs in one process: start it without --distributed')


# ---------------------------------------------------------------- images
class _Trial(NamedTuple):
  """Test images, their classifier, and common fields of the records.

  Attributes:
    network: the classifier.
    mesh: mesh over which batches are split.
    image: uint8 [N, H, W, C].
    label: [N] labels.
    index: [N] positions in the test set.
    clean: [N] bool, True if correctly classified.
    batch_size: largest number of images at a time.
    params: params of all records.
    features: kind of the network.
    start: start time from `time.perf_counter`.
  """

  network: Classifier
  mesh: jax.sharding.Mesh
  image: np.ndarray
  label: np.ndarray
  index: np.ndarray
  clean: np.ndarray
  batch_size: int
  params: dict[str, Any]
  features: Kind
  start: float

  def run(self, function: Callable[..., Any], image: np.ndarray) -> np.ndarray:
    """Computes function(images, labels, keys) [N] for uint8 images, in batches on all devices."""
    size = min(self.batch_size, len(image))
    size = -(-size // self.mesh.size) * self.mesh.size
    place = functools.partial(jax.device_put, device=sharding.by_rows(self.mesh))
    base = jax.random.key(self.params['seed'])
    parts = []
    for rows, count in batches(np.arange(len(image)), size):
      keys = jax.vmap(jax.random.fold_in, (None, 0))(base, jnp.asarray(self.index[rows]))
      images = place(image[rows].astype(np.float32) / 255)
      parts.append(np.asarray(function(images, place(self.label[rows]), keys))[:count])
    return np.concatenate(parts)

  def correct(self, image: np.ndarray) -> np.ndarray:
    """[N] bool, which of the images are classified correctly."""
    return self.run(lambda images, labels, _: correct(self.network, images, labels), image)

  def measured(
    self, metric: str, value: Any, more: Mapping[str, Any], arrays: Any = None
  ) -> Measurement:
    """Makes a record."""
    params, seconds = {**self.params, **more}, time.perf_counter() - self.start
    return Measurement(metric, float(value), 'robustness', params, self.features, seconds, arrays)


def _start(
  subject: Subject,
  attack: str,
  num_images: int,
  head: Logits,
  normalize: bool,
  batch_size: int,
  seed: int,
) -> _Trial:
  start, test = time.perf_counter(), subject.sets.test
  assert test is not None  # refused before
  network = classifier(subject, head=head, normalize=normalize)
  order = np.random.default_rng(seed).permutation(test.num_examples)
  index = np.sort(order[:num_images])
  image, label = test.load(index)
  assert label is not None
  params = {'num_images': len(index), 'head': head, 'normalize': normalize, 'seed': seed}
  trial = _Trial(
    network=network,
    mesh=subject.experiment.mesh,
    image=image,
    label=label,
    index=index,
    clean=np.zeros(len(index), bool),
    batch_size=batch_size,
    params={**params, 'attack': attack},
    features=subject.kind,
    start=start,
  )
  return trial._replace(clean=trial.correct(image))


# ---------------------------------------------------------------- attacks, corruptions
def _attack(
  trial: _Trial, name: str, epsilons: Sequence[float], options: AttackOptions
) -> Iterator[Measurement]:
  attack = ATTACKS[name]
  budgets = sorted(float(e) for e in (epsilons or EPSILONS[attack.norm]))
  used = {key: getattr(options, key) for key in attack.options}
  tried = {'each': budgets, 'largest': budgets[-1:], 'none': [math.inf]}[attack.budgets]
  distance = np.full(len(trial.index), np.inf)
  for budget in tried:

    def run(images: Any, labels: Any, keys: Any, budget: float = budget) -> Any:
      problem = Problem.of(trial.network, images, labels, norm=attack.norm, epsilon=budget)
      return attack.run(problem, keys, (trial.image, trial.label), **used)

    found = trial.run(run, trial.image).astype(np.float64)
    # Rounding may make a perturbation slightly larger than its budget.
    found = np.where(np.isfinite(found), np.minimum(found, budget), np.inf)
    distance = np.minimum(distance, found)
  more = {**used, 'epsilons': tried} if attack.budgets != 'none' else used
  more = {**more, 'norm': attack.norm}
  arrays = {'distance': distance, 'index': trial.index, 'correct': trial.clean}
  yield trial.measured('median_distance', np.median(distance), more, arrays)
  for budget in budgets if attack.budgets == 'none' else tried:
    yield trial.measured('robust_top1', np.mean(distance > budget), {**more, 'epsilon': budget})


def _corrupt(trial: _Trial, levels: list[int]) -> Iterator[Measurement]:
  families, seed = corruptions.names_for(trial.image.shape[-1]), trial.params['seed']
  values = []
  for family in families:
    changed = (
      corruptions.corrupt(family, trial.image, severity=level, seed=seed, indices=trial.index)
      for level in levels
    )
    values.append([trial.correct(image).mean() for image in changed])
    more = {'family': family, 'levels': levels}
    yield trial.measured('corrupted_top1', np.mean(values[-1]), more)
  table = {
    'top1': np.asarray(values),
    'family': np.asarray(families),
    'level': levels,
    'clean': trial.clean.mean(),
  }
  counted = [
    row for f, row in zip(families, values, strict=True) if f not in corruptions.VALIDATION
  ]
  more = {'levels': levels, 'families': len(counted)}
  yield trial.measured('mean_corrupted_top1', np.mean(counted), more, table)
