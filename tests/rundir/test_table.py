"""Tables of results for the terminal."""

from clr_jax.rundir.table import format_table


def _record(**params):
  return {
    'protocol': 'linear',
    'params': params,
    'features': 'untrained',
    'metric': 'top1',
    'value': 0.5,
    'step': 400,
  }


def test_long_params_continue_on_further_lines():
  long = dict(learning_rate=0.03125, momentum=0.9, weight_decay=0.0001, batch_size=1024, epochs=90)
  records = [
    _record(solver='sgd', label_fraction=0.01, **long),
    _record(solver='lbfgs', label_fraction=0.01, **{name: 7 for name in long}),
  ]
  table = format_table(records)
  lines = table.splitlines()
  assert max(map(len, lines)) <= 100
  shown = table.split()
  assert all(f'{name}={value:g}' in shown and f'{name}=7' in shown for name, value in long.items())
  start = lines[0].index('params')
  assert [line[:start].split() for line in lines if line[:start].strip()] == [
    ['protocol'],
    ['linear'],
    ['linear'],
  ]


def test_short_params_stay_on_one_line():
  assert len(format_table([_record(k=5), _record(k=20)]).splitlines()) == 3
