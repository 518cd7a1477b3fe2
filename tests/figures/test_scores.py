"""`clr-jax inspect scores`: the numbers of its pictures, and what it says is missing."""

import jax
import numpy as np
import pytest

from clr_jax.core.errors import UserError
from clr_jax.core.types import Out
from clr_jax.figures.drawing.draw import draw_figure
from clr_jax.figures.scores import scores
from clr_jax.losses.scores import queue_scores, score_sets
from clr_jax.rundir.reader import read_runs
from clr_jax.wrappers import telemetry as _telemetry
from tests.cli.calling import call
from tests.figures.run_files import read_csv, write_run

TAU = 0.2
EDGES = np.linspace(-0.5, 0.75, 11)
OPTIONS = {
  'telemetry.enabled': True,
  'telemetry.bins': 10,
  'telemetry.lowest': -0.5,
  'telemetry.highest': 0.75,
}


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)


def embeddings(seed):
  """(queries [8, D], keys [8, D], queue [20, D]) of unit rows; the keys lie near the queries."""
  rng = np.random.default_rng(seed)
  query = rng.normal(size=(8, 5))
  parts = query, query + 0.5 * rng.normal(size=query.shape), rng.normal(size=(20, 5))
  return [(x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32) for x in parts]


@jax.jit
def _measure(query, key, queue):
  sets = score_sets(queue_scores(query[:, None], key[:, None], queue), temperature=TAU)
  found = _telemetry.of_embeddings(Out(online=query[:, None], target=key[:, None]))
  return {**found, **_telemetry.of_scores(sets, EDGES)}


def measured(query, key, queue):
  """The row that telemetry writes of one step with these embeddings."""
  found = _measure(query, key, queue)
  values = {k: v.tolist() if k.endswith('_hist') else float(v) for k, v in found.items()}
  return {'loss': 1.0, **{f'telemetry/{k}': v for k, v in values.items()}, 'telemetry/steps': 1.0}


def by_hand(query, key, queue):
  """The same in numpy, from the definitions."""
  query, key, queue = (np.asarray(x, np.float64) for x in (query, key, queue))
  negative, positive = query @ queue.T, (query * key).sum(1)
  share = np.exp(positive / TAU) / (np.exp(positive / TAU) + np.exp(negative / TAU).sum(1))
  pushes = np.exp(negative / TAU) / np.exp(positive / TAU)[:, None] * share[:, None]
  distance = ((query[:, None] - query[None]) ** 2).sum(-1)[~np.eye(len(query), dtype=bool)]
  return {
    'neg_mean': negative.mean(),
    'neg_var': negative.var(1, ddof=1).mean(),
    'pos_mean': positive.mean(),
    'pos_var': positive.var(),
    'exp_neg': np.exp(negative / TAU).mean(),
    'exp_pos': np.exp(positive / TAU).mean(),
    'positive_response': (1 - share).mean(),
    'negative_response': pushes.mean(),
    'alignment': ((query - key) ** 2).sum(1).mean(),
    'uniformity': np.log(np.exp(-2 * distance).mean()),
    'temperature': TAU,
  }


def write(path, rows=(), method='moco', **changes):
  return write_run(path, rows, method, **OPTIONS, **changes)


def run(path, steps, draw=0, **changes):
  return write(path, {step: measured(*embeddings([draw, step])) for step in steps}, **changes)


def numbers(directories, name, **options):
  """The rows of one figure's table, without drawing it."""
  found = scores(read_runs(directories)[0], **options)
  (table,) = (figure.tables[''] for figure in found.drawn if figure.name == name)
  return [dict(zip(table.header, row, strict=True)) for row in table.rows]


# ---------------------------------------------------------------- numbers
def test_series_are_those_of_the_embeddings(tmp_path):
  steps = (4, 8, 12)
  runs = [run(tmp_path / name, steps, seed) for seed, name in enumerate('ab')]
  found = {(r['run'], r['metric'], r['step']): r['value'] for r in numbers(runs, 'series')}
  assert len(found) == 2 * 3 * 11
  for seed, name in enumerate('ab'):
    for step in steps:
      for key, value in by_hand(*embeddings([seed, step])).items():
        np.testing.assert_allclose(found[name, f'telemetry/{key}', step], value, rtol=2e-5)


