"""Feature transformation: positive extrapolation and negative interpolation on ImageNet-100.

  clr-jax train --config=configs/feature_transformation.py:imagenet100-moco_v1-both --workdir=DIR

Argument DATASET-METHOD[-VARIANT]; ImageNet-100 is read from TFDS's imagenet2012, or from a folder
with train/CLASS and val/CLASS by `--config.data.name=folder:PATH`. Published top-1 in percent after
200 epochs of a ResNet-50 (Zhu et al., table 7; slides of W. V. Barbosa):

  imagenet100   moco_v1  moco_v2  simclr  infomin  swav  simsiam
  (none)         71.10    75.61   74.32    81.9    82.1   77.1
  pos            72.80    76.22   75.80     -       -     77.8
  neg            74.64    77.12   76.71     -       -      -
  both           76.87    78.33   78.25    83.2   (83.2)   -
    both-dim       77.21    79.21    78.81     -       -      -
  both-vector      -        -        -       -       -      -

  imagenet      moco_v1: (none) 60.6, both 61.9; moco_v2: (none) 67.5, both 69.6, mochi 68.0,
                un_mix 68.6; infomin 70.1 (tables 8, 9; TFDS's imagenet2012, or
                `--config.data.name=folder:PATH`)
  cifar10       moco_v1 and moco_v2 with all of these variants for a small machine: no published row

SwAV's 83.2 (swav-both) is our reading, because nothing published says where its loss would be
transformed: the embeddings of the two large views are extrapolated before the prototypes for the
predictions, the assignments are those of the embeddings as they are, and there are no negatives to
interpolate. `both-vector` is the slides' formula for the mixing by dimensions to the letter, one
vector for the whole batch; `both-dim`, a vector for each row, is the code's. Ablations are flags of
imagenet100-moco_v1. Table 2, of -pos, with
`--config.plugins.feature_transformation.positive_alpha=0.2`: .2 71.6, .4 71.8, .6 71.9, 1.4 72.7,
1.6 72.4, 2 72.8. Table 4, of -neg, with
`--config.plugins.feature_transformation.negative_alpha=0.2`: .2 73.3, .4 74.1, .6 74.2, 1.4 73.5,
1.6 74.6, 2 74.1. Table 1, without variant, with `--config.method.momentum=0.9`: .6 21.2, .7 32.8,
.8 39.3, .9 46.5, .99 56.2, .999 53.1, 1 31.2; its 56.2 is not table 7's 71.10, and what else
differs is not said. Without published numbers: later starts (the slides give no epochs), both
queues (`--config.plugins.feature_transformation.start_epoch=30`,
`--config.plugins.feature_transformation.union=True`), and imagenet100-moco_v2 with and without
-both for 500 epochs (`--config.num_epochs=500`).

Table 8, other data sets, top-1 in percent (* reproduced by its authors):

                       iNaturalist-18   CUB-200   FGVC-Aircraft
  supervised               66.1          81.9*       82.6*
  moco_v1                  65.6          82.8*       83.5*
  moco_v1-both             67.3          83.2        84.0
  moco_v2                  66.8*         82.9*       83.6*
  moco_v2-both             67.7          83.1        84.1

of runs of `imagenet`. The slides say no more than "classification"; our reading is fine-tuning of
the whole network with MoCo's values for iNaturalist (paper, as recalled: rate 0.025, 100 epochs,
times 0.1 at 70 and 90):

  clr-jax evaluate transfer --workdir=DIR --params.protocol=finetune --params.preset=moco_transfer
    --params.target=i_naturalist2018,caltech_birds2011
  clr-jax evaluate transfer --workdir=DIR --params.protocol=finetune --params.preset=moco_transfer
    --params.target=folder:PATH --params.train_split=trainval --params.test_split=test

the last with Aircraft's images in folders PATH/trainval/VARIANT and PATH/test/VARIANT; a linear
classifier is `--params.protocol=linear --params.preset=moco`. The supervised row (and 76.1 on
ImageNet itself) is torchvision's network, quoted: `--weights` evaluates its file. Manifold MixUp,
Propagate Yourself, DetCo, InsLoc and Mean Shift are only named in the slides and not here.

Table 9, detection on VOC and COCO, is trained by Detectron2 from `clr-jax export`; its numbers and
configurations are in `launch/detection.md`.

Protocol: a linear classifier on the frozen features by SGD; batch 256, 60 epochs (imagenet: 100;
code), here with a cosine and on features of unaugmented images.

Where the numbers come from. Slides: 200 epochs, ResNet-50, alphas 2 and 1.6 (best of tables 2 and
4). Code (DTennant/CL-Visualizing-Feature-Transformation, which is PyContrast): SGD 0.03, batch 256,
momentum 0.9, weight decay 1e-4, a cosine to a thousandth, queue 65536, output 128, temperature
0.07, 0.2, 0.15 (moco_v1, moco_v2, infomin), augmentations A, B, D, classifier's learning rate 30.
EMA 0.999; on ImageNet-100 0.99, the best of table 1, although the README's command has 0.999.
`pos`, `neg` and `both` draw one weight a step, as the README's command does (the code's targets
'pos' and 'neg' alone would draw one a dimension); `both-dim` draws each dimension; no source says
with which of them table 8 was made. Only MoCo has code; of the others the slides give no
hyper-parameters, so they are those of the official code for batch 256: SimCLR LARS 0.3, weight
decay 1e-6, temperature 0.1, SwAV's script for 200 epochs at batch 256 (two crops and six local ones
of 96 pixels, LARC; how many crops its row has is open), SimSiam SGD 0.05; classifiers' learning
rates of solo-learn on ImageNet-100. With one weight a step `pos` only rescales SimSiam's gradient;
one a dimension turns it. MoCHi (paper, as recalled): (N, s, s') = (1024, 1024, 128) from epoch 15,
on the others 10. Un-Mix: half of the steps blend whole images (its ImageNet command). cifar10:
ResNet-18 and numbers of MoCo's CIFAR notebook, which is a MoCo v1 without blur, MoCHi with (256,
256, 32); moco_v2 adds head and temperature.
"""

