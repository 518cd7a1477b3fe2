"""How the steps of a run are grouped into dispatches."""

from hypothesis import given
from hypothesis import strategies as st

from clr_jax.training.cadence import Cadence, plan

cadences = st.builds(Cadence, st.integers(0, 9), st.integers(0, 30), st.integers(0, 30))


def steps_of(calls):
  return [step + i for step, count in calls for i in range(count)]


@given(st.integers(0, 80), st.integers(0, 80), cadences, st.integers(1, 12))
def test_plan_covers_every_step_once_and_no_cadence_inside(first, last, cadence, size):
  calls = list(plan(first, last, cadence, size))
  assert steps_of(calls) == list(range(first, last))
  assert {count for _, count in calls} <= {1, size}
  for step, count in calls:
    for period in filter(None, cadence):
      assert all(inner % period for inner in range(step + 1, step + count))


@given(st.integers(1, 80), cadences, st.integers(1, 12), st.data())
def test_plan_does_not_depend_on_where_a_run_was_resumed(last, cadence, size, data):
  calls = list(plan(0, last, cadence, size))
  position = data.draw(st.integers(0, len(calls) - 1))
  assert list(plan(calls[position][0], last, cadence, size)) == calls[position:]


@given(st.integers(1, 60), st.integers(0, 60), cadences, st.integers(1, 12))
def test_plan_of_a_longer_run_goes_on_where_the_shorter_one_ended(last, more, cadence, size):
  """`stop_at_epoch` raised: the remainder of the cut dispatch is done in single steps."""
  calls = [*plan(0, last, cadence, size), *plan(last, last + more, cadence, size)]
  assert steps_of(calls) == list(range(last + more))