@pytest.mark.slow
def test_histograms_are_those_of_the_embeddings(tmp_path):
  steps = range(4, 44, 4)
  written = draw_figure('scores', [run(tmp_path / 'a', steps)], 'x.png', ridges=4)
  assert [p.name for p in written] == [
    *('x-series.png', 'x-series.csv'),
    *('x-histograms.png', 'x-histograms.csv'),
  ]
  rows = read_csv('x-histograms.csv')
  assert sorted({int(r['step']) for r in rows}) == [4, 16, 28, 40]
  for step in (4, 40):
    query, key, queue = embeddings([0, step])
    for kind, values in (('neg', query @ queue.T), ('pos', (query * key).sum(1))):
      mine = [r for r in rows if int(r['step']) == step and r['kind'] == kind]
      inside = np.histogram(values, EDGES)[0]
      expected = [(values < EDGES[0]).sum(), *inside, (values > EDGES[-1]).sum()]
      assert [int(r['count']) for r in mine] == expected
      np.testing.assert_allclose([float(r['lower']) for r in mine], [-np.inf, *EDGES])
      np.testing.assert_allclose([float(r['upper']) for r in mine], [*EDGES, np.inf])


def test_stacked_values_are_means_of_the_end(tmp_path):
  steps = range(4, 44, 4)
  runs = [
    run(tmp_path / f'm{m}-{seed}', steps, seed, **{'method.momentum': m, 'seed': seed})
    for m in (0.9, 0.0)
    for seed in (0, 1)
  ]
  found = numbers(runs, 'stacked', last=0.3)
  rows = [r for r in found if r['metric'] == 'telemetry/neg_var']
  assert [(r['run'], r['method.momentum']) for r in rows] == [
    *(('m0.9-0', 0.9), ('m0.9-1', 0.9)),
    *(('m0.0-0', 0.0), ('m0.0-1', 0.0)),
  ]
  for seed, row in zip((0, 1, 0, 1), rows, strict=True):
    ends = [by_hand(*embeddings([seed, step]))['neg_var'] for step in (32, 36, 40)]
    np.testing.assert_allclose(row['mean'], np.mean(ends), rtol=1e-5)
    np.testing.assert_allclose(row['std'], np.std(ends), rtol=1e-3)
    assert row['rows'] == 3


@pytest.mark.parametrize(
  ('changes', 'key'),
  [
    ({'sam.name': 'sam'}, 'sam.name'),
    ({'probe.enabled': False, 'seed': 1}, 'probe.enabled'),
    ({'log_every': 2, 'seed': 3}, None),
    ({'method.momentum': 0.5, 'batch_size': 32}, None),
  ],
)
def test_the_key_to_stack_by_is_found(tmp_path, changes, key):
  runs, _ = read_runs([run(tmp_path / 'a', (4,)), run(tmp_path / 'b', (4,), **changes)])
  found = scores(runs)
  stacked = [figure.tables[''].header[1] for figure in found.drawn if figure.name == 'stacked']
  assert stacked == ([] if key is None else [key])
  if key is None:
    words = 'in batch_size, method.momentum;' if 'batch_size' in changes else 'in no key;'
    assert words in found.missing[0]


def test_one_of_several_keys_is_chosen(tmp_path):
  changes = {'method.momentum': 0.5, 'batch_size': 32}
  runs = [run(tmp_path / 'a', (4,)), run(tmp_path / 'b', (4,), **changes)]
  assert {r['batch_size'] for r in numbers(runs, 'stacked', by='batch_size')} == {64, 32}