from clr_jax.evaluation.probing.linear_settings import linear_sgd
from clr_jax.experiment import config_base as common
from clr_jax.experiment.config_files import choose

MOCO = {'queue_length': 65536, 'out_dim': 128}
SGD = {'name': 'sgd', 'learning_rate': 0.03, 'weight_decay': 1e-4, 'momentum': 0.9}
# PyContrast's schedule: no warm-up at batch 256.
COSINE = {'name': 'supcontrast', 'warmup_epochs': 0.0}
METHODS = {
  'moco_v1': {
    'method': {'name': 'moco', 'temperature': 0.07, 'projector': 'linear', **MOCO},
    'augment': {'name': 'supcon', 'jitter': (0.4, 0.4, 0.4, 0.4), 'jitter_p': 1.0},  # A
  },
  'moco_v2': {
    'method': {'name': 'moco', 'temperature': 0.2, 'projector': 'mocov2', **MOCO},
    'augment': {'name': 'strong'},  # B
  },
  'infomin': {
    'method': {'name': 'infomin', 'temperature': 0.15, **MOCO},
    'augment': {'name': 'infomin_jigsaw'},  # D
  },
  'simclr': {
    'method': {'name': 'simclr', 'temperature': 0.1, 'hidden_dim': 2048, 'out_dim': 128},
    'augment': {'name': 'simclr', 'jitter_strength': 1.0, 'blur_p': 0.5},
    'optimizer': {
      'name': 'lars', 'learning_rate': 0.3, 'weight_decay': 1e-6, 'form': 'simclr',
    },
    'schedule': {'name': 'warmup_cosine', 'warmup_epochs': 10.0},
    'linear': 1.0,
  },
  'swav': {
    # One epoch of frozen prototypes is 494 steps here; the queue is that of batch 256.
    'method': {'name': 'swav', 'freeze_prototypes_steps': 494},
    'augment': {'name': 'multicrop_swav'},
    'optimizer': {  # apex's LARC without clipping
      'name': 'lars', 'learning_rate': 0.6, 'weight_decay': 1e-6, 'momentum': 0.9,
      'form': 'unclipped', 'trust_coefficient': 0.001, 'exclude_from_decay': 'none',
    },
    'schedule': {'name': 'warmup_cosine', 'warmup_epochs': 0.0, 'end': 0.0006},
    'model': {**common.IMAGENET, 'std': (0.228, 0.224, 0.225)},  # as in its code
    'linear': 0.15,
  },
  'simsiam': {
    'method': {'name': 'simsiam', 'hidden_dim': 2048},
    'augment': {'name': 'strong'},
    'optimizer': {**SGD, 'learning_rate': 0.05},
    'schedule': {'name': 'warmup_cosine', 'warmup_epochs': 0.0},
  },
}  # fmt: skip

