"""TCL, SupCon and cross-entropy with labels: table 5.1 of the thesis and its batch-size study.

  clr-jax train --config=configs/thesis_supervised.py:cifar100-tcl --workdir=DIR

The thesis is Animesh, Tuned Contrastive Learning. Argument DATASET-METHOD[-VARIANT]; published
top-1 in percent after 100 epochs (after 200, table A.1, with `--config.num_epochs=200`):

  dataset         supervised   supcon        tcl
  cifar10           95.0     96.3 (96.7)  96.4 (96.8)
  cifar100          75.3     79.1 (81.0)  79.8 (81.6)
  fashion_mnist     94.5     95.5 (95.5)  95.7 (95.7)

CIFAR-100 with supcon and tcl has the variants of section 5.2: `batch32` to `batch1024` (figure 5.2;
for `batch128` section A.1.5 gives 74.79 +- 0.23 and 75.72 +- 0.16) and `simaugment` (figure 5.4).
Figure 5.1 and 5.3 are flags of `batch128`: `--config.model.name=resnet101
--config.optimizer.learning_rate=0.09` (other ResNets keep 0.1), `--config.method.out_dim=2048`.

Protocol: contrastive training, then a linear classifier on the frozen features by SGD, 50 epochs;
on features of unaugmented images, where the thesis augments them. The supervised runs are
evaluated likewise, by a new classifier on their features.

Where the numbers come from. Thesis, sections 5.1 and A.1 to A.2: ResNet-50, batch sizes counted in
views (here: images, half as many), learning rates, k1 and k2, temperature 0.1, SGD with momentum
0.9 and weight decay 1e-4 in both stages, AutoAugment (Fashion-MNIST: crop and flip), classifier's
learning rate 0.5. Its code (chaitanyaanimesh/Tuned-Contrastive-Learning): CIFAR stem, padding 4,
head 2048/128 without BatchNorm, schedule `tcl`, SimAugment without blur. Cross-entropy is
SupContrast's main_ce ("the same implementation"), 150 epochs: learning rate 0.8 on batches of 1024,
warm-up 10, crop and flip; the thesis gives none of these. The batch of the linear stage is not
given: it has as many images as that of the first stage has views.
"""

import common

from clr_jax.config import choose

# Rows of a batch after augmentation, learning rate, k1, k2 (sections A.1 and A.2).
TABLE = {
  'cifar10': (128, 0.1, 5000.0, 1.0),
  'cifar100': (256, 0.2, 4000.0, 1.0),
  'fashion_mnist': (128, 0.09, 5000.0, 1.0),
}
STUDY = {
  'batch32': (32, 0.008, 5000.0, 1.0),
  'batch64': (64, 0.009, 7500.0, 1.0),
  'batch128': (128, 0.1, 5000.0, 1.0),
  'batch256': TABLE['cifar100'],
  'batch512': (512, 0.5, 4000.0, 1.0),
  'batch1024': (1024, 1.0, 4000.0, 1.0),
  'simaugment': (128, 0.1, 5000.0, 1.2),
}
CHOICES = {
  **{f'{d}-{m}': (d, m, row) for d, row in TABLE.items() for m in ('supcon', 'tcl', 'supervised')},
  **{
    f'cifar100-{m}-{v}': ('cifar100', m, row) for v, row in STUDY.items() for m in ('supcon', 'tcl')
  },
}


def get_config(argument: str = 'cifar100-tcl'):
  dataset, method, row = choose(argument, CHOICES, 'cifar100-tcl')
  config = common.get_config()
  config.data.name = dataset
  config.model = common.model('resnet50', stem='cifar', **common.SUPCON_STATISTICS[dataset])
  config.eval_every = 10.0
  if method == 'supervised':
    _cross_entropy(config)
  else:
    _contrastive(config, method, *row)
  if argument.endswith('-simaugment'):
    config.augment = common.views('supcon', size=32)
    config.num_epochs = 200.0
  return config


def _contrastive(config, method: str, rows: int, learning_rate: float, k1: float, k2: float):
  config.batch_size = rows // 2
  config.num_epochs = 100.0
  weights = {'k1': k1, 'k2': k2} if method == 'tcl' else {}
  config.method = common.method(method, temperature=0.1, projector='supcon', **weights)
  _sgd(config, learning_rate)
  config.schedule = common.schedule('tcl', warmup_epochs=0.0)
  if config.data.name == 'fashion_mnist':
    config.augment = common.views('crop_flip', size=28, padding=4)
  else:
    config.augment = common.views('autoaugment', size=32, padding=4, policy='cifar10')
  _linear(config, rows)


def _cross_entropy(config):
  config.batch_size = 1024
  config.num_epochs = 150.0
  config.method = common.method('supervised')
  _sgd(config, 0.8)
  config.schedule = common.schedule('supcontrast', warmup_epochs=10.0)
  size = 28 if config.data.name == 'fashion_mnist' else 32
  config.augment = common.views('rrc_flip', size=size, num_views=1, crop_scale=(0.2, 1.0))
  _linear(config, config.batch_size)


def _sgd(config, learning_rate: float):
  config.optimizer = common.optimizer(
    'sgd', learning_rate=learning_rate, scaling='none', weight_decay=1e-4, momentum=0.9
  )


def _linear(config, batch_size: int):
  config.eval.protocols.linear = common.linear_sgd(
    epochs=50,
    batch_size=batch_size,
    base_lr=0.5 * 256 / batch_size,  # the thesis' 0.5 is the rate itself
    momentum=0.9,
    weight_decay=1e-4,
  )