# ---------------------------------------------------------------- what is missing
def test_missing_parts_are_named_and_the_rest_is_drawn(tmp_path, capsys):
  byol = {4: {'loss': 1.0, 'telemetry/alignment': 0.5, 'telemetry/uniformity': -1.0}}
  runs = [
    run(tmp_path / 'short', (4,)),
    write(tmp_path / 'plain', {4: {'loss': 1.0}}),
    write(tmp_path / 'byol', byol, method='byol'),
    write(tmp_path / 'empty'),
    str(tmp_path / 'nothing'),
  ]
  assert call('inspect', 'scores', *(f'--workdir={r}' for r in runs)) == 0
  out = capsys.readouterr().out
  for line in ('plain has no telemetry', 'empty has no telemetry', 'nothing is not a run'):
    assert f'{line}' in out
  assert 'left out: scores of byol: byol compares no negatives' in out
  names = {(r['run'], r['metric']) for r in read_csv('scores-series.csv')}
  assert {metric for name, metric in names if name == 'byol'} == {
    *('telemetry/alignment', 'telemetry/uniformity'),
  }
  assert {r['run'] for r in read_csv('scores-histograms.csv')} == {'short'}


def test_histograms_of_other_bins_are_left_out(tmp_path):
  rows = {4: measured(*embeddings(0)), 8: measured(*embeddings(1))}
  rows[4]['telemetry/neg_hist'] = [1.0] * 7
  runs = [write(tmp_path / 'a', rows)]
  assert '1 histograms of a, which have other bins' in scores(read_runs(runs)[0]).missing
  assert {r['step'] for r in numbers(runs, 'histograms')} == {8}


@pytest.mark.slow
def test_not_finite_values_are_drawn_around(tmp_path):
  rows = {step: measured(*embeddings(step)) for step in (4, 8, 12)}
  rows[8]['telemetry/neg_var'] = float('nan')
  rows[12]['telemetry/exp_neg'] = float('inf')
  runs = [write(tmp_path / str(i), rows, batch_size=8 * (i + 1)) for i in range(2)]
  draw_figure('scores', runs, 'x.png', last=1.0)
  values = {r['metric']: r['value'] for r in read_csv('x-series.csv') if r['step'] == '8'}
  assert values['telemetry/neg_var'] == 'nan'
  means = {r['metric']: (float(r['mean']), r['rows']) for r in read_csv('x-stacked.csv')}
  expected = np.mean([rows[step]['telemetry/neg_var'] for step in (4, 12)])
  np.testing.assert_allclose(means['telemetry/neg_var'][0], expected, rtol=1e-6)
  assert means['telemetry/exp_neg'][1] == '2'


def test_tables_and_tcl_denominators_have_their_metrics(tmp_path):
  row = measured(*embeddings(0))
  row |= {'telemetry/log_u_mean': 2.0, 'telemetry/log_u_std': 0.5}
  row |= {'telemetry/positive_response_tcl': 0.1, 'telemetry/negative_response_tcl': 0.2}
  rows = {4: row, 6: {'rankme': 3.0}}
  runs = [write(tmp_path / 'a', rows, method='sogclr')]
  found = {r['metric']: r['value'] for r in numbers(runs, 'series')}
  assert found['telemetry/log_u_mean'] == 2 and found['telemetry/log_u_std'] == 0.5
  assert found['telemetry/positive_response_tcl'] == 0.1 and found['rankme'] == 3
  assert 'telemetry/steps' not in found  # how many steps were measured


@pytest.mark.parametrize(
  ('arguments', 'words'),
  [
    (['--params.by=method.momentun'], ['method.momentun', 'method.momentum']),
    (['--params.by=batch_size'], ['batch_size is 64 in every run']),
    (['--params.last=0'], ['last=0']),
    (['--params.ridges=0'], ['ridges=0']),
    (['--params.rigdes=3'], ['rigdes', 'ridges']),
  ],
)
def test_bad_options_are_refused(tmp_path, capsys, nothing_compiles, arguments, words):
  runs = [write(tmp_path / name, {4: {'telemetry/alignment': 1.0}}) for name in 'ab']
  assert call('inspect', 'scores', *(f'--workdir={r}' for r in runs), *arguments) == 2
  err = capsys.readouterr().err
  assert err.count('\n') == 1 and all(word in err for word in words), err
  assert not list(tmp_path.glob('*.png'))


def test_runs_without_anything_to_draw_are_refused(tmp_path):
  with pytest.raises(UserError, match=r'no telemetry.*telemetry\.enabled=True'):
    draw_figure('scores', [write(tmp_path / 'plain', {4: {'loss': 1.0}})], 'x.png')
