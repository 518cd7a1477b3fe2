"""Margins, emphasis of positives and curvature in MoCo v3, SimCLR and BYOL: tables 3, 2, 4 and 6.

  clr-jax train --config=configs/margins.py:cifar10-moco_v3-margin --workdir=DIR

The paper is Understanding Contrastive Learning Through the Lens of Margins (arXiv 2306.11526).
Argument DATASET-METHOD[-VARIANT]; published top-1 in percent of linear probing (table 3), and the
variant's numbers, (m1, m2), s, or s and c:

  variant                 cifar10            cifar100           stl10              tiny_imagenet
  moco_v3                 89.413             60.956             87.629             42.133
  moco_v3-margin          89.840  (.1, .4)   61.796  (.5, .7)   87.688  (.4, .6)   42.860  (.1, .4)
  moco_v3-emphasis        90.663  20         65.413  20         90.357  40         48.273  20
  moco_v3-curvature       90.865  20, .7     66.095  40, 1      90.361  40, 2.5    48.503  40, 2.5
  simclr                  89.653             62.655             87.188             44.184
  simclr-margin           90.447  (.5, .4)   63.507  (.6, .6)   87.430  (0, .2)    44.593  (0, .8)
  simclr-emphasis         89.695  1.125      62.917  1.0625     87.284  1.0625     44.348  1.0625
  simclr-curvature        90.190  2.5, .7    63.503  2, .7      87.346  1.25, .7   44.376  1.125, 1
  byol                    90.283             61.006             87.546             41.846
  byol-curvature          90.485  c 1        61.170  c 2.5      88.051  c 5        43.332  c 2.5

Table 2, attenuation of type I and II, is flags of the runs without variant:
`--config.plugins.gradient_scaling.attenuation=type1
--config.plugins.gradient_scaling.strength=0.25`; I, II at .25 and I, II at 1, of
cifar10 and cifar100, then stl10 and tiny_imagenet:

  moco_v3   89.376 89.713 89.743 89.633   60.857 61.217 60.997 61.263
            87.292 87.455 87.329 87.442   42.420 42.460 42.797 42.510
  simclr    89.867 89.557 89.735 89.767   62.407 62.763 62.840 62.800
            87.200 87.042 87.300 87.317   44.206 44.197 44.260 44.260

Table 4, transfer, is `clr-jax evaluate linear --workdir=DIR --config.eval.data=cifar10
--params.preset=margins` for a run of cifar100; the target stl10 also needs
`--config.eval.test_split=test`, tiny_imagenet is `--config.eval.data=folder:PATH
--config.eval.test_split=val` (source and target in that order: cifar100, cifar10; cifar10,
cifar100; tiny_imagenet, stl10; stl10, tiny_imagenet):

  moco_v3              75.417   43.590   72.013   31.140
  moco_v3-margin       75.380   43.190   72.154   30.543
  moco_v3-emphasis     78.847   55.113   78.100   41.825
  moco_v3-curvature    78.600   52.940   78.734   41.777
  simclr               77.300   48.845   75.533   35.108
  simclr-margin        76.377   47.023   75.617   34.747
  simclr-emphasis      76.893   49.090   75.675   35.067
  simclr-curvature     76.620   48.683   75.571   34.280
  byol                 75.086   41.560   69.433   30.306
  byol-curvature       74.820   39.445   72.442   29.260

Table 6, ImageNet with a ResNet-50 and 100 epochs, is imagenet-moco_v3 (curvature: s 10, c 1.5) and
imagenet-simclr (curvature: s 2, c 1); its numbers are not in the text that we have. Figures 3 to 5,
for moco_v3 and simclr (4: byol, too): `--config.plugins.gradient_scaling.emphasis=20`, of values
that the text does not list (those of the tables are between 1 and 40), and
`--config.plugins.gradient_scaling.curvature=0.5`, of 1/3, .5, .7, 1, 1.5, 2.5, 5. The weight beta
of eq. 6, which the paper only varies between 1 and 0 (BYOL), is `--config.method.beta=0.5`.

Data: cifar10, cifar100 and stl10 from TFDS, imagenet as TFDS's imagenet2012, tiny_imagenet as
`--config.data.name=folder:PATH`, the folder as it is distributed.

Protocol: a linear classifier on the frozen features by SGD, 100 epochs (imagenet: 90), learning
rate 1 with a cosine; here on features of unaugmented images. imagenet: the official classifiers,
0.1 per 256 images, MoCo v3 on batches of 1024 from N(0, 0.01), SimCLR on batches of 4096 from 0
with weight decay 1e-6.

Where the numbers come from. Paper, supplementary A and B: 200 epochs, batch 256, temperature 0.25,
output 128, hidden 2048, SGD with momentum 0.9 and learning rate 0.06, heads with BatchNorm before
ReLU (projectors and predictors Linear-BN-ReLU-Linear), weak views (crop and flip) for the teacher
and strong ones for the student, one of each for SimCLR. "Basically ReSSL" leaves to that paper
(arXiv 2107.09282) and its code for small data, of which forks are public: weight decay 5e-4, target
momentum 0.99, warm-up of 5 epochs, strong views with crops of at least a fifth, jitter (.4, .4, .4,
.1) with probability 0.8, gray 0.2 and blur 0.5, weak views with the same *resized* crop and a flip,
pixels normalized by each set's own statistics, images of STL-10 and Tiny ImageNet at 64 pixels. The
paper calls the weak crop "random cropping": padded by an eighth of the side, not resized, it is
`--config.augment.weak=padded`. STL-10 is trained on its 105,000 train and unlabelled images
together (`--config.data.train_split=unlabelled` for 100,000) and evaluated on train and test. Open
in both and chosen here: a stem of 3x3 without stride and max-pool, for 64 pixels, too; batch of the
classifier 256; the losses of MoCo v3 and BYOL have one direction, from the student's strong view to
the teacher's weak one; that of MoCo v3 is eq. 9 itself, without the official factor of twice the
temperature, which would halve its gradient at the learning rate of all methods
(`--config.method.loss_scale=0.5`). imagenet: official code, MoCo v3 LARS 0.6 per 256, weight decay
1e-6, temperature 1, EMA 0.99 to 1, SimCLR LARS 0.3 per 256, weight decay 1e-6, temperature 0.1, two
linear layers in the projector, whose last BatchNorm has no scale here, pixels not normalized; both
batch 4096, warm-up 10.
"""

