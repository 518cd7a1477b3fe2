"""The HTML report of a trained run: its numbers are the run's, and a browser draws it."""

import base64
import io
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from clr_jax import data
from clr_jax.experiment.config_files import load
from clr_jax.rundir.reader import Run
from clr_jax.training import loop as train
from tests.figures.run_files import TINY
from tests.report.report_page import browse, make, needs_browser

go = pytest.importorskip('plotly.graph_objects')
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group('report')]  # one run, trained once


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  config = load(f'{TINY}:simclr')
  with config.unlocked():
    config.telemetry.enabled = True
    config.telemetry.every = 2
    config.num_epochs = 0.5
  directory = tmp_path_factory.mktemp('report') / 'trained'
  train.train(config, str(directory))
  return directory


@pytest.fixture(scope='module')
def page_of_trained(trained):
  return make([trained], trained.parent / 'report.html')


# ---------------------------------------------------------------- the page
def test_page_is_one_file_without_links_to_elsewhere(page_of_trained, trained):
  found = page_of_trained
  assert (trained.parent / 'report.html').stat().st_size < 6e6
  assert (trained.parent / 'report.json').stat().st_size < 2e5
  for tag, attrs in found.tags:
    assert tag not in ('link', 'iframe', 'object', 'base')
    for key in ('src', 'href', 'srcset', 'action', 'data'):
      assert attrs.get(key, '#').startswith(('#', 'data:image/png;base64,')), (tag, attrs)
  policy = next(a['content'] for t, a in found.tags if a.get('http-equiv'))
  assert policy.startswith("default-src 'none'") and 'http' not in policy
  ids = found.ids()
  assert len(set(ids)) == len(ids)
  links = {attrs['href'][1:] for tag, attrs in found.tags if tag == 'a'}
  assert links == {attrs['id'] for tag, attrs in found.tags if tag == 'section'}
  assert {'overview', 'results', 'curves', 'telemetry', 'embedding', 'configuration'} <= links
  assert [tag for tag, _ in found.tags].count('caption') == [t for t, _ in found.tags].count(
    'table'
  )


def test_plotly_knows_every_option(page_of_trained):
  figures = page_of_trained.data['figures']
  assert len(figures) > 15
  for name, figure in figures.items():
    go.Figure({'data': figure['traces'], 'layout': figure['layout']})
    assert figure['title'] and figure['x'] and figure['y'] and name in page_of_trained.ids()


def test_curves_are_the_metrics(page_of_trained, trained):
  run = Run(trained)
  figures = page_of_trained.data['figures']
  for name, metric in {
    'curve-loss': 'loss',
    'curve-online-knn-accuracy': 'online_knn_top1',
    'curve-learning-rate': 'learning_rate',
    'telemetry-variance-of-positive-scores': 'telemetry/pos_var',
    'telemetry-gradient-norm-backbone': 'telemetry/grad_norm/backbone',
  }.items():
    (trace,) = figures[name]['traces']
    steps, values = run.series(metric)
    assert steps and trace['x'] == steps
    unit = 100 if metric == 'online_knn_top1' else 1
    np.testing.assert_allclose(trace['y'], unit * np.array(values), rtol=1e-6)
  drawn = sum(
    len(f['traces']) for n, f in figures.items() if n.startswith(('curve-', 'telemetry-'))
  )
  metrics = {key for row in run.metrics for key in row} - {'step', 'time', 'telemetry/steps'}
  assert drawn == len([name for name in metrics if len(set(run.series(name)[1])) > 1])


def test_heat_map_has_the_shares(page_of_trained, trained):
  rows = [row for row in Run(trained).metrics if 'telemetry/neg_hist' in row]
  (trace,) = page_of_trained.data['figures']['heat-trained-negative-scores']['traces']
  counts = np.array([row['telemetry/neg_hist'] for row in rows])
  share = (counts / counts.sum(1, keepdims=True)).T
  keep = slice(0 if share[0].any() else 1, None if share[-1].any() else -1)
  np.testing.assert_allclose(trace['z'], share[keep], rtol=1e-6)
  assert trace['x'] == [row['step'] for row in rows]
  inner = np.linspace(-1, 1, 41)
  assert len(trace['y']) == len(trace['z']) + 1 and set(np.round(inner, 5)) <= set(
    np.round(trace['y'], 5)
  )


