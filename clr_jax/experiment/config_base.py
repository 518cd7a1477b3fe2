"""The keys that every config has, and how to fill its parts. Defaults of hyper-parameters live in
the signatures of the library's functions; `component` copies them here, so that a run records all
of them and a flag can change any of them.
"""

from typing import Any, cast

from ml_collections import ConfigDict, config_dict

from clr_jax import augment, methods, models, optim
from clr_jax.core.config_tree import Config
from clr_jax.core.options import component
from clr_jax.experiment.method import plugin_factories
from clr_jax.optim import schedules
from clr_jax.wrappers.online_probe import online_probe
from clr_jax.wrappers.telemetry import telemetry

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
  config = component(methods.get(name), name, **hyper)
  if 'plugins' in config:
    del config['plugins']  # in `config.plugins`
  return config


def plugins() -> Config:
  """`config.plugins`: all that methods can be trained with, all switched off."""
  return ConfigDict({name: component(f) for name, f in plugin_factories().items()})


def model(name: str, **hyper) -> Config:
  """`config.model`: a backbone of `clr_jax.models`; its dtype comes from `config.precision`."""
  config = component(models.factory(name), name, **hyper)
  del config['dtype']
  return config


def views(name: str, *, size: int, num_views: int = 2, **hyper) -> Config:
  """`config.augment`: views of side `size`."""
  config = component(augment.factory(name), name, size=size, **hyper)
  config.num_views = num_views
  return config


def optimizer(
  name: str,
  *,
  learning_rate: float,
  scaling: str = 'linear',
  weight_decay: float = 0.0,
  exclude_from_decay: str = 'auto',
  **hyper,
) -> Config:
  """`config.optimizer`; `learning_rate` is the base value, scaled with the batch by `scaling`."""
  config = component(optim.factory(name), name, **hyper)
  config.learning_rate = learning_rate
  config.scaling = scaling
  config.weight_decay = weight_decay
  config.exclude_from_decay = exclude_from_decay
  return config


def schedule(name: str = 'warmup_cosine', *, warmup_epochs: float = 10.0, **hyper) -> Config:
  """`config.schedule` of the learning rate; SogCLR, SimCLR and solo-learn warm up for 10 epochs."""
  config = component(schedules.factory(name), name, **hyper)
  for fact in schedules.RUN_FACTS:
    if fact in config:
      del config[fact]
  config.warmup_epochs = warmup_epochs
  return config


def sam(name: str = 'none', **hyper) -> Config:
  """`config.sam`: 'none', 'sam' or 'noise_sam', and the options of both, for flags to choose."""
  config = ConfigDict({'name': name})
  for kind in ('sam', 'noise_sam'):
    config.update(component(optim.factory(kind)))
  config.update(component(optim.factory(name), **hyper) if name != 'none' else hyper)
  return config


def get_config() -> Config:
  """Every key with its default; an experiment sets data, augment, model, method, optimizer."""
  config: Config = cast(Any, ConfigDict())
  config.seed = 0
  config.batch_size = 256  # images (not views) in the global batch
  config.accumulate = 1  # passes of the network over parts of the batch; the loss sees all of it
  config.num_epochs = 100.0
  config.precision = 'float32'  # of the backbone's compute; 'bfloat16' on GPU and TPU
  config.deterministic = True  # bit-exact resume on GPU, at some cost in speed

  config.data = ConfigDict(
    {
      'name': 'digits',  # a TFDS name, 'imagenet100', 'folder:PATH', 'npz:PATH' or 'digits'
      'train_split': 'train',
      'test_split': 'test',  # '' = none
      'data_dir': config_dict.placeholder(str),  # of TFDS; None = its own default
      'image_size': config_dict.placeholder(int),  # resizes images; None = as they are
      'mode': 'auto',  # 'resident' on the device or 'streamed'; auto = resident up to 2 GiB
      'workers': 0,  # processes that decode streamed images; 0 = threads
    }
  )
  config.schedule = schedule()
  config.sam = sam()
  config.plugins = plugins()
  # A linear classifier on the detached feature, trained beside the method when there are labels.
  config.probe = component(online_probe)

  config.init_from = ''  # another run's workdir: start from its weights
  config.stop_at_epoch = config_dict.placeholder(float)  # pause there; the schedule is unchanged

  # None of the keys below changes what is trained.
  config.log_every = 50  # steps
  # Scores, gradients and embeddings of every 50th step, in its row of the metrics.
  config.telemetry = component(telemetry)
  config.eval_every = 1.0  # epochs; 0 = only at the end
  config.checkpoint_every = 1.0  # epochs; 0 = only at the end
  config.keep_last = 2  # checkpoints
  config.keep_best = ''  # also the one with the highest, such as 'online_knn_top1'
  config.steps_per_call = config_dict.placeholder(int)  # None = 1 on CPUs, 25 elsewhere
  config.shard_optimizer = False  # each device keeps only its part of the optimizer's state
  config.progress = True
  config.watchdog_seconds = 1800.0  # 0 = no watchdog
  config.profile = (0, 0)  # (first, last) step of a profiler trace
  config.eval = ConfigDict(
    {
      'features': ('trained',),  # also 'untrained', 'pixels'
      'protocols': ConfigDict({'knn': ConfigDict(), 'linear': ConfigDict()}),
      # Labeled sets to evaluate on, where those of `data` are not; None = as there.
      'data': config_dict.placeholder(str),
      'train_split': config_dict.placeholder(str),
      'test_split': config_dict.placeholder(str),
    }
  )
  return config
