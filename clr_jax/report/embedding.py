"""Test images in the plane of their features, with the image itself where the pointer is."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np

from clr_jax.figures import plots
from clr_jax.figures.projection import project
from clr_jax.report import page
from clr_jax.rundir.reader import Run, reason

MOST_IMAGES = 500  # of one data set
ALL_IMAGES = 1000  # of all data sets of the runs
SIDE = 32  # pixels of an image, at most: 1,000 such PNGs of noise have 4 MB


def embedding(content: page.Page, runs: Sequence[Run]) -> str:
  """The features of each run's newest checkpoint; a sentence for a run that cannot be opened."""
  most = min(MOST_IMAGES, ALL_IMAGES // len({_data(run) for run in runs}))
  sentences, made = [], []
  for number, run in enumerate(runs):
    try:
      made.append(content.figure(_figure(content, run, number, most)))
    # Any version's config and checkpoint, any data: the report says what does not work.
    except Exception as error:
      sentences.append(page.missing(f'{run.name} has no embedding: {reason(error)}.'))
  return ''.join(sentences) + page.figures(made, large=True)


def _data(run: Run) -> tuple:
  """What tells the test sets of runs apart without reading them."""
  keys = ('data.name', 'data.test_split', 'data.image_size', 'eval.data', 'eval.test_split')
  return tuple(map(run.get, keys))


def _figure(content: page.Page, run: Run, number: int, most: int) -> page.Figure:
  from clr_jax.evaluation.probing.features import extract
  from clr_jax.evaluation.runner import open_subject

  subject = open_subject(run.config, run.directory)
  source = subject.sets.test or subject.sets.train
  size = min(most, source.num_examples)
  indices = np.arange(size) * source.num_examples // size
  represent = subject.experiment.method.represent
  features = extract(
    represent, *subject.weights, source, mesh=subject.experiment.mesh, indices=indices
  )
  found = project(features.h)
  images, _ = source.load(indices)
  shown = [content.image(thumbnail(image)) for image in images]
  shares = [''] * 2 if found.explained is None else [f' ({x:.1%})' for x in found.explained]
  return page.Figure(
    name=f'embedding-{number}',
    title=f'{run.name}: features at step {subject.step:,}',
    x=f'first principal component{shares[0]}',
    y=f'second principal component{shares[1]}',
    traces=_traces(found.points, features.label, source.class_names, indices, shown),
    note=(
      f'{size:,} of the {source.num_examples:,} images of {source.name} {source.split}, evenly '
      'spread; share of their variance at the axes. Point at one to see the image.'
    ),
    layout={'xaxis': {'zeroline': False}, 'yaxis': {'zeroline': False}},
    shape='square',
  )


def _traces(
  points: np.ndarray,
  labels: np.ndarray | None,
  names: Sequence[str] | None,
  indices: np.ndarray,
  images: Sequence[int],
) -> list[dict]:
  """One for each class, as long as there are enough colours and symbols; else one for all."""
  classes = [] if labels is None else np.unique(labels).tolist()
  name = (lambda c: str(names[c])) if names else (lambda c: f'class {c}')
  text = [
    (f'{name(labels[i])}, ' if labels is not None else '') + f'image {index:,}'
    for i, index in enumerate(indices.tolist())
  ]
  looks = [(colour, symbol) for symbol in page.SYMBOLS for colour in plots.COLOURS]
  if labels is None or not 0 < len(classes) <= len(looks):
    groups = [('', np.arange(len(points)), looks[0])]
  else:
    groups = [
      (name(c), np.flatnonzero(labels == c), look) for c, look in zip(classes, looks, strict=False)
    ]
  return [
    {
      'type': 'scatter',
      'mode': 'markers',
      'name': label,
      'x': [page.value(x) for x in points[rows, 0]],
      'y': [page.value(y) for y in points[rows, 1]],
      'text': [text[i] for i in rows.tolist()],
      'ids': [str(indices[i]) for i in rows],
      'customdata': [images[i] for i in rows.tolist()],
      'marker': {
        'color': colour,
        'symbol': symbol,
        'size': 8,
        'line': {'width': 0.5, 'color': '#fff'},
      },
    }
    for label, rows, (colour, symbol) in groups
  ]


def thumbnail(image: np.ndarray) -> str:
  """A data URI of an image [H, W, C] uint8, C = 1 or 3, as a PNG of at most SIDE pixels."""
  from PIL import Image

  picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
  picture.thumbnail((SIDE, SIDE))
  file = io.BytesIO()
  picture.save(file, 'png', optimize=True)
  return f'data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}'
