"""The keys that every config has, and how to fill its parts. Defaults of hyper-parameters live in
the signatures of the library's functions; `section` copies them here, so that a run records all of
them and a flag can change any of them.
"""

from collections.abc import Sequence

from ml_collections import ConfigDict

from clr_jax.core.config_tree import Config
from clr_jax.experiment.config_files import load_imports
from clr_jax.experiment.method import plugin_factories
from clr_jax.experiment.schema import section

# Channel statistics of the training images, as the sources use them (spec: pixels in [0, 1]).
CIFAR_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR_STD = (0.2470, 0.2435, 0.2616)  # SogCLR and the report, for CIFAR-100 too
IMAGENET = {'mean': (0.485, 0.456, 0.406), 'std': (0.229, 0.224, 0.225)}  # torchvision
SUPCON_STATISTICS = {  # SupContrast, TCL; its Fashion-MNIST is not published: the usual values
  'cifar10': {'mean': CIFAR_MEAN, 'std': (0.2023, 0.1994, 0.2010)},
  'cifar100': {'mean': (0.5071, 0.4867, 0.4408), 'std': (0.2675, 0.2565, 0.2761)},
  'fashion_mnist': {'mean': (0.2860,), 'std': (0.3530,)},
  'imagenet100': IMAGENET,
}
SOLO_STATISTICS = {  # solo-learn
  'cifar10': {'mean': CIFAR_MEAN, 'std': CIFAR_STD},
  'cifar100': {'mean': (0.5071, 0.4865, 0.4409), 'std': (0.2673, 0.2564, 0.2762)},
  'imagenet100': IMAGENET,
}

# `config.data` where it is more than a name. A folder with one sub-folder a class below train and
# val will do for any of them: `--config.data.name=folder:PATH`. Of images larger than the views the
# central square at 256 pixels is read: crops of 224 come from it, and evaluation sees all of it
# (published: the central 224 of it).
DATA = {
  'imagenet100': {'name': 'imagenet100', 'test_split': 'validation', 'image_size': 256},
  'imagenet': {'name': 'imagenet2012', 'test_split': 'validation', 'image_size': 256},
  'tiny_imagenet': {'name': 'folder:tiny-imagenet-200', 'test_split': 'val', 'image_size': 64},
}


def data(config: Config, name: str) -> None:
  """Sets `config.data` to a key of DATA or the TFDS data set of that name."""
  config.data.update(DATA.get(name, {'name': name}))


def method(name: str, **hyper) -> Config:
  """`config.method`: a method of `clr_jax.methods` with all its hyper-parameters."""
  return section('method', name=name, **hyper)


def plugins() -> Config:
  """`config.plugins`: all that methods can be trained with, all switched off."""
  return ConfigDict({name: section(f'plugins.{name}') for name in plugin_factories()})


def model(name: str, **hyper) -> Config:
  """`config.model`: a backbone of `clr_jax.models`; its dtype comes from `config.precision`."""
  return section('model', name=name, **hyper)


def views(name: str, *, size: int, **hyper) -> Config:
  """`config.augment`: views of side `size`."""
  return section('augment', name=name, size=size, **hyper)


def optimizer(name: str, *, learning_rate: float, **hyper) -> Config:
  """`config.optimizer`; `learning_rate` is the base value, scaled with the batch by `scaling`."""
  return section('optimizer', name=name, learning_rate=learning_rate, **hyper)


def schedule(name: str = 'warmup_cosine', **hyper) -> Config:
  """`config.schedule` of the learning rate; SogCLR, SimCLR and solo-learn warm up for 10 epochs."""
  return section('schedule', name=name, **hyper)


def sam(name: str = 'none', **hyper) -> Config:
  """`config.sam`: 'none', 'sam' or 'noise_sam', and the options of both, for flags to choose."""
  return section('sam', name=name, **hyper)


def get_config(*, imports: Sequence[str] = ()) -> Config:
  """Every key with its default; an experiment sets data, augment, model, method, optimizer.

  The keys are explained in `clr_jax.experiment.settings` and by the functions above.

  Args:
    imports: modules that register what the config then names, such as 'my_methods' for the file
      my_methods.py beside the config file; see `config_files.load_imports`.
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
