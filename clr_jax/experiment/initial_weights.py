"""Initial state with the weights of another run, or of another library's file."""

from __future__ import annotations

import jax

from clr_jax.core.types import TrainState
from clr_jax.ops import ema
from clr_jax.rundir.state_dicts import is_weight_file, load_backbone
from clr_jax.rundir.weights import restore_weights


def with_weights_of(other: str, state: TrainState) -> TrainState:
  """Initializes step 0 with the weights and BatchNorm statistics of a run or a file.

  Process 0 prints a sentence about the loaded arrays.

  Args:
    other: workdir of a run, or a file; see `rundir.state_dicts`.
    state: state of step 0; an EMA target starts as a copy of its online network.

  Raises:
    UserError: none of the weights fit.
  """
  if is_weight_file(other):
    host = jax.device_get({'params': state.params, 'stats': state.state['batch_stats']})
    params, stats, report = load_backbone(other, host['params'], host['stats'])
    shardings = jax.tree.map(lambda x: x.sharding, (state.params, state.state['batch_stats']))
    params, stats = jax.device_put((params, stats), shardings)
    method_state = {**state.state, 'batch_stats': stats}
  else:
    params, method_state, report = restore_weights(other, state.params, state.state)
  if jax.process_index() == 0:
    print(report, flush=True)
  if 'target' in method_state:
    online = {'params': params, 'batch_stats': method_state['batch_stats']}
    target = {
      part: {name: ema.copy(online[part][name]) for name in tree}
      for part, tree in method_state['target'].items()
    }
    method_state = {**method_state, 'target': target}
  return state.replace(params=params, state=method_state)
