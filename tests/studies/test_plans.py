"""Expected costs of runs: those of their own steps, shown, summed up and kept."""

import json
import math
import re

import pytest
from etils import epath

from clr_jax.cli.configs import load_config
from clr_jax.core.errors import UserError
from clr_jax.data.sources import blank
from clr_jax.studies import ledger, pages, plans, tables

PLAN = ledger.Plan(
  *('h200:1', [('sogclr-1', 'sogclr', 'cifar10', 600)], 64, 2**30, 0.5, 2.0),
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


def num_images(data):
  """The number of training images of a run, from the form of its data set."""
  form = blank.blank_name(data.name).partition(':')[2]
  given = {'name': 'x', 'data_dir': None, 'image_size': 8, 'channels': None, 'limit': None}
  parts = data.train_split.split('+')
  return sum(blank.load(form, split=part, **given).num_examples for part in parts)


def checked(plan, runs):
  """Checks that runs of a plan cost what its first run does, and have as many steps as it says."""
  cells = all_runs()
  first = plans.step_key(config_of(cells[tuple(plan.runs[0][:3])]))
  for *place, steps in runs:
    config = config_of(cells[tuple(place)])
    assert plans.step_key(config) == first, f'{place} has another step than {plan.runs[0]}'
    assert config.batch_size == plan.images
    epoch = num_images(config.data) // config.batch_size
    assert steps == round(config.num_epochs * epoch), place


@pytest.mark.parametrize('data', ['cifar10', 'imagenet2012', 'stl10'])
def test_the_first_and_last_runs_of_plans_are_those_of_the_tables(data):
  own = [plan for plan in ledger.packaged(ledger.Plan) if plan.runs[0][2] == data]
  for plan in sorted(own, key=lambda p: -len(p.runs))[:4]:
    checked(plan, [plan.runs[0], plan.runs[-1]])


@pytest.mark.weekly
def test_all_runs_of_plans_are_those_of_the_tables():
  for plan in ledger.packaged(ledger.Plan):
    checked(plan, plan.runs)


@pytest.mark.weekly
def test_every_run_of_every_table_has_a_plan():
  planned = {tuple(run[:3]) for plan in ledger.packaged(ledger.Plan) for run in plan.runs}
  missing = sorted(set(all_runs()) - planned)
  assert not missing, f'clr-jax reproduce {missing[0][0]} --plan=h200:1 --workdir=DIR, then --add'


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
  assert first != key('curvature', **{'telemetry.enabled': 'True'})


def test_costs_are_those_of_the_last_plan():
  cells = tables.cells('sogclr-1', data=['cifar10'])
  newer = PLAN._replace(memory=2**31)
  other = PLAN._replace(target='v5e:2x2', estimated_seconds=None)
  found = plans.costs(cells, [PLAN, newer, other])
  assert [(cell.row, cost.plan, cost.steps) for cell, cost in found] == [
    ('sogclr', newer, 600),
    ('sogclr', other, 600),
  ]
  (_, gpu), (_, tpu) = found
  assert (gpu.least, gpu.estimate) == (5, 20) and math.isnan(tpu.estimate)
  _, *lines = plans.cost_lines(found)
  assert lines[0] == ('sogclr', 'cifar10', 'h200:1', '64', '600', '2.0', '5.0', '20', '32')
  assert lines[1][2:] == ('v5e:2x2', '64', '600', '1.0', '5.0', '', '')


def test_tables_are_summed_up():
  second = PLAN._replace(runs=[('sogclr-1', 'moco', 'cifar10', 6000)], memory=2**32)
  (line,) = plans.summary_lines([PLAN, second])[1:]
  name, target, runs, *costs = line
  assert (name, target) == ('sogclr-1', 'h200:1') and re.fullmatch(r'2 of \d+', runs)
  assert costs == ['1.0 to 4.0', '5.0 to 50', '20 to 200', '3.7']
  tpu = second._replace(target='v5e:2x2', estimated_seconds=None)
  assert re.fullmatch(
    r'0\.3 \(h200:1, 1 of \d+ runs\), no estimate \(v5e:2x2, 1 of \d+ runs\)',
    plans.hours([PLAN, tpu])['sogclr-1'],
  )
  mark = '<!-- ledger: all plans -->\n<!-- end -->\n'
  assert re.search(
    r'\| `sogclr-1` \| `h200:1` \| 1 of \d+ \| 1\.0 \| 5\.0 \| 20 \| 0\.3 \|\n\n'
    r'Compiled until 2030-01-02, 1 programs, revision 0\.1\.0, jax 1\.2\.',
    pages.filled(mark, [PLAN]),
  )
  with pytest.raises(UserError, match="unknown group of plans of a page 'sogclr-1'"):
    pages.filled(mark.replace('all', 'sogclr-1'), [PLAN])


def test_a_later_plan_replaces_only_the_runs_that_it_has(tmp_path):
  path = epath.Path(tmp_path / 'ledger.jsonl')
  first, more = PLAN.runs[0], ('sogclr-1', 'moco', 'cifar10', 5)
  both, again = PLAN._replace(runs=[first, more]), PLAN._replace(memory=2**31)
  ledger.write(path, ledger.merged([both], [again]))
  kept = ledger.read(path)
  assert [[list(run) for run in plan.runs] for plan in kept] == [[list(more)], [list(first)]]
  assert [plan.memory for plan in kept] == [2**30, 2**31]
  assert ledger.merged([again], [both]) == [both]
  elsewhere = again._replace(target='v5e:2x2')
  assert ledger.merged([both], [elsewhere]) == [both, elsewhere]


def test_damaged_plans_are_refused(tmp_path):
  path = epath.Path(tmp_path / 'ledger.jsonl')
  for change in (
    {'runs': []},
    {'runs': [['a', 'b', 'c']]},
    {'runs': [['a', 'b', 'c', -1]]},
    {'runs': [['a', 'b', 'c', 'x']]},
    {'memory': 0},
    {'least_seconds': -1},
  ):
    path.write_text(json.dumps(PLAN._asdict() | change) + '\n')
    with pytest.raises(UserError, match=r'line 1 of .* is not one of a ledger'):
      ledger.read(path)
  ledger.check([PLAN])
  with pytest.raises(UserError, match='sogclr-1 has no run x on cifar10: leave the plan out'):
    ledger.check([PLAN._replace(runs=[('sogclr-1', 'x', 'cifar10', 1)])])
