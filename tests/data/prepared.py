"""Files of a data set prepared by TFDS, written without TensorFlow."""

import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

FEATURES = 'tensorflow_datasets.core.features.'


def encoded(array, file_format='PNG'):
  buffer = io.BytesIO()
  Image.fromarray(array).save(buffer, file_format)
  return buffer.getvalue()


def example(image, label):
  from tensorflow_datasets.proto import tf_example_pb2

  message = tf_example_pb2.Example()
  message.features.feature['image'].bytes_list.value.append(image)
  message.features.feature['label'].int64_list.value.append(label)
  return message.SerializeToString()


def prepare(
  root,
  name,
  splits,
  *,
  shape=(5, 4, 3),
  file_format='array_record',
  class_names=('cat', 'dog', 'eel'),
  shards=1,
):
  """Writes `root`/name/1.0.0; splits are lists of (image array or encoded bytes, label)."""
  from array_record.python.array_record_module import ArrayRecordWriter

  folder = Path(root) / name / '1.0.0'
  folder.mkdir(parents=True, exist_ok=True)
  bare = name.split('/')[0]
  lengths, num_bytes = {}, dict.fromkeys(splits, 0)
  for split, examples in splits.items():
    bounds = np.linspace(0, len(examples), shards + 1).astype(int)
    lengths[split] = [str(n) for n in np.diff(bounds)]
    for shard in range(shards):
      file = folder / f'{bare}-{split}.array_record-{shard:05d}-of-{shards:05d}'
      writer = ArrayRecordWriter(str(file), 'group_size:1')
      for image, label in examples[bounds[shard] : bounds[shard + 1]]:
        writer.write(example(image if isinstance(image, bytes) else encoded(image), label))
      writer.close()
      num_bytes[split] += file.stat().st_size
  info = {
    'name': bare,
    'version': '1.0.0',
    'fileFormat': file_format,
    'moduleName': 'nowhere',
    'splits': [
      {
        'name': split,
        'numBytes': str(num_bytes[split]),
        'shardLengths': lengths[split],
        'filepathTemplate': '{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}',
      }
      for split in splits
    ],
  }
  dimensions = [str(n) if n else '-1' for n in shape]
  features = {
    'image': {
      'pythonClassName': FEATURES + 'image_feature.Image',
      'image': {'dtype': 'uint8', 'shape': {'dimensions': dimensions}},
    },
    'label': {
      'pythonClassName': FEATURES + 'class_label_feature.ClassLabel',
      'classLabel': {'numClasses': str(len(class_names))},
    },
  }
  features = {
    'pythonClassName': FEATURES + 'features_dict.FeaturesDict',
    'featuresDict': {'features': features},
  }
  (folder / 'dataset_info.json').write_text(json.dumps(info))
  (folder / 'features.json').write_text(json.dumps(features))
  (folder / 'label.labels.txt').write_text(''.join(f'{c}\n' for c in class_names))
  return folder


def toy(n, shape=(5, 4, 3), label=None):
  """n examples of noise; labels 0, 1, 2, 0, ... or all `label`."""
  rng = np.random.default_rng(n)
  images = rng.integers(0, 256, (n, *shape)).astype(np.uint8)
  return [(x, i % 3 if label is None else label) for i, x in enumerate(images)]


def imagenet_names():
  """The 1000 synsets in the order of TFDS's labels."""
  import tensorflow_datasets

  path = Path(tensorflow_datasets.__file__).parent / 'datasets/imagenet2012/labels.txt'
  return path.read_text().split()


def jpegs(synsets, each, seed=0):
  """JPEGs of several sizes, each of them of one color and noise, with their labels."""
  rng, names = np.random.default_rng(seed), imagenet_names()
  made = []
  for i in range(each * len(synsets)):
    height, width = rng.integers(20, 60, 2)
    color = 80 * (i % len(synsets)) // max(1, len(synsets) - 1) + 80
    image = np.clip(color + rng.integers(-60, 60, (height, width, 3)), 0, 255).astype(np.uint8)
    made.append((encoded(image, 'JPEG'), names.index(synsets[i % len(synsets)])))
  return made


def damage(file, how):
  """Flips bits of the middle byte of a file, or cuts off its second half."""
  content = bytearray(file.read_bytes())
  middle = len(content) // 2
  if how == 'cut':
    del content[middle:]
  else:
    content[middle] ^= 255
  file.write_bytes(content)
