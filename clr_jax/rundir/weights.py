"""Loads parts of a checkpoint: initial weights from another run, or the network to evaluate."""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
from etils import epath
from flax import traverse_util

from clr_jax.core.errors import UserError
from clr_jax.core.types import Params, PyTree, State, TrainState
from clr_jax.rundir.checkpoint import Checkpoints
from clr_jax.rundir.leaves import check_same, describe
from clr_jax.rundir.workdir import Workdir

_REPRESENTED = ('batch_stats', 'target')  # keys of the state that `Method.represent` reads


class WeightsReport(NamedTuple):
  """Report of `restore_weights`, by path ('params/backbone/...').

  Attributes:
    source: the checkpoint.
    taken: copied leaves.
    kept: leaves that keep their values, with reasons.
    unused: leaves of the checkpoint below the same first keys that do not fit.
  """

  source: str
  taken: tuple[str, ...]
  kept: Mapping[str, str]
  unused: tuple[str, ...]

  def __str__(self) -> str:
    taken = f'weights from {self.source}: {len(self.taken)} arrays taken'
    # 'params/probe/bias', 'state/batch_stats/projector/mean'
    parts = [(path.removeprefix('state/').split('/')[1], why) for path, why in self.kept.items()]
    counts = collections.Counter(parts).items()
    new = ', '.join(f'{part} ({count} {why})' for (part, why), count in counts)
    return f'{taken}; initialized as new: {new}' if new else taken


def restore_weights(
  path: Workdir | epath.PathLike,
  into_params: Params,
  into_state: State,
  *,
  state_keys: Sequence[str] = ('batch_stats',),
) -> tuple[Params, State, WeightsReport]:
  """Copies the newest weights of another run where path and shape agree.

  Copies parameters and batch statistics, in the given dtypes and shardings, but not the step,
  optimizer, tables and queues.

  Args:
    path: workdir of the other run.
    into_params, into_state: initialized arrays, as in TrainState.
    state_keys: first keys of the state to copy, too.

  Raises:
    UserError: no checkpoint, or no weights in common with the backbone.
  """
  target = {
    'params': into_params,
    'state': {k: into_state[k] for k in state_keys if k in into_state},
  }
  own, arrays = _leaves(target)
  prefixes = ('params/', *(f'state/{k}/' for k in state_keys))
  kept: dict[str, str] = {}
  unused: list[str] = []

  def choose(saved: Mapping[str, Any]) -> PyTree:
    kept.clear()
    kept.update(_misfits(saved, arrays, path))
    fitting = {k: v for k, v in arrays.items() if k not in kept}
    unused[:] = [k for k in saved if k.startswith(prefixes) and k not in fitting]
    return _tree({k: _abstract(v) for k, v in fitting.items()})

  with Checkpoints(path, read_only=True) as checkpoints:
    step, restored = checkpoints.restore_leaves(choose)
  taken = traverse_util.flatten_dict(restored, sep='/')
  merged = _tree({**own, **taken})
  source = _place(path)
  report = WeightsReport(f'{source}, step {step}', tuple(taken), dict(kept), tuple(unused))
  return merged['params'], {**into_state, **merged.get('state', {})}, report


def check_weights(saved: Mapping[str, Any], params: Params, path: Workdir | epath.PathLike) -> None:
  """Quick check for errors of `restore_weights`.

  Args:
    saved: leaves of the checkpoint, from `Checkpoints.leaves`.
    params: abstract parameters.
    path: workdir of the other run.

  Raises:
    UserError: the backbone does not fit.
  """
  _misfits(saved, _leaves({'params': params})[1], path)


