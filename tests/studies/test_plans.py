"""Expected costs: every run of a table has one, and it is that of its own step."""

import math

import pytest
from etils import epath

from clr_jax.cli.configs import load_config
from clr_jax.core.errors import UserError
from clr_jax.studies import ledger, pages, plans, tables

PLAN = ledger.Plan(
  *('h200:1', [['sogclr-1', 'sogclr', 'cifar10', 600]], 64, 2**30, 0.5, 2.0),
  *('clr-jax reproduce', '0.1.0', {'jax': '1.2'}, '2030-01-02'),
)


def config_of(cell):
  return load_config(cell.spec, (), list(cell.given))[0]


def cell_of(table, row, data):
  (cell,) = tables.cells(table, rows=[row], data=[data])
  return cell


def all_runs():
  cells = [cell for name in tables.names() for cell in tables.cells(name) if not cell.elsewhere]
  return {(cell.table, cell.run, cell.data): cell for cell in cells}


def checked(plan, runs):
  """Checks that the runs of a plan have its step, and as many steps as the plan says."""
  cells = all_runs()
  first = plans.step_key(config_of(cells[tuple(plan.runs[0][:3])]))
  counts = {}
  for *place, steps in runs:
    config = config_of(cells[tuple(place)])
    assert plans.step_key(config) == first, f'{place} has another step than {plan.runs[0]}'
    assert config.batch_size == plan.images
    counts[steps / config.num_epochs] = place
  assert max(counts) - min(counts) < 1, f'steps of an epoch: {counts}'


@pytest.mark.parametrize('data', ['cifar10', 'imagenet2012', 'stl10'])
def test_the_last_run_of_a_plan_has_the_step_of_its_first(data):
  own = [plan for plan in ledger.packaged(ledger.Plan) if plan.runs[0][2] == data]
  for plan in sorted(own, key=lambda p: -len(p.runs))[:4]:
    checked(plan, [plan.runs[-1]])


@pytest.mark.weekly
def test_all_runs_of_a_plan_have_one_step():
  for plan in ledger.packaged(ledger.Plan):
    checked(plan, plan.runs)


def test_only_numbers_that_are_not_zero_may_differ_in_a_step():
  def key(row, data='cifar10', table='margins-3-moco_v3', **given):
    cell = cell_of(table, row, data)
    return plans.step_key(load_config(cell.spec, (), [*cell.given, *given.items()])[0])

  first = key('curvature')
  assert first == key('curvature', 'cifar100') == key('curvature', num_epochs='3', seed='5')
  assert first == key('curvature', **{'optimizer.learning_rate': '0.1'})
  assert len({first, key('none'), key('margin'), key('curvature', 'stl10')}) == 4
  assert first != key('curvature', batch_size='128')
  assert first != key('curvature', **{'optimizer.weight_decay': '0'})


def test_costs_are_those_of_the_newest_plan():
  cells = tables.cells('sogclr-1', data=['cifar10'])
  newer = PLAN._replace(memory=2**31, time='2030-01-03')
  other = PLAN._replace(target='v5e:2x2', estimated_seconds=None)
  found = plans.costs(cells, [newer, PLAN, other])
  assert [(cell.row, cost.plan, cost.steps) for cell, cost in found] == [
    ('sogclr', newer, 600),
    ('sogclr', other, 600),
  ]
  (_, gpu), (_, tpu) = found
  assert (gpu.least, gpu.estimate) == (5, 20) and math.isnan(tpu.estimate)
  _, *lines = plans.cost_lines(found)
  assert lines[0] == ('sogclr', 'cifar10', 'h200:1', '64', '600', '2.0', '5.0', '20')
  assert lines[1][2:] == ('v5e:2x2', '64', '600', '1.0', '5.0', '')


def test_tables_are_summed_up():
  second = PLAN._replace(runs=[['sogclr-1', 'moco', 'cifar10', 6000]], memory=2**32)
  assert plans.summary_lines([PLAN, second])[1:] == [
    ('`sogclr-1`', '`h200:1`', '2', '1.0 to 4.0', '5.0 to 50', '20 to 200', '3.7')
  ]
  assert plans.hours([PLAN, second._replace(target='h200:8')]) == {
    'sogclr-1': '0.3 (h200:1), 3.3 (h200:8)'
  }
  text = pages.filled('<!-- ledger: all plans -->\n<!-- end -->\n', [PLAN])
  assert '| `sogclr-1` | `h200:1` | 1 | 1.0 | 5.0 | 20 | 0.3 |\n\n1 programs, compiled' in text


def test_plans_are_lines_of_a_ledger(tmp_path):
  path = epath.Path(tmp_path / 'ledger.jsonl')
  ledger.write(path, [PLAN._replace(time='2029'), PLAN])
  assert ledger.read(path) == [PLAN]
  ledger.check([PLAN])
  with pytest.raises(UserError, match='sogclr-1 has no run x on cifar10: leave the plan out'):
    ledger.check([PLAN._replace(runs=[['sogclr-1', 'x', 'cifar10', 1]])])
