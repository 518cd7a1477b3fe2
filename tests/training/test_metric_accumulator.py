"""Rows of the log: reductions of metrics, exact over dispatches, interruptions and checkpoints."""

import math

import jax
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from clr_jax.core.metrics import Mean, Sum
from clr_jax.rundir.checkpoint import Checkpoints
from clr_jax.training.metric_accumulator import MetricAccumulator
from tests.rundir.states import make_state

values = st.floats(-1e6, 1e6, width=32)
any_values = st.one_of(values, st.sampled_from([math.inf, -math.inf, math.nan]))


@settings(deadline=None, max_examples=30)
@given(st.lists(any_values, min_size=1, max_size=12), st.data())
def test_rows_do_not_depend_on_dispatches_or_interruptions(losses, data):
  expected = MetricAccumulator()
  for loss in losses:
    expected.add({'loss': np.float32([loss])})
  accumulated, rest = MetricAccumulator(), losses
  while rest:
    count = data.draw(st.integers(1, len(rest)))
    accumulated.add({'loss': np.float32(rest[:count])})
    rest = rest[count:]
    if data.draw(st.booleans()):
      accumulated = MetricAccumulator.restored(accumulated.stored())
  np.testing.assert_equal(accumulated.row(), expected.row())
  if np.isfinite(losses).all():
    assert math.isclose(accumulated.row()['loss'], np.mean(losses), rel_tol=1e-9, abs_tol=1e-9)
  accumulated.clear()
  assert accumulated.row() == {} and accumulated.stored() == {}


def test_a_checkpoint_holds_them_to_the_bit(tmp_path):
  steps = {
    'loss': np.float32([[1.1], [2.5]]),
    'least': np.float32([[-math.inf], [3.0]]),
    'both': np.float32([[math.inf], [-math.inf]]),
    'rare': Mean(np.float32([[0.0], [0.3]]), np.float32([[0], [1]])),
    'counts': Sum(np.float32([[[0.1, math.inf]], [[2.0, 3.0]]]), np.float32([[1], [1]])),
  }
  expected, accumulated = MetricAccumulator(), MetricAccumulator()
  for i in range(2):
    step = jax.tree.map(lambda x, i=i: x[i], steps)
    expected.add(step)
    accumulated.add(step)
    with Checkpoints(tmp_path) as checkpoints:
      checkpoints.save(i, make_state(), window=accumulated.stored())
    with Checkpoints(tmp_path) as checkpoints:
      accumulated = MetricAccumulator.restored(checkpoints.window(i))
  row = accumulated.row()
  np.testing.assert_equal(row, expected.row())
  assert row['least'] == -math.inf and math.isnan(row['both']) and row['rare'] == np.float32(0.3)
  assert row['counts'] == [float(np.float32(0.1)) + 2.0, math.inf]


def test_telemetry_counts_in_its_own_steps_over_dispatches_and_interruptions():
  """Steps 0 and 3 of 4 are measured; zeros of the others do not count."""
  on, counts = np.float32([1, 0, 0, 1]), np.int32([[1, 2], [0, 0], [0, 0], [30, 4]])
  block = {
    'loss': np.float32([1, 2, 3, 4]),
    'telemetry/steps': Sum(on, on),
    'telemetry/neg_var': Mean(on * np.float32([5, 0, 0, 7]), on),
    'telemetry/neg_hist': Sum(counts, on),
  }
  accumulated = MetricAccumulator()
  for steps in (slice(0, 2), slice(2, 3), slice(3, 4)):
    accumulated.add(jax.tree.map(lambda x, steps=steps: x[steps], block))
    if steps.start == 2:
      assert accumulated.row()['telemetry/neg_var'] == 5
    accumulated = MetricAccumulator.restored(accumulated.stored())
  assert accumulated.row() == {
    'loss': 2.5,
    'telemetry/steps': 2.0,
    'telemetry/neg_var': 6.0,
    'telemetry/neg_hist': [31.0, 6.0],
  }
  accumulated.clear()
  accumulated.add(jax.tree.map(lambda x: x[1:3], block))
  assert accumulated.row() == {'loss': 2.5}