def _misfits(
  saved: Mapping[str, Any], arrays: Mapping[str, Any], path: Workdir | epath.PathLike
) -> dict[str, str]:
  """{leaf: reason why the checkpoint has no value for it}."""
  source = _place(path)
  misfits = {}
  for name, array in arrays.items():
    if name not in saved:
      misfits[name] = 'not there'
    elif tuple(saved[name][0]) != tuple(array.shape):
      misfits[name] = 'of another shape'
  backbone = [name for name in arrays if name.startswith('params/backbone/')]
  if backbone and misfits.keys() >= set(backbone):
    name = max(backbone, key=lambda k: (k in saved, len(arrays[k].shape)))
    there = list(saved[name][0]) if name in saved else 'absent'
    raise UserError(
      f'init_from={source} is a run of another backbone ({name.removeprefix("params/")} is '
      f'{there} there and {list(arrays[name].shape)} here): set model as that run has it'
    )
  positions = 'params/backbone/pos_embed'
  if misfits.get(positions) == 'of another shape':
    there, here = (shape[1] - 1 for shape in (saved[positions][0], arrays[positions].shape))
    raise UserError(
      f'init_from={source} has positions of {there} patches and this model of {here}: set '
      f'model.patch and augment.size as that run has them'
    )
  if len(misfits) == len(arrays):
    raise UserError(
      f'the checkpoint of {source} has no weights in common with this model: give a run with the '
      f'same backbone'
    )
  return misfits


def restore_subtrees(
  path: Workdir | epath.PathLike, names: Sequence[str], step: int | None = None
) -> tuple[int, list[PyTree]]:
  """Restores (step, some subtrees) of a checkpoint on the first device, for any model.

  Args:
    path: workdir of the run.
    names: paths of the subtrees, such as 'params/backbone'; missing ones are {}.
    step: step of the checkpoint; None = the newest good one.

  Raises:
    UserError: no (good) checkpoint, or it has none of the subtrees.
  """
  place = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

  def choose(saved: Mapping[str, Any]) -> PyTree:
    chosen = {
      name: jax.ShapeDtypeStruct(tuple(shape), dtype, sharding=place)
      for name, (shape, dtype) in saved.items()
      if name.startswith(tuple(f'{prefix}/' for prefix in names))
    }
    if not chosen:
      raise UserError(f'the checkpoint of {_place(path)} has no {names[0]}: give another run')
    return _tree(chosen)

  with Checkpoints(path, read_only=True) as checkpoints:
    found, restored = checkpoints.restore_leaves(choose, step)
  subtrees = []
  for name in names:
    tree: Any = restored
    for key in name.split('/'):
      tree = tree.get(key, {})
    subtrees.append(tree)
  return found, subtrees


class Network(NamedTuple):
  """Parts of a `TrainState` for evaluation.

  Attributes:
    step: step of the checkpoint.
    params, state: as in the train state, without tables and queues.
  """

  step: int
  params: Params
  state: State


def restore_network(
  path: Workdir | epath.PathLike, abstract: TrainState, step: int | None = None
) -> Network:
  """Restores parameters, batch statistics and EMA target of a checkpoint.

  Tables, queues, the optimizer, and parameters missing in `abstract` are not read: a run can be
  evaluated without the size and labels of its training set.

  Args:
    path: workdir of the run.
    abstract: shapes, dtypes and shardings.
    step: step of the checkpoint; None = the newest good one.

  Raises:
    UserError: no (good) checkpoint, or a checkpoint of another method or model.
  """
  state = {k: abstract.state[k] for k in _REPRESENTED if k in abstract.state}
  own, arrays = _leaves({'params': abstract.params, 'state': state})
  wanted = describe(_tree(arrays))

  def choose(saved: Mapping[str, Any]) -> PyTree:
    what = f'the checkpoint of {_place(path)}'
    check_same({k: saved[k] for k in wanted if k in saved}, wanted, what)
    return _tree(arrays)

  with Checkpoints(path, read_only=True) as checkpoints:
    step, restored = checkpoints.restore_leaves(choose, step)
  merged = _tree({**own, **traverse_util.flatten_dict(restored, sep='/')})
  return Network(step, merged['params'], merged['state'])


# ---------------------------------------------------------------- leaves
def _leaves(tree: PyTree) -> tuple[dict[str, Any], dict[str, Any]]:
  """{'params/backbone/...': leaf} with and without empty nodes."""
  everything: dict[str, Any] = traverse_util.flatten_dict(tree, keep_empty_nodes=True, sep='/')
  return everything, {k: v for k, v in everything.items() if hasattr(v, 'shape')}


def _tree(leaves: Mapping[str, Any]) -> dict[str, Any]:
  return traverse_util.unflatten_dict(dict(leaves), sep='/')


def _place(path: Workdir | epath.PathLike) -> epath.PathLike:
  """Path without details, for messages."""
  return path.path if isinstance(path, Workdir) else path


def _abstract(array: jax.Array) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=array.sharding)
