"""TFDS prepares archives in their real form, read here without TensorFlow.

$CLR_TFDS_PYTHON names a Python with tensorflow and tensorflow-datasets; nothing else is imported
there but the one file that `load_source` runs in a child process.
"""

import hashlib
import io
import os
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clr_jax.data import load_source, prepare_tfds
from clr_jax.data.sources import imagenet100

PYTHON = os.environ.get('CLR_TFDS_PYTHON')
pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(not PYTHON, reason='CLR_TFDS_PYTHON names no Python with TensorFlow'),
]
SIZES = {'train': 3, 'test': 3, 'unlabeled': 5}
STL10 = 'http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz'


def prepare(name, root, setup=''):
  code = (
    f'{setup}\nimport runpy, sys\n'
    f'sys.argv = ["prepare_tfds", {name!r}, "--data_dir={root}"]\n'
    f'runpy.run_path({prepare_tfds.__file__!r}, run_name="__main__")'
  )
  child = subprocess.run([PYTHON, '-c', code], capture_output=True, text=True, cwd=root)
  assert child.returncode == 0, child.stdout + child.stderr


def add(tar, name, content):
  info = tarfile.TarInfo(name)
  info.size = len(content)
  tar.addfile(info, io.BytesIO(content))


def archive(files, mode='w'):
  """The bytes of a tar file."""
  buffer = io.BytesIO()
  with tarfile.open(fileobj=buffer, mode=mode) as tar:
    for name, content in files.items():
      add(tar, name, content)
  return buffer.getvalue()


def noise(rng, height=40, width=50):
  return rng.integers(0, 256, (height, width, 3)).astype(np.uint8)


def jpeg(rng, mode='RGB', kind='JPEG'):
  buffer = io.BytesIO()
  height, width = rng.integers(30, 80, 2)
  Image.fromarray(noise(rng, height, width)).convert(mode).save(buffer, kind)
  return buffer.getvalue()


def gray(level):
  buffer = io.BytesIO()
  Image.new('RGB', (40, 40), (level, level, level)).save(buffer, 'JPEG')
  return buffer.getvalue()


def validation_names():
  """The synset of each image of ImageNet's validation set."""
  import tensorflow_datasets

  folder = Path(tensorflow_datasets.__file__).parent / 'datasets/imagenet2012'
  return (folder / 'validation_labels.txt').read_text().split()


def test_imagenet(tmp_path):
  rng = np.random.default_rng(0)
  synsets = ('n01440764', 'n02105855', 'n02869837', 'n04336792')
  images = {s: {f'{s}_{i}.JPEG': jpeg(rng) for i in range(4)} for s in synsets}
  images['n04336792']['n04336792_7448.JPEG'] = jpeg(rng, 'CMYK')  # as in the real set
  images['n02105855']['n02105855_2933.JPEG'] = jpeg(rng, kind='PNG')
  images['n02869837']['n02869837_9.JPEG'] = jpeg(rng, 'L')
  manual = tmp_path / 'downloads' / 'manual'
  manual.mkdir(parents=True)
  train = archive({f'{s}.tar': archive(files) for s, files in images.items()})
  (manual / 'ILSVRC2012_img_train.tar').write_bytes(train)
  val = {f'ILSVRC2012_val_{i + 1:08d}.JPEG': gray(4 * i) for i in range(60)}
  (manual / 'ILSVRC2012_img_val.tar').write_bytes(archive(val))
  prepare('imagenet2012', tmp_path)
  whole = load_source('imagenet2012', data_dir=str(tmp_path), image_size=32)
  pixels, labels = whole.arrays()
  assert pixels.shape == (19, 32, 32, 3) and whole.num_classes == 1000
  assert [whole.class_names[n] for n in np.unique(labels)] == list(synsets)
  part = load_source('imagenet100', data_dir=str(tmp_path), image_size=32)
  names = [imagenet100.CLASSES[n] for n in part.arrays()[1]]
  assert {n: names.count(n) for n in names} == {'n02869837': 5, 'n04336792': 5}
  val = load_source('imagenet2012', data_dir=str(tmp_path), image_size=32, split='validation')
  pixels, labels = val.arrays()
  files = pixels[:, 0, 0, 0] // 4
  assert sorted(files) == list(range(60))
  # The real labels, in the order of the files.
  assert [val.class_names[n] for n in labels] == [validation_names()[i] for i in files]


def test_stl10(tmp_path):
  rng = np.random.default_rng(1)
  pixels = {s: rng.integers(0, 256, (n, 3, 96, 96)).astype(np.uint8) for s, n in SIZES.items()}
  files = {f'stl10_binary/{s}_X.bin': x.tobytes() for s, x in pixels.items()}
  files |= {f'stl10_binary/{s}_y.bin': bytes([1, 10, 3]) for s in ('train', 'test')}
  names = ['airplane', 'bird', 'car', 'cat', 'deer', 'dog', 'horse', 'monkey', 'ship', 'truck']
  files['stl10_binary/class_names.txt'] = ''.join(f'{n}\n' for n in names).encode()
  files['stl10_binary/fold_indices.txt'] = b'0 1 2\n'
  content = archive(files, 'w:gz')
  manual = tmp_path / 'downloads' / 'manual'
  manual.mkdir(parents=True)
  (manual / 'stl10_binary.tar.gz').write_bytes(content)
  facts = len(content), hashlib.sha256(content).hexdigest(), 'stl10_binary.tar.gz'
  setup = (
    'import tensorflow_datasets as tfds\n'
    'from tensorflow_datasets.core.download import checksums\n'
    f'tfds.builder_cls("stl10").url_infos = {{{STL10!r}: checksums.UrlInfo(*{facts!r})}}'
  )
  prepare('stl10', tmp_path, setup)
  for split, stored in (('train', 'train'), ('test', 'test'), ('unlabelled', 'unlabeled')):
    source = load_source('stl10', data_dir=str(tmp_path), split=split)
    images, labels = source.arrays()
    expected = pixels[stored].transpose(0, 3, 2, 1)  # columns first, as its authors store them
    order = [int(np.flatnonzero((expected == x).all((1, 2, 3)))[0]) for x in images]
    assert sorted(order) == list(range(SIZES[stored]))
    if split == 'unlabelled':
      assert labels is None and source.num_classes is None
    else:
      assert [(0, 9, 2)[i] for i in order] == labels.tolist()
      assert source.class_names == tuple(names)
