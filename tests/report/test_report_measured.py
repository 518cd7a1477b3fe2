"""The HTML report of runs without networks: what was measured, what is missing, what is refused."""

import base64
import io
import json
import re
import sys

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from clr_jax.cli import main as cli
from clr_jax.core.errors import UserError
from clr_jax.report import page, render_html, report, sections, tables
from clr_jax.rundir.reader import Run
from tests.figures.run_files import add_result, write_run
from tests.report.report_page import browse, make, needs_browser

go = pytest.importorskip('plotly.graph_objects')

NASTY = '<img src=x onerror=alert(1)>&"'


# ---------------------------------------------------------------- what is missing
def test_every_missing_part_is_named(tmp_path):
  write_run(tmp_path / 'begun')
  found = make([tmp_path / 'begun'], tmp_path / 'r.html')
  for words in (
    'the number of training images is not recorded',
    'begun has no metrics',
    'begun has no telemetry',
    'begun has no results',
    'has no embedding: ',
    'has no checkpoints',
    'no run has results of several checkpoints',
    'begun has no results with few labels',
    'no attack was measured',
    'has no parameters.txt',
    'only results record it',
  ):
    assert words in found.text, words
  assert found.data['figures'] == {} and found.images == []


def test_interrupted_run_and_one_that_diverged(tmp_path):
  losses = {4: 1.0, 8: float('nan'), 12: 2.0}
  rows = {step: {'loss': x, 'samples_per_second': 64.0} for step, x in losses.items()}
  write_run(tmp_path / 'run', rows, images=1437)
  (tmp_path / 'run' / 'checkpoints' / '6').mkdir(parents=True)
  found = make([tmp_path / 'run'], tmp_path / 'r.html')
  assert 'interrupted, or still running: step 12 of 22' in found.texts
  loss = found.data['figures']['curve-loss']
  assert loss['traces'][0]['y'] == [1, None, 2] and '1 values that are not finite' in loss['note']
  assert found.data['runs'][0]['checkpoints'] == [6]
  assert found.data['runs'][0]['training_seconds'] == 12  # steps of one second


def test_a_section_that_fails_leaves_the_others(tmp_path, monkeypatch):
  run = write_run(tmp_path / 'run')
  monkeypatch.setattr('clr_jax.report.tables.environment', lambda _: 1 / 0)
  found = make([run], tmp_path / 'r.html')
  assert 'This section could not be made: ' in found.text and 'method.temperature' in found.texts


def test_figures_of_a_section_that_fails_are_not_drawn(tmp_path, monkeypatch):
  run = write_run(tmp_path / 'run', {4: {'loss': 1.0}})

  def draw_and_fail(content, panels, prefix):
    render_html.add_panels(content, panels, prefix)
    return 1 / 0

  monkeypatch.setattr(sections, 'add_panels', draw_and_fail)
  assert make([run], tmp_path / 'r.html').data['figures'] == {}


def test_refusals(tmp_path, monkeypatch, capsys):
  run = write_run(tmp_path / 'run')
  with pytest.raises(UserError, match=r'must end with \.html'):
    report([run], str(tmp_path / 'report'))
  with pytest.raises(UserError, match='nothing is not a run'):
    report([str(tmp_path / 'nothing')], str(tmp_path / 'r.html'))
  found = make([tmp_path / 'nothing', run], tmp_path / 'r.html')
  assert 'nothing is not a run' in capsys.readouterr().out and 'nothing is not a run' in found.text
  monkeypatch.setitem(sys.modules, 'plotly.offline', None)
  with pytest.raises(UserError, match=r"pip install 'clr-jax\[report\]'"):
    report([run], str(tmp_path / 's.html'))


def test_command_line(tmp_path, capsys):
  run = write_run(tmp_path / 'run')
  cli.main(['clr-jax', 'report', f'--workdir={run}', f'--out={tmp_path / "a" / "r.html"}'])
  lines = capsys.readouterr().out.split()
  assert lines == [str(tmp_path / 'a' / 'r.html'), str(tmp_path / 'a' / 'r.json')]
  with pytest.raises(SystemExit) as ended:
    cli.main(['clr-jax', 'report'])
  assert '--workdir' in capsys.readouterr().err
  assert ended.value.code == 2


# ---------------------------------------------------------------- several runs, what was measured
@pytest.fixture
def measured(tmp_path):
  """Two runs without networks; the name of one is HTML."""
  rng = np.random.default_rng(0)
  found = []
  for name, seed in (('a', 0), (NASTY, 1)):
    run = write_run(tmp_path / name, method='simclr', seed=seed)
    for draw, value in enumerate(0.5 + 0.1 * rng.random(4) + seed / 10):
      params = {'solver': 'lbfgs', 'label_fraction': 0.1, 'num_labels': 143, 'draw': draw}
      add_result(run, 'linear', 'top1', float(value), params)
    distance = np.where(rng.random(50) < 0.2, np.inf, rng.random(50))
    distance[:5] = 0
    params = {'attack': 'plb_l2', 'norm': 'l2', 'num_images': 50, 'outer': 3, 'inner': 2}
    arrays = {'distance': distance}
    add_result(run, 'robustness', 'median_distance', 0.5, params, arrays=arrays)
    table = rng.random((2, 3))
    arrays = {'family': np.array(['fog', 'snow']), 'level': np.arange(1, 4), 'top1': table}
    arrays['clean'] = np.array(0.9)
    params = {'attack': 'corruptions', 'num_images': 50}
    add_result(run, 'robustness', 'mean_corrupted_top1', 0.5, params, arrays=arrays)
    found.append((run, distance, table))
  return found