def test_points_have_their_images(page_of_trained):
  figure = page_of_trained.data['figures']['embedding-trained-step-11']
  source = data.load_source('digits', split='test')
  images, labels = source.arrays()
  seen = []
  for trace in figure['traces']:
    for index, image, text in zip(trace['ids'], trace['customdata'], trace['text'], strict=True):
      uri = page_of_trained.images[image]
      pixels = Image.open(io.BytesIO(base64.b64decode(uri.partition(',')[2])))
      np.testing.assert_array_equal(np.asarray(pixels), images[int(index)][..., 0])
      assert text == f'{trace["name"]}, image {int(index):,}'
      assert trace['name'] == source.class_names[labels[int(index)]]
      seen.append(int(index))
  assert sorted(seen) == list(range(source.num_examples))  # fewer than the 500 that may be drawn


def test_tables_have_the_run(page_of_trained, trained):
  found = page_of_trained
  assert 'finished' in found.texts and 'digits train' in found.texts
  assert '11 of 11' in found.texts and 'simclr' in found.texts
  (measured,) = Run(trained).results
  assert f'{100 * measured["value"]:.2f} %' in found.texts and all(
    f'{key}={value}' in found.text for key, value in measured['params'].items()
  )
  for name, version in measured['libraries'].items():
    assert f'{name}, evaluation' in found.texts and version in found.texts
  assert 'method.temperature' in found.texts and 'backbone/conv1/kernel' in found.texts
  facts = json.loads((trained / 'data.json').read_text())
  assert facts['checksum'][:16] in found.texts
  assert found.data['runs'][0]['training_images'] == facts


# ---------------------------------------------------------------- what is missing
def test_damaged_run(tmp_path, trained):
  """Images that are gone, a record without some fields, another version's name."""
  shutil.copytree(trained, tmp_path / 'old')
  path = tmp_path / 'old' / 'config.json'
  config = json.loads(path.read_text())
  config['config']['data']['name'] = f'npz:{tmp_path}/gone.npz'
  config['code_version'] = '9.9.9'
  path.write_text(json.dumps(config))
  (result,) = (tmp_path / 'old' / 'results').glob('*.json')
  record = json.loads(result.read_text())
  result.write_text(json.dumps({k: v for k, v in record.items() if k != 'device'}))
  found = make([tmp_path / 'old'], tmp_path / 'r.html')
  assert (
    'trained by another version, clr-jax 9.9.9: old' in found.text
    and 'old has no embedding: ' in found.text
  )
  assert found.data['figures']['curve-loss']['traces'] and '11 of 11' in found.texts


def test_names_that_make_one_anchor(tmp_path, trained):
  for name in ('a b', 'a-b'):
    shutil.copytree(trained, tmp_path / name)
  found = make([tmp_path / 'a b', tmp_path / 'a-b'], tmp_path / 'r.html')
  maps = [name for name in found.data['figures'] if name.startswith('heat-')]
  assert len(maps) == 4 and len(set(found.ids())) == len(found.ids())
  loss = found.data['figures']['curve-loss']
  assert [trace['name'] for trace in loss['traces']] == ['a b', 'a-b']
  assert len({trace['line']['color'] for trace in loss['traces']}) == 2
  both = [figure for name, figure in found.data['figures'].items() if 'embedding' in name]
  assert both[0]['traces'] == both[1]['traces']  # and of the same images
  assert len(found.images) == len({i for t in both[0]['traces'] for i in t['customdata']})


# ---------------------------------------------------------------- a browser
@needs_browser
@pytest.mark.parametrize('width', [1400, 500])
def test_browser_draws_all_figures_and_shows_images(page_of_trained, trained, width):
  found, dom = browse(trained.parent / 'report.html', width)
  number = len(page_of_trained.data['figures'])
  assert found['drawn'] and f'data-drawn="{number}"' in dom
  assert len(found['marks']) == number and min(found['marks']) > 0, found['marks']
  tip = found['tip']
  assert not tip['hidden'] and tip['inside'] and tip['text'] == tip['expected']
  assert tip['width'] == 8 and tip['source'] == page_of_trained.images[tip['number']]
  assert not found['overflow']  # wide tables scroll by themselves