from clr_jax.evaluation.probing.linear_settings import linear_sgd
from clr_jax.experiment import config_base as common
from clr_jax.experiment.config_files import choose

SMALL = ('cifar10', 'cifar100', 'stl10', 'tiny_imagenet')
# Supplementary A: (m1, m2); s; (s, c) of each data set in the order of SMALL.
MARGIN = {
  'moco_v3': ((0.1, 0.4), (0.5, 0.7), (0.4, 0.6), (0.1, 0.4)),
  'simclr': ((0.5, 0.4), (0.6, 0.6), (0.0, 0.2), (0.0, 0.8)),
}
EMPHASIS = {'moco_v3': (20.0, 20.0, 40.0, 20.0), 'simclr': (1.125, 1.0625, 1.0625, 1.0625)}
CURVATURE = {
  'moco_v3': ((20.0, 0.7), (40.0, 1.0), (40.0, 2.5), (40.0, 2.5)),
  'simclr': ((2.5, 0.7), (2.0, 0.7), (1.25, 0.7), (1.125, 1.0)),
  'byol': ((1.0, 1.0), (1.0, 2.5), (1.0, 5.0), (1.0, 2.5)),
}


def _scaling(emphasis: float, curvature: float | None = None):
  given = {'emphasis': emphasis, 'curvature': curvature}
  return {'gradient_scaling': {k: v for k, v in given.items() if v is not None}}


CHOICES = {
  **{f'{d}-{m}': (d, m, {}) for d in SMALL for m in CURVATURE},
  **{
    f'{d}-{m}-margin': (d, m, {'margin': {'angular': m1, 'subtractive': m2}})
    for m, row in MARGIN.items()
    for d, (m1, m2) in zip(SMALL, row, strict=True)
  },
  **{
    f'{d}-{m}-emphasis': (d, m, _scaling(s))
    for m, row in EMPHASIS.items()
    for d, s in zip(SMALL, row, strict=True)
  },
  **{
    f'{d}-{m}-curvature': (d, m, _scaling(s, c))
    for m, row in CURVATURE.items()
    for d, (s, c) in zip(SMALL, row, strict=True)
  },
  'imagenet-moco_v3': ('imagenet', 'moco_v3', {}),
  'imagenet-moco_v3-curvature': ('imagenet', 'moco_v3', _scaling(10.0, 1.5)),
  'imagenet-simclr': ('imagenet', 'simclr', {}),
  'imagenet-simclr-curvature': ('imagenet', 'simclr', _scaling(2.0, 1.0)),
}