BOTH = {'feature_transformation': {'positive': 'batch', 'negative': 'batch'}}
VARIANTS = {
  '': {},
  '-pos': {'feature_transformation': {'positive': 'batch'}},
  '-neg': {'feature_transformation': {'negative': 'batch'}},
  '-both': BOTH,
  '-both-vector': {'feature_transformation': {'positive': 'vector', 'negative': 'vector'}},
  '-both-dim': {'feature_transformation': {'positive': 'dim', 'negative': 'dim'}},
  '-mochi': {'mochi': {'num_mixed': 1024, 'num_query_mixed': 128, 'num_hard': 1024}},
  '-un_mix': {'un_mix': {'enabled': True, 'probability': 0.5}},
}
EVERY = tuple(VARIANTS)
TABLE_7 = ('', '-pos', '-neg', '-both', '-both-vector', '-both-dim')
ROWS = {
  ('imagenet100', 'moco_v1'): TABLE_7,
  ('imagenet100', 'moco_v2'): EVERY,
  ('imagenet100', 'simclr'): TABLE_7,
  ('imagenet100', 'infomin'): ('', '-both'),
  ('imagenet100', 'swav'): ('', '-both'),
  ('imagenet100', 'simsiam'): ('', '-pos'),
  ('imagenet', 'moco_v1'): ('', '-both'),
  ('imagenet', 'moco_v2'): ('', '-both', '-mochi', '-un_mix'),
  ('imagenet', 'infomin'): ('',),
  ('cifar10', 'moco_v1'): EVERY,
  ('cifar10', 'moco_v2'): EVERY,
}
CHOICES = {
  f'{dataset}-{method}{variant}': (dataset, method, variant)
  for (dataset, method), variants in ROWS.items()
  for variant in variants
}


def get_config(argument: str = 'imagenet100-moco_v1-both'):
  dataset, name, variant = choose(argument, CHOICES, 'imagenet100-moco_v1-both')
  parts = METHODS[name]
  config = common.get_config()
  common.data(config, dataset)
  config.batch_size = 256
  config.num_epochs = 200.0
  statistics = parts.get('model', common.IMAGENET)
  config.model = common.model('resnet50', zero_init_residual=name == 'simsiam', **statistics)
  config.augment = common.views(size=224, **parts['augment'])
  config.method = common.method(**parts['method'])
  if 'momentum' in config.method:
    config.method.momentum = 0.999 if dataset == 'imagenet' else 0.99
  config.optimizer = common.optimizer(**parts.get('optimizer', SGD))
  config.schedule = common.schedule(**parts.get('schedule', COSINE))
  config.eval_every = 10.0
  config.eval.protocols.linear = linear_sgd(
    epochs=100 if dataset == 'imagenet' else 60,
    batch_size=256,
    base_lr=parts.get('linear', 30.0),
  )
  for plugin, options in VARIANTS[variant].items():
    config.plugins[plugin].update(options)
  if name == 'swav':  # it has no negatives
    config.plugins.feature_transformation.negative = 'none'
  if 'mochi' in VARIANTS[variant]:
    config.plugins.mochi.start_epoch = 15.0 if dataset == 'imagenet' else 10.0
  if dataset == 'cifar10':
    _small(config)
  return config


def _small(config):
  """facebookresearch/moco's CIFAR notebook."""
  config.batch_size = 512
  config.model = common.model('resnet18', stem='cifar', **common.SUPCON_STATISTICS['cifar10'])
  config.augment = common.views('simclr_family', size=32)
  config.method.queue_length = 4096
  if config.method.projector == 'linear':
    config.method.temperature = 0.1
  config.optimizer.update({'learning_rate': 0.06, 'scaling': 'none', 'weight_decay': 5e-4})
  config.schedule = common.schedule('epoch_cosine', warmup_epochs=0.0)
  if config.plugins.mochi.num_mixed:
    config.plugins.mochi.update({'num_mixed': 256, 'num_query_mixed': 32, 'num_hard': 256})
