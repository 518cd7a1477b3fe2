"""TCL, SupCon and cross-entropy with labels: table 5.1 of the thesis and its batch-size study.

  clr-jax train --config=configs/tcl_supervised.py:cifar100-tcl --workdir=DIR

The thesis is Animesh, Tuned Contrastive Learning. Argument DATASET-METHOD[-VARIANT]; published
top-1 in percent after 100 epochs (after 200, table A.1, with `--config.num_epochs=200`):

  dataset         supervised   supcon        tcl
  cifar10           95.0     96.3 (96.7)  96.4 (96.8)
  cifar100          75.3     79.1 (81.0)  79.8 (81.6)
  fashion_mnist     94.5     95.5 (95.5)  95.7 (95.7)
  imagenet100       84.2     85.9 (86.5)  86.7 (87.1)   `resnet34`: supcon 86.5, tcl 87.2

(The thesis prints 96.0 and 76.5 beside SupCon's numbers on CIFAR: those of SupCon's paper.)
CIFAR-100 with supcon and tcl has the variants of section 5.2: `batch32` to `batch1024` (figure 5.2;
for `batch128` section A.1.5 gives 74.79 +- 0.23 and 75.72 +- 0.16) and `simaugment` (figure 5.4).
Flags of `batch128` are figures 5.1, `--config.model.name=resnet101
--config.optimizer.learning_rate=0.09` (other ResNets keep 0.1), 5.3,
`--config.method.out_dim=2048` (64 to 2048), and 5.5 to 5.8, `--config.method.k1=50000
--config.method.k2=3.25` (76.2; with k2 1 71.8). The row "TCL (Supervised)" of table 5.2, 95.8 and
77.5 on CIFAR and that above, is `--config.model.name=resnet18`; its other numbers are not given.
ImageNet-100 is read from TFDS's imagenet2012, or from a folder with train/CLASS and val/CLASS:
`--config.data.name=folder:PATH`.

Protocol: contrastive training, then a linear classifier on the frozen network by SGD, 50 epochs.
`linear_augmented` with the preset `tcl_published` is this stage as the thesis' code runs it: images
augmented as before, as many in a batch, BatchNorm in training mode, a rate of 0.5 with a cosine one
epoch late down to a thousandth. `linear` is the cheap form, on features of unaugmented images in
inference mode with a cosine to 0. The column of cross-entropy is the network's own head,
`own_head`; `linear` fits a new classifier to its features.

Where the numbers come from. Thesis, sections 5.1 and A.1 to A.2: ResNet-50, batch sizes counted in
views (here: images, half as many), learning rates, k1 and k2, temperature 0.1, SGD with momentum
0.9 and weight decay 1e-4 in both stages, AutoAugment (Fashion-MNIST: crop and flip), classifier's
learning rate 0.5; ImageNet-100: ResNet-18, 224 pixels, ResNet-34 on 128 views with the numbers of
figure 5.1. Its code (chaitanyaanimesh/Tuned-Contrastive-Learning, train.py): CIFAR stem, padding 4
(on ImageNet-100, too), the same AutoAugment for all data sets (`policy=tcl`: CIFAR-10's operations
with magnitudes of one direction; torchvision's are `--config.augment.policy=cifar10`), pixels of
Fashion-MNIST normalized by 0.5 and 0.5, of ImageNet-100 by 0.5 and 0.25, head 2048/128 without
BatchNorm, schedule `tcl`, SimAugment without blur, as many images in a batch of the linear stage as
in the first. As there, training images of ImageNet-100 are resized to 224x224 without regard to
their sides; in the tests they are the central 224 of 256 pixels, there the same 224x224.

Cross-entropy is SupContrast's main_ce ("the same implementation"), 150 epochs: learning rate 0.8 on
batches of 1024, warm-up 10, crop and flip; the thesis gives none of these. The mode `cross-entropy`
of the thesis' code has other values: `--config.augment.name=autoaugment --config.augment.policy=tcl
--config.optimizer.learning_rate=0.5 --config.batch_size=128 --config.schedule.name=tcl`.
"""

from ml_collections import ConfigDict

from clr_jax.evaluation.probing.linear_settings import linear_sgd
from clr_jax.experiment import config_base as common
from clr_jax.experiment.config_files import choose

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
  'imagenet100-supervised': ('imagenet100', 'supervised', ()),
  'imagenet100-supcon': ('imagenet100', 'supcon', (256, 0.2, 4000.0, 1.0)),
  'imagenet100-tcl': ('imagenet100', 'tcl', (256, 0.3, 4000.0, 1.0)),
  **{f'imagenet100-{m}-resnet34': ('imagenet100', m, STUDY['batch128']) for m in ('supcon', 'tcl')},
}
SIZES = {'fashion_mnist': 28, 'imagenet100': 224}  # 32 else


def get_config(argument: str = 'cifar100-tcl'):
  dataset, method, row = choose(argument, CHOICES, 'cifar100-tcl')
  config = common.get_config()
  common.data(config, dataset)
  name, stem = 'resnet50', 'cifar'
  if dataset == 'imagenet100':
    name, stem = 'resnet34' if argument.endswith('-resnet34') else 'resnet18', 'imagenet'
  config.model = common.model(name, stem=stem, **common.SUPCON_STATISTICS[dataset])
  config.eval_every = 10.0
  if method == 'supervised':
    _cross_entropy(config, SIZES.get(dataset, 32))
  else:
    _contrastive(config, method, *row)
    config.augment = _views(dataset)
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
  _linear(config, config.batch_size)
  config.eval.protocols.linear_augmented = ConfigDict(
    {'preset': 'tcl_published', 'batch_size': config.batch_size}
  )


def _views(dataset: str):
  options = {'size': SIZES.get(dataset, 32), 'padding': 4}
  if dataset == 'fashion_mnist':
    return common.views('crop_flip', **options)
  return common.views('autoaugment', policy='tcl', **options)


def _cross_entropy(config, size: int):
  config.batch_size = 1024
  config.num_epochs = 150.0
  config.method = common.method('supervised')
  _sgd(config, 0.8)
  config.schedule = common.schedule('supcontrast', warmup_epochs=10.0)
  config.augment = common.views('rrc_flip', size=size, num_views=1, crop_scale=(0.2, 1.0))
  _linear(config, config.batch_size)
  config.eval.protocols.own_head = ConfigDict()


def _sgd(config, learning_rate: float):
  config.optimizer = common.optimizer(
    'sgd', learning_rate=learning_rate, scaling='none', weight_decay=1e-4, momentum=0.9
  )


def _linear(config, batch_size: int):
  config.eval.protocols.linear = linear_sgd(
    epochs=50,
    batch_size=batch_size,
    base_lr=0.5 * 256 / batch_size,  # the thesis' 0.5 is the rate itself
    momentum=0.9,
    weight_decay=1e-4,
  )