TEACHER = {
  'momentum': 0.99,
  'final_momentum': 0.99,
  'predictor': 'byol',
  'predictor_dim': 2048,
  'symmetric': False,
}
HEADS = {
  'moco_v3': {'temperature': 0.25, 'loss_scale': 1.0, **TEACHER},
  'simclr': {'temperature': 0.25},
  'byol': TEACHER,
}
IMAGENET = {
  'moco_v3': {
    'method': {'temperature': 1.0, 'momentum': 0.99, 'final_momentum': 1.0},
    'augment': {
      'name': 'asymmetric',
      'recipe': 'solo_imagenet100',
      'crop_scale': (0.2, 1.0),
      'method': 'bilinear',
    },
    'optimizer': {'learning_rate': 0.6, 'form': 'mocov3'},
    'linear': {'batch_size': 1024},
    'model': common.IMAGENET,
  },
  'simclr': {
    'method': {'temperature': 0.1, 'projector': 'sogclr', 'hidden_dim': 2048, 'out_dim': 128},
    'augment': {'name': 'simclr', 'jitter_strength': 1.0, 'blur_p': 0.5},
    'optimizer': {'learning_rate': 0.3, 'form': 'simclr'},
    'linear': {'batch_size': 4096, 'weight_decay': 1e-6, 'init': 'zero'},
    'model': {'mean': (0.0,), 'std': (1.0,)},  # pixels in [0, 1], as its code has them
  },
}


def get_config(argument: str = 'cifar10-moco_v3-margin'):
  dataset, method, plugins = choose(argument, CHOICES, 'cifar10-moco_v3-margin')
  config = common.get_config()
  common.data(config, dataset)
  config.eval_every = 10.0
  if dataset == 'imagenet':
    _imagenet(config, method)
  else:
    _small(config, dataset, method)
  for plugin, options in plugins.items():
    config.plugins[plugin].update(options)
  return config


def _small(config, dataset: str, method: str):
  if dataset == 'stl10':
    config.data.update({'train_split': 'train+unlabelled', 'image_size': 64})
    config.eval.update({'train_split': 'train', 'test_split': 'test'})
  config.batch_size = 256
  config.num_epochs = 200.0
  statistics = {**common.SOLO_STATISTICS, **common.OWN_STATISTICS}[dataset]
  config.model = common.model('resnet18', stem='cifar', **statistics)
  config.augment = common.views(  # strong for the student, weak for the teacher
    'ressl',
    size=32 if dataset.startswith('cifar') else 64,
    recipe='solo',
    crop_scale=(0.2, 1.0),
    jitter=(0.4, 0.4, 0.4, 0.1),
    method='bilinear',
  )
  config.method = common.method(
    method, projector='byol', hidden_dim=2048, out_dim=128, **HEADS[method]
  )
  config.optimizer = common.optimizer('sgd', learning_rate=0.06, weight_decay=5e-4, momentum=0.9)
  config.schedule = common.schedule('warmup_cosine', warmup_epochs=5.0)
  config.eval.protocols.linear = linear_sgd(epochs=100, batch_size=256, base_lr=1.0)


def _imagenet(config, method: str):
  parts = IMAGENET[method]
  config.batch_size = 4096
  config.num_epochs = 100.0
  config.model = common.model('resnet50', zero_init_residual=True, **parts['model'])
  config.augment = common.views(size=224, **parts['augment'])
  config.method = common.method(method, **parts['method'])
  config.optimizer = common.optimizer('lars', weight_decay=1e-6, momentum=0.9, **parts['optimizer'])
  config.schedule = common.schedule('warmup_cosine', warmup_epochs=10.0)
  config.eval.interpolation = config.augment.method
  config.eval.protocols.linear = linear_sgd(epochs=90, base_lr=0.1, **parts['linear'])