def test_measured_figures(tmp_path, measured):
  found = make([run for run, _, _ in measured], tmp_path / 'r.html')
  figures = found.data['figures']
  for i, (run, distance, table) in enumerate(measured):
    error = figures['plb_l2-robust-error']['traces'][i]
    expected = [(distance <= x).mean() for x in error['x']]
    off = (
      np.abs(100 * np.array(expected) - error['y']) > 1e-4
    )  # x has 7 digits: a step may lie there
    assert off.sum() <= 1 and error['y'][0] == 10
    kept = distance[(distance > 0) & np.isfinite(distance)]
    paper = figures['plb_l2-report-s-convention']['traces'][i]
    assert np.isclose(paper['y'][100] / 100, (kept < paper['x'][100]).mean())
    mean = figures['corruptions-mean-without-the-families']['traces'][i]
    np.testing.assert_allclose(mean['y'], 100 * np.array([0.9, *table.mean(0)]), rtol=1e-6)
    snow = figures['corruptions-snow']['traces'][i]
    np.testing.assert_allclose(snow['y'], 100 * np.array([0.9, *table[1]]), rtol=1e-6)
    values = [r['value'] for r in Run(run).results if r['protocol'] == 'linear']
    few = figures['few-label-accuracy-with-few-labels']['traces'][i]
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    np.testing.assert_allclose(few['y'], [100 * np.mean(values)], rtol=1e-6)
    np.testing.assert_allclose(few['error_y']['array'], [50 * (high - low)], rtol=1e-5)
    assert f'{100 * np.mean(values):.2f} ± {50 * (high - low):.2f} % (n=4)' in found.texts
  for figure in figures.values():
    go.Figure({'data': figure['traces'], 'layout': figure['layout']})
  assert len({trace['line']['color'] for trace in figures['plb_l2-robust-error']['traces']}) == 2


def test_results_of_several_checkpoints_are_drawn_against_epochs(tmp_path):
  run = write_run(tmp_path / 'run', images=1437)  # 22 steps an epoch
  for step, value in ((11, 0.5), (44, 0.75)):
    add_result(run, 'knn', 'top1', value, {'k': 5}, step=step)
  figures = make([run], tmp_path / 'r.html').data['figures']
  ((name, figure),) = [(n, f) for n, f in figures.items() if n.startswith('trajectory-knn')]
  (trace,) = figure['traces']
  assert (figure['x'], trace['x'], trace['y']) == ('epoch', [0.5, 2], [50, 75])
  assert name == 'trajectory-knn-knn-k-5'


def test_texts_of_runs_are_escaped_and_differing_keys_come_first(tmp_path, measured):
  found = make([run for run, _, _ in measured], tmp_path / 'r.html')
  assert NASTY in found.texts
  assert not [attrs for tag, attrs in found.tags if 'onerror' in attrs or attrs.get('src')]
  keys = re.findall(
    r'<th scope="row">([^<]+)</th>',
    (tmp_path / 'r.html').read_text().split('id="configuration"')[1],
  )
  assert (
    keys[0] == 'seed'
    and sorted(keys[1 : keys.index('optimizer.name')]) == keys[1 : keys.index('optimizer.name')]
  )


def test_long_series_are_thinned():
  points = render_html.thinned_rows(12_345, 1000)
  assert len(points) == len(set(points)) == 1000 and points[0] == 0 and points[-1] == 12_344
  gaps = np.diff(points)
  assert gaps.max() - gaps.min() <= 1
  assert list(render_html.thinned_rows(3, 1000)) == [0, 1, 2]


def test_images_stay_small():
  noise = np.random.default_rng(0).integers(0, 256, (224, 200, 3)).astype(np.uint8)
  uri = render_html.thumbnail(noise)
  picture = Image.open(io.BytesIO(base64.b64decode(uri.partition(',')[2])))
  assert picture.size == (29, 32) and picture.mode == 'RGB'
  # plotly.js, 1,000 images of the worst kind, and room for the figures
  assert len(page.plotly_javascript()) + sections.ALL_IMAGES * 4.3e3 < 9.5e6
  assert len(uri) < 4.3e3


@pytest.mark.slow
@needs_browser
def test_browser_shows_names_as_they_are(tmp_path, measured):
  make([run for run, _, _ in measured], tmp_path / 'r.html')
  found, dom = browse(tmp_path / 'r.html', 1400)
  assert found['drawn'] and min(found['marks']) > 0
  assert any(text.startswith(NASTY) for text in found['legend'])
  assert 'src="x"' not in dom


@pytest.mark.parametrize(
  ('version', 'own', 'other'),
  [
    ('0.1.0+gabc', '0.1.0+gabc', False),
    ('0.1.0', '0.1.0+gabc', False),  # an installed package does not know its commit
    ('0.1.0+gdef', '0.1.0', False),
    ('0.1.0+gdef', '0.1.0+gabc', True),
    ('0.2.0', '0.1.0', True),
    ('unknown', '0.1.0+gabc', True),
  ],
)
def test_the_same_code_is_no_other_version(tmp_path, monkeypatch, version, own, other):
  directory = write_run(tmp_path / 'a')
  path = tmp_path / 'a' / 'config.json'
  path.write_text(json.dumps(json.loads(path.read_text()) | {'code_version': version}))
  monkeypatch.setattr(tables, 'code_version', lambda: own)
  html = tables.overview([Run(directory)], [])
  assert ('trained by another version' in html) == other
