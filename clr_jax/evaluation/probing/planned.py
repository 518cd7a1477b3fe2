"""Programs of an evaluation by the shapes of their arguments alone, for `clr-jax plan`."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Sharding, SingleDeviceSharding

from clr_jax.evaluation.probing import logistic, placement
from clr_jax.evaluation.probing.linear_settings import Settings


class Sizes(NamedTuple):
  """Sizes of the sets of an evaluation and of their features."""

  train: int
  test: int
  classes: int
  width: int


class Program(NamedTuple):
  """A program that an evaluation calls.

  Attributes:
    name: task of the program.
    traced: the program for arguments on the devices of the plan.
    calls: how often the host calls it.
    flops: FLOPs of its products, at least, in a call, or in an iteration of those that iterate;
      None = those of the compiled program.
    devices: number of devices that share these FLOPs.
    iterations: largest number of iterations in a call; None = it does not iterate.
  """

  name: str
  traced: jax.stages.Traced
  calls: int
  flops: int | None
  devices: int
  iterations: int | None = None


class _Fit(NamedTuple):
  """A fit of one or several classifiers, and their tests.

  Attributes:
    options: hyper-parameters of the solver.
    rows: number of labels.
    heads: number of classifiers.
    sizes: sizes of the sets and of the features.
    devices: devices of one process.
    tested: {name of the accuracy: number of images}.
  """

  options: Mapping[str, Any]
  rows: int
  heads: int
  sizes: Sizes
  devices: Sequence[Any]
  tested: Mapping[str, int]


def linear_programs(
  chosen: Settings, num_labels: int, sizes: Sizes, devices: Sequence[Any]
) -> Iterator[Program]:
  """Yields the programs of a linear classifier on some of the labels, see `linear_draws`.

  Args:
    chosen: settings of the fit.
    num_labels: number of labels.
    sizes: sizes of the sets and of the features.
    devices: devices of one process.
  """
  programs = _sgd if chosen.solver == 'sgd' else _lbfgs
  fitted = chosen.num_fitted(num_labels, sizes.classes)
  held = num_labels - fitted
  fit = _Fit(chosen.options, fitted, len(chosen.candidates), sizes, devices, {})
  if held and not chosen.held_out:  # chosen on held-out labels, then fitted again to all
    yield from programs(fit._replace(tested={'held-out accuracy': held}))
    fit, held = fit._replace(rows=num_labels, heads=1), 0
  tested = {'test accuracy': sizes.test} | ({'held-out accuracy': held} if held else {})
  yield from programs(fit._replace(tested=tested))


def _lbfgs(fit: _Fit) -> Iterator[Program]:
  options, rows, heads, sizes, devices, tested = fit
  h, label = placement.abstract_blocks(rows, sizes.width, sizes.classes, devices, heads=heads)
  lead = (heads,) if heads > 1 else ()
  arguments = (sizes.classes, rows, options['max_iter'], options['tol'])
  yield Program(
    f'L-BFGS on {rows:,} labels{_heads(heads)}',
    logistic.lbfgs.trace(h, label, jax.ShapeDtypeStruct(lead, jnp.float32), *arguments),
    calls=1,
    # A loss with its gradient is one product forwards and one backwards.
    flops=4 * rows * sizes.width * sizes.classes * heads,
    devices=len(h.sharding.device_set),  # pyright: ignore[reportOptionalMemberAccess]
    iterations=options['max_iter'],
  )
  head = _head(lead, sizes, SingleDeviceSharding(devices[0]))
  for name, count in tested.items():
    yield _tests(name, count, head, 1, sizes)


def _sgd(fit: _Fit) -> Iterator[Program]:
  options, rows, heads, sizes, devices, tested = fit
  how = (options['momentum'], options['nesterov'])
  h = placement.abstract_rows(rows, sizes.width, sizes.classes, devices)
  head = _head((heads,), sizes, placement.replicated_like(h))
  state = jax.eval_shape(lambda head: logistic.sgd_state(head, *how), head)
  label = jax.ShapeDtypeStruct((rows,), jnp.int32)
  rate = jax.ShapeDtypeStruct((heads,), jnp.float32)
  key = jax.eval_shape(lambda: jax.random.key(0))
  size = min(options['batch_size'], rows)
  yield Program(
    f'SGD on {rows:,} labels, an epoch{_heads(heads)}',
    logistic.sgd_epoch.trace(h, label, head, state, rate, rate, key, *how, size),
    calls=options['epochs'],
    flops=4 * rows * sizes.width * sizes.classes * heads,
    devices=1,  # each device computes all rows of a minibatch
  )
  for name, count in tested.items():
    yield _tests(name, count, head, options['epochs'], sizes)


def _tests(name: str, rows: int, head: logistic.Head, calls: int, sizes: Sizes) -> Program:
  """Program that tests one head, or several on a leading axis, on all rows at once."""
  h = jax.ShapeDtypeStruct((rows, sizes.width), jnp.float32)
  traced = logistic.count_correct.trace(head, h, jax.ShapeDtypeStruct((rows,), jnp.int32))
  heads = math.prod(head.b.shape[:-1])
  flops = 2 * rows * sizes.width * sizes.classes * heads
  return Program(f'{name} of {rows:,} images{_heads(heads)}', traced, calls, flops, devices=1)


def _head(lead: tuple[int, ...], sizes: Sizes, where: Sharding) -> logistic.Head:
  of: Any = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.float32, sharding=where)
  return logistic.Head(of((*lead, sizes.width, sizes.classes)), of((*lead, sizes.classes)))


def _heads(count: int) -> str:
  return f', {count} heads' if count > 1 else ''
