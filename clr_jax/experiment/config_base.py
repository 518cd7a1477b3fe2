"""The keys of every config, and functions for its sections. Defaults of hyper-parameters are in the
signatures of the library's functions; `section` copies them to the config, so that a run records
all of them and a flag can change any of them.
"""

from collections.abc import Sequence

from ml_collections import ConfigDict

from clr_jax.core.config_tree import Config
from clr_jax.experiment.config_files import load_imports
from clr_jax.experiment.method import plugin_factories
from clr_jax.experiment.schema import section

# Channel statistics of the training images in [0, 1], as the sources use them.
CIFAR_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR_STD = (0.2470, 0.2435, 0.2616)  # SogCLR and the report, for CIFAR-100 too
IMAGENET = {'mean': (0.485, 0.456, 0.406), 'std': (0.229, 0.224, 0.225)}  # torchvision
SUPCON_STATISTICS = {  # SupContrast and TCL's code, which has the last two
  'cifar10': {'mean': CIFAR_MEAN, 'std': (0.2023, 0.1994, 0.2010)},
  'cifar100': {'mean': (0.5071, 0.4867, 0.4408), 'std': (0.2675, 0.2565, 0.2761)},
  'fashion_mnist': {'mean': (0.5,), 'std': (0.5,)},
  'imagenet100': {'mean': (0.5,) * 3, 'std': (0.25,) * 3},
}
SOLO_STATISTICS = {  # solo-learn
  'cifar10': {'mean': CIFAR_MEAN, 'std': CIFAR_STD},
  'cifar100': {'mean': (0.5071, 0.4865, 0.4409), 'std': (0.2673, 0.2564, 0.2762)},
  'imagenet100': IMAGENET,
}
OWN_STATISTICS = {  # of the pixels of the training images
  'stl10': {'mean': (0.4408, 0.4279, 0.3867), 'std': (0.2682, 0.2610, 0.2686)},
  'tiny_imagenet': {'mean': (0.4802, 0.4481, 0.3975), 'std': (0.2770, 0.2691, 0.2821)},
}

# `config.data` of data sets that need more than a name. A folder with one sub-folder per class
# below train and val works for any of them: `--config.data.name=folder:PATH`. ImageNet's images are
# read whole, as its sources do: views are cut from all of an image, and evaluation sees the central
# 224 of 256 pixels.
DATA = {
  'imagenet100': {'name': 'imagenet100', 'test_split': 'validation'},
  'imagenet': {'name': 'imagenet2012', 'test_split': 'validation'},
  'tiny_imagenet': {'name': 'folder:tiny-imagenet-200', 'test_split': 'val', 'image_size': 64},
}


def data(config: Config, name: str) -> None:
  """Sets `config.data` to a key of DATA or to the TFDS data set of that name."""
  config.data.update(DATA.get(name, {'name': name}))


def method(name: str, **hyper) -> Config:
  """Makes `config.method`: a method of `clr_jax.methods` with all its hyper-parameters."""
  return section('method', name=name, **hyper)


def plugins() -> Config:
  """Makes `config.plugins`: all plug-ins and wrappers, switched off."""
  return ConfigDict({name: section(f'plugins.{name}') for name in plugin_factories()})


def model(name: str, **hyper) -> Config:
  """Makes `config.model`: a backbone of `clr_jax.models`; `config.precision` sets its dtype."""
  return section('model', name=name, **hyper)


def views(name: str, *, size: int, **hyper) -> Config:
  """Makes `config.augment`: views with sides of `size` pixels."""
  return section('augment', name=name, size=size, **hyper)


def optimizer(name: str, *, learning_rate: float, **hyper) -> Config:
  """Makes `config.optimizer`; `scaling` scales the base `learning_rate` with the batch size."""
  return section('optimizer', name=name, learning_rate=learning_rate, **hyper)


def schedule(name: str = 'warmup_cosine', **hyper) -> Config:
  """Makes `config.schedule`; SogCLR, SimCLR and solo-learn warm up for 10 epochs."""
  return section('schedule', name=name, **hyper)


def sam(name: str = 'none', **hyper) -> Config:
  """Makes `config.sam`: 'none', 'sam' or 'noise_sam', with the options of both."""
  return section('sam', name=name, **hyper)


def get_config(*, imports: Sequence[str] = ()) -> Config:
  """Makes a config of all keys; an experiment sets data, augment, model, method, optimizer.

  `clr_jax.experiment.settings` and the functions above explain the keys.

  Args:
    imports: modules that register components that the config names, such as 'my_methods' for the
      file my_methods.py beside the config file; see `config_files.load_imports`.
  """
  config: Config = section('', imports=load_imports(imports))
  config.data = section('data')
  config.schedule = schedule()
  config.sam = sam()
  config.plugins = plugins()
  config.probe = section('probe')
  config.telemetry = section('telemetry')
  config.eval = section('eval', protocols={'knn': {}, 'linear': {}})
  return config
