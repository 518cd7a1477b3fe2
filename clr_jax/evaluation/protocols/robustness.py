"""How a network's predictions survive: adversarial attacks and common corruptions."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from clr_jax.core.errors import UserError
from clr_jax.core.names import check_name
from clr_jax.evaluation import attacks, corruptions
from clr_jax.evaluation.attacks.base import batches, correct
from clr_jax.evaluation.attacks.losses import LOSSES
from clr_jax.evaluation.attacks.plb import BARRIERS
from clr_jax.evaluation.corruptions import VALIDATION
from clr_jax.evaluation.probing.classifier import HEADS, classifier
from clr_jax.evaluation.probing.sets import Sets
from clr_jax.evaluation.probing.subject import Subject
from clr_jax.ops import sharding
from clr_jax.rundir.results import Measurement

# Budgets of the curves, in pixel units of [0, 1]: .5 is the robustness project's, 8/255 the usual.
EPSILONS = {
  'l2': (0.1, 0.25, 0.5, 1.0),
  'linf': (1 / 255, 2 / 255, 4 / 255, 8 / 255),
  'l1': (1.0, 2.5, 5.0, 10.0),
  'l0': (1.0, 5.0, 10.0, 25.0),
}


class Attack(NamedTuple):
  """What a name stands for.

  Attributes:
    norm: of the distances.
    run: (classifier, images, labels, keys, *, norm, epsilon, pool, options) -> distances [B], 0
      where misclassified from the start and infinite where the attack failed; pool: all images
      that are attacked, uint8, and their labels.
    budget: it looks for a perturbation of a given size, not for the smallest.
  """

  norm: str
  run: Callable[..., Any]
  budget: bool


def robustness(
  subject: Subject,
  *,
  attack: str,
  num_images: int = 200,
  epsilons: Sequence[float] = (),
  steps: int = 20,
  restarts: int = 1,
  loss: Literal['cross_entropy', 'margin'] = 'cross_entropy',
  prox_weight: float = 1.0,
  barrier: Literal['logits', 'probs'] = 'probs',
  outer: int = 30,
  inner: int = 30,
  severities: Sequence[int] = corruptions.SEVERITIES,
  head: Literal['auto', 'own', 'linear'] = 'auto',
  normalise: bool = True,
  batch_size: int = 100,
  seed: int = 0,
  features: Literal['trained', 'untrained'] = 'trained',
) -> Iterator[Measurement]:
  """Attacks test images, or corrupts them.

  Args:
    subject: the network; without logits of its own, logistic regression on its features.
    attack: 'pgd_l2', 'pgd_linf' (`attacks.pgd`, one attack for each budget), 'early_stop_l2' (the
      robustness project's form of it, at the largest budget), 'plb_l2', 'plb_linf', 'plb_l1',
      'plb_l0' (`attacks.plb`, the smallest perturbation), 'worst_case_l2', 'worst_case_linf'
      (`attacks.worst_case`, AutoAttack's sequence at the largest budget), or 'corruptions'.
    num_images: of the test set, chosen by `seed`; the same ones for every network.
    epsilons: budgets, and points at which the share of robust images is given; default: EPSILONS.
    steps: of PGD and APGD; 20 as in the robustness project.
    restarts: of PGD, from random starts if there are several.
    loss: of PGD.
    prox_weight, barrier, outer, inner: of ProxLogBarrier; the project's barrier, 30 x 30 steps.
    severities: of the corruptions.
    head, normalise: see `classifier`.
    batch_size: images attacked at a time; beyond rounding the result does not depend on it.
    seed: of the choice of images, random starts and corruptions.
    features: which network this is, for the record.

  Yields:
    'clean_top1'; for an attack 'median_distance' of all images (0 where misclassified from the
    start, infinite where the attack failed; every distance is in `arrays`) and 'robust_top1' for
    each budget; for corruptions 'corrupted_top1' of each family, the mean over severities, and
    'mean_corrupted_top1' of those in the paper's mean, with the whole table in `arrays`.
  """
  start = time.perf_counter()
  options = {
    'steps': steps,
    'restarts': restarts,
    'loss': loss,
    'prox_weight': prox_weight,
    'barrier': barrier,
    'outer': outer,
    'inner': inner,
  }
  network = classifier(subject, head=head, normalise=normalise)
  rows = chosen(subject.sets, num_images, seed)
  test = subject.sets.test
  assert test is not None  # refused before
  image, label = test.load(rows)
  assert label is not None
  run = functools.partial(_in_batches, network, subject.experiment.mesh, batch_size)
  clean = run(_is_correct, image, label, rows, seed)
  settings = {
    'num_images': len(rows),
    'head': head,
    'normalise': normalise,
    'seed': seed,
    'attack': attack,
  }

  def measured(metric: str, value: Any, more: Mapping[str, Any], arrays: Any = None) -> Measurement:
    seconds = time.perf_counter() - start
    params = {**settings, **more}
    return Measurement(metric, float(value), 'robustness', params, features, seconds, arrays)

  yield measured('clean_top1', clean.mean(), {})
  if attack == 'corruptions':
    levels = [int(severity) for severity in severities]
    values = []
    for family in (families := corruptions.names_for(image.shape[-1])):
      changed = (
        corruptions.corrupt(family, image, severity=level, seed=seed, indices=rows)
        for level in levels
      )
      values.append([run(_is_correct, c, label, rows, seed).mean() for c in changed])
      yield measured('corrupted_top1', np.mean(values[-1]), {'family': family, 'levels': levels})
    table = {
      'top1': np.asarray(values),
      'family': np.asarray(families),
      'level': levels,
      'clean': clean.mean(),
    }
    counted = [row for f, row in zip(families, values, strict=True) if f not in VALIDATION]
    more = {'levels': levels, 'families': len(counted)}
    yield measured('mean_corrupted_top1', np.mean(counted), more, table)
    return
  what = ATTACKS[attack]
  budgets = sorted(float(e) for e in (epsilons or EPSILONS[what.norm]))
  used = {key: options[key] for key in _OPTIONS[attack.rpartition('_')[0]]}
  tried = budgets if attack.startswith('pgd') else budgets[-1:] if what.budget else [np.inf]
  distance = np.full(len(rows), np.inf)
  for budget in tried:
    attacked = functools.partial(
      what.run, norm=what.norm, epsilon=budget, pool=(image, label), **used
    )
    found = run(attacked, image, label, rows, seed).astype(np.float64)
    # Rounding may leave a perturbation a little larger than its budget.
    found = np.where(np.isfinite(found), np.minimum(found, budget), np.inf)
    distance = np.minimum(distance, found)
  if what.budget:
    used['epsilons'] = tried
  arrays = {'distance': distance, 'index': rows, 'correct': clean}
  yield measured('median_distance', np.median(distance), {**used, 'norm': what.norm}, arrays)
  for budget in tried if what.budget else budgets:
    share = np.mean(distance > budget)
    yield measured('robust_top1', share, {**used, 'norm': what.norm, 'epsilon': budget})


def chosen(sets: Sets, num_images: int, seed: int) -> np.ndarray:
  """Sorted positions of `num_images` test images, or of all if there are fewer."""
  assert sets.test is not None
  return np.sort(np.random.default_rng(seed).permutation(sets.test.num_examples)[:num_images])


def check(sets: Sets, options: Mapping[str, Any]) -> None:
  """UserError for what `robustness` would refuse after the features."""
  check_name([*ATTACKS, 'corruptions'], options['attack'], 'attack')
  for key, names in (('head', HEADS), ('loss', LOSSES), ('barrier', BARRIERS)):
    if key in options:
      check_name(names, options[key], f'robustness {key}')
  for key, least in (('steps', 1), ('restarts', 1), ('outer', 1), ('inner', 1), ('seed', 0)):
    if options.get(key, least) < least:
      raise UserError(f'robustness: {key}={options[key]} must be at least {least}')
  for epsilon in options.get('epsilons', ()):
    if not 0 < epsilon < np.inf:
      raise UserError(
        f'robustness: epsilon={epsilon} is no budget to attack with: give epsilons above 0'
      )
  if not options.get('prox_weight', 1.0) > 0:
    raise UserError(f'robustness: prox_weight={options["prox_weight"]} must be positive')
  for severity in options.get('severities', ()):
    if severity not in corruptions.SEVERITIES:
      raise UserError(f'robustness: severity={severity} must be one of 1, 2, 3, 4, 5')
  _check_fit(sets, options['attack'])
  if jax.process_count() > 1:
    raise UserError('evaluate robustness runs in one process: start it without --distributed')


def _check_fit(sets: Sets, attack: str) -> None:
  """UserError for images or classes that an attack is not for."""
  height, width, channels = sets.train.image_shape
  if attack == 'corruptions':
    corruptions.names_for(channels)
    least = corruptions.LEAST_SIDE
  else:
    least = 3 if attack.startswith('worst_case') else 1
  if min(height, width) < least:
    raise UserError(
      f'{attack} is for images of at least {least}x{least} pixels, not {height}x{width}: leave it '
      'out or set data.image_size'
    )
  classes = sets.train.num_classes
  if attack.startswith('worst_case') and classes is not None and classes < 4:
    pgd = attack.replace('worst_case', 'pgd')
    raise UserError(f'{attack} is for 4 classes or more, not {classes}: use {pgd}')


# ---------------------------------------------------------------- attacks
def _in_batches(
  network: attacks.Classifier,
  mesh: jax.sharding.Mesh,
  batch_size: int,
  attack: Callable[..., Any],
  image: np.ndarray,
  label: np.ndarray,
  rows: np.ndarray,
  seed: int,
) -> np.ndarray:
  """attack(classifier, images, labels, keys) [B] for uint8 images, over all devices of the mesh."""
  size = min(batch_size, len(rows))
  size = -(-size // mesh.size) * mesh.size
  place = functools.partial(jax.device_put, device=sharding.by_rows(mesh))
  base = jax.random.key(seed)
  parts = []
  for part, count in batches(len(rows), size):
    keys = jax.vmap(jax.random.fold_in, (None, 0))(base, jnp.asarray(rows[part]))
    images = place(image[part].astype(np.float32) / 255)
    parts.append(np.asarray(attack(network, images, place(label[part]), keys))[:count])
  return np.concatenate(parts)


def _is_correct(network: attacks.Classifier, images: Any, labels: Any, keys: Any) -> Any:
  del keys
  return correct(*network, images, labels)


def _pgd(network, images, labels, keys, *, norm, epsilon, pool, restarts, **options):
  del pool
  found = attacks.pgd(
    network,
    images,
    labels,
    key=keys,
    norm=norm,
    epsilon=epsilon,
    restarts=restarts,
    random_start=restarts > 1,
    **options,
  )
  return found.distance


def _early_stop(network, images, labels, keys, *, norm, epsilon, pool, **options):
  del keys, pool
  found = attacks.pgd(
    network, images, labels, norm=norm, epsilon=epsilon, protocol='early_stop', **options
  )
  return found.distance


def _plb(network, images, labels, keys, *, norm, epsilon, pool, **options):
  del epsilon
  others = pool[0].astype(np.float32) / 255, pool[1]
  start = attacks.gaussian_start(network, images, labels, key=keys, pool=others)
  return attacks.plb(network, images, labels, start=start, norm=norm, **options).distance


def _worst_case(network, images, labels, keys, *, norm, epsilon, pool, steps):
  del pool
  sequence = attacks.auto_attacks(norm=norm, epsilon=epsilon, steps=steps, queries=50 * steps)
  found = attacks.worst_case(
    network, images, labels, attacks=sequence, batch_size=len(images), key=keys
  )
  return found.distance


ATTACKS: Mapping[str, Attack] = {
  **{f'pgd_{norm}': Attack(norm, _pgd, True) for norm in ('l2', 'linf')},
  'early_stop_l2': Attack('l2', _early_stop, True),
  **{f'plb_{norm}': Attack(norm, _plb, False) for norm in ('l2', 'linf', 'l1', 'l0')},
  **{f'worst_case_{norm}': Attack(norm, _worst_case, True) for norm in ('l2', 'linf')},
}
_OPTIONS = {  # of each kind of attack
  'pgd': ('steps', 'restarts', 'loss'),
  'early_stop': ('steps', 'loss'),
  'plb': ('prox_weight', 'barrier', 'outer', 'inner'),
  'worst_case': ('steps',),
}
