"""TCL without labels and the methods it is compared with: table 5.2 of the thesis.

  clr-jax train --config=configs/tcl_selfsup.py:cifar10-tcl --workdir=DIR

The thesis is Animesh, Tuned Contrastive Learning. Argument DATASET-METHOD[-text]; published top-1
in percent, and solo-learn's README where it differs by more than 0.1:

  method            cifar10        cifar100       imagenet100
  tcl               91.8           67.2           78.4
  simclr            90.7           65.5 (65.78)   77.5
  byol              92.6           70.2 (70.46)   80.1
  dino              89.2 (89.52)   66.4 (66.76)   74.8
  simsiam           90.5           65.9 (66.04)   77.0 (74.54)
  moco_v2plus       92.9           69.5 (69.89)   78.2          "MOCO V2"
  ressl             90.6           65.8 (65.92)   76.6 (76.92)
  vicreg            90.1 (92.07)   68.5           79.2
  swav              89.2           64.7 (64.88)   74.3 (74.04)
  w_mse             88.2 (88.67)   61.3           69.1 (67.60)
  arb256            91.8           68.2           74.9
  arb2048           92.2           69.6           79.5
  barlow_twins256   87.4           57.9           67.2
  barlow_twins2048  89.6 (92.10)   69.2 (70.90)   78.6 (80.38)

"TCL (Supervised)" is in `tcl_supervised.py`. ImageNet-100 is read from TFDS's imagenet2012, or
from a folder with train/CLASS and val/CLASS: `--config.data.name=folder:PATH`.

Protocol: solo-learn's numbers are of the classifier trained online beside the method, at the end of
training on all test images, here `online`, and so is the one to compare; TCL's is of a linear
classifier on the frozen features by SGD, 100 epochs from 0.5 (thesis A.3). Both are recorded for
all; the linear protocol uses features of unaugmented images.

Where the numbers come from. Thesis, section A.3: ResNet-18, head 2048/256 of solo-learn's SimCLR
(ImageNet-100: 4096/256), three views (section 4.2), k1 1, k2 1.5, batch 256 (taken for images),
1000 epochs (ImageNet-100: 400), LARS with momentum 0.9, learning rate 0.5, weight decay 1e-4,
Gaussian blur. It leaves open the temperature: 0.1, that of its runs with labels. solo-learn: stem
with padding 2 on CIFAR, LARS with trust coefficient 0.02 clipped at the learning rate, warm-up 10
from 3e-5, learning rates per 256 images, views embedded one at a time, crops, jitter and blur
(`symmetric`). The other methods are solo-learn's: on CIFAR its 2021-22 scripts, from which the
published numbers are (no blur, the schedule by the epoch), on ImageNet-100 its YAML files. SwAV,
W-MSE and, on ImageNet-100, SimCLR have its output sizes (128, 64 and 512 behind a hidden layer of
4096: scripts/pretrain/imagenet-100/simclr.yaml), MoCo v2+ its queue on ImageNet-100 (65536).
`-text` is what the thesis says: 256 outputs for these three methods, so that SimCLR's head is
TCL's, which is "exactly the same", and a queue of 32,768 on ImageNet-100. 256 dimensions cannot be
whitened with 256 images: that row has eps 0.001 and chunks of 256.
ARB: its own code (Sherrylone/ARB), LARS with trust coefficient 0.02 (ImageNet-100: 0.001) and one
learning rate 0.3 also for biases (there 0.0048), end 0.001, no blur on CIFAR (there 0.2 and 0.1);
2048 features whitened in 8 groups (open). Barlow Twins 256 differs in the output only.

SimCLR with TCL's optimization: `--config.optimizer.learning_rate=0.5
--config.optimizer.weight_decay=1e-4 --config.augment.blur_p=0.5`.
"""

from ml_collections import ConfigDict

from clr_jax.evaluation.probing.linear_settings import linear_sgd
from clr_jax.experiment import config_base as common
from clr_jax.experiment.config_files import choose

LARS = {'name': 'lars', 'momentum': 0.9, 'form': 'clipped', 'trust_coefficient': 0.02}
SGD = {'name': 'sgd', 'momentum': 0.9}
SIMCLR_HEAD = {
  'projector': 'solo_simclr',
  'hidden_dim': 2048,
  'out_dim': 256,
  'per_view_bn': True,
}
# The preset 'symmetric', with any number of views.
SYMMETRIC = {'name': 'simclr', 'jitter_strength': 1.0, 'blur_kernel': 13, 'blur_p': 0.0}
ASYMMETRIC, WEAK = {'name': 'asymmetric'}, {'name': 'symmetric_weak'}
ARB = {
  'augment': ASYMMETRIC,
  'optimizer': {**LARS, 'learning_rate': 0.3, 'weight_decay': 1e-4, 'form': 'mocov3'},
  'schedule': {'name': 'warmup_cosine', 'end': 0.001},
  'model': {'zero_init_residual': True},
}
BARLOW = {
  'augment': ASYMMETRIC,
  'optimizer': {**LARS, 'learning_rate': 0.3, 'weight_decay': 1e-4},
}
METHODS = {
  'tcl': {
    'method': {
      'name': 'tcl',
      'temperature': 0.1,
      'k1': 1.0,
      'k2': 1.5,
      'supervised': False,
      **SIMCLR_HEAD,
    },
    'augment': {**SYMMETRIC, 'num_views': 3, 'blur_p': 0.5},
    'optimizer': {**LARS, 'learning_rate': 0.5, 'weight_decay': 1e-4},
    'schedule': {'name': 'solo'},
  },
  'simclr': {
    'method': {'name': 'simclr', 'temperature': 0.2, **SIMCLR_HEAD},
    'augment': SYMMETRIC,
    'optimizer': {**LARS, 'learning_rate': 0.4, 'weight_decay': 1e-5},
  },
  'byol': {
    'method': {'name': 'byol', 'hidden_dim': 4096, 'out_dim': 256, 'predictor_dim': 4096},
    'augment': ASYMMETRIC,
    'optimizer': {**LARS, 'learning_rate': 1.0, 'weight_decay': 1e-5},
  },
  'dino': {
    'method': {
      'name': 'dino',
      'num_prototypes': 4096,
      'momentum': 0.9995,
      'warmup_teacher_epochs': 50,
    },
    'augment': ASYMMETRIC,
    'optimizer': {**LARS, 'learning_rate': 0.3, 'weight_decay': 1e-6},
  },
  'simsiam': {
    'method': {'name': 'simsiam', 'hidden_dim': 2048, 'out_dim': 2048, 'predictor_dim': 512},
    'augment': WEAK,
    'optimizer': {**SGD, 'learning_rate': 0.5, 'weight_decay': 1e-5},
    'model': {'zero_init_residual': True},
  },
  'moco_v2plus': {
    'method': {'name': 'moco_v2plus', 'queue_length': 32768},
    'augment': WEAK,
    'optimizer': {**SGD, 'learning_rate': 0.3, 'weight_decay': 1e-4},
    'probe': 0.3,
  },
  'ressl': {
    'method': {
      'name': 'ressl',
      'queue_length': 65536,
      'out_dim': 256,
      'momentum': 0.99,
      'final_momentum': 1.0,
      'ema_index': 'current',
    },
    'augment': {'name': 'ressl'},
    'optimizer': {**SGD, 'learning_rate': 0.05, 'weight_decay': 1e-4},
  },
  'vicreg': {
    'method': {'name': 'vicreg', 'projector': 'solo_vicreg', 'variance_average': False},
    'augment': {'name': 'vicreg'},
    'optimizer': {**LARS, 'learning_rate': 0.3, 'weight_decay': 1e-4},
  },
  'swav': {
    # The prototypes are frozen for two epochs.
    'method': {
      'name': 'swav',
      'freeze_prototypes_steps': 2 * 195,
      'queue_start_epoch': 50,
      'per_view_bn': True,
    },
    'augment': SYMMETRIC,
    'optimizer': {
      **LARS,
      'learning_rate': 0.6,
      'weight_decay': 1e-6,
      'exclude_from_decay': 'none',
    },
    'schedule': {'name': 'solo_epoch', 'end': 6e-4},
  },
  'w_mse': {
    'method': {'name': 'w_mse', 'symmetric': False},
    'augment': {'name': 'wmse'},
    'optimizer': {'name': 'adam', 'learning_rate': 3e-3, 'weight_decay': 1e-6},
    'schedule': {'name': 'solo_epoch', 'start': 0.0, 'warmup_epochs': 2.0},
    'probe': 3e-3,
  },
  'arb256': {'method': {'name': 'arb', 'out_dim': 256}, **ARB},
  'arb2048': {'method': {'name': 'arb', 'out_dim': 2048, 'groups': 8}, **ARB},
  'barlow_twins256': {
    'method': {'name': 'barlow_twins', 'projector': 'solo_vicreg', 'out_dim': 256},
    **BARLOW,
  },
  'barlow_twins2048': {
    'method': {'name': 'barlow_twins', 'projector': 'solo_vicreg', 'out_dim': 2048},
    **BARLOW,
  },
}
# Differences on ImageNet-100, besides the views' blur and the schedule by the step.
IMAGENET100 = {
  'tcl': {'method': {'hidden_dim': 4096}},
  'simclr': {
    'method': {'hidden_dim': 4096, 'out_dim': 512},
    'augment': {'blur_p': 0.5},
    'optimizer': {'learning_rate': 0.3, 'weight_decay': 1e-4},
  },
  'byol': {
    'method': {'predictor_dim': 8192},
    'optimizer': {'learning_rate': 0.5, 'weight_decay': 1e-6},
  },
  'simsiam': {'augment': ASYMMETRIC, 'model': {'zero_init_residual': False}},
  'moco_v2plus': {'method': {'queue_length': 65536}},
  'ressl': {'optimizer': {'learning_rate': 0.3}},
  'swav': {
    'method': {'freeze_prototypes_steps': 2 * 494},
    'augment': {'blur_p': 0.5},
    'optimizer': {'exclude_from_decay': 'auto'},
    'schedule': {'end': 0.0},
  },
  'w_mse': {'optimizer': {'learning_rate': 2e-3}, 'schedule': {'warmup_epochs': 10.0}},
  'arb256': {'method': {'shrinkage': 0.0}, 'optimizer': {'trust_coefficient': 0.001}},
  'arb2048': {'method': {'shrinkage': 0.0}, 'optimizer': {'trust_coefficient': 0.001}},
}
# The thesis' text where it differs from the row of solo-learn above.
TEXT = {
  'swav': {'out_dim': 256},
  'w_mse': {'out_dim': 256, 'whitening_size': 256, 'eps': 1e-3},
}
TEXT_IMAGENET100 = {**TEXT, 'simclr': {'out_dim': 256}, 'moco_v2plus': {'queue_length': 32768}}
CHOICES = {
  **{f'{d}-{m}': (d, m, {}) for d in common.SOLO_STATISTICS for m in METHODS},
  **{f'{d}-{m}-text': (d, m, row) for d in ('cifar10', 'cifar100') for m, row in TEXT.items()},
  **{f'imagenet100-{m}-text': ('imagenet100', m, row) for m, row in TEXT_IMAGENET100.items()},
}


def get_config(argument: str = 'cifar10-tcl'):
  dataset, method, text = choose(argument, CHOICES, 'cifar10-tcl')
  large = dataset == 'imagenet100'
  parts = METHODS[method]
  changes = IMAGENET100.get(method, {}) if large else {}

  def part(key: str, /, **defaults):
    return {**defaults, **parts.get(key, {}), **changes.get(key, {})}

  config = common.get_config()
  common.data(config, dataset)
  config.batch_size = 256
  config.num_epochs = 400.0 if large else 1000.0
  stem = 'imagenet' if large else 'cifar_pad2'
  statistics = common.SOLO_STATISTICS[dataset]
  config.model = common.model('resnet18', stem=stem, **statistics, **part('model'))
  views = part('augment')
  if views['name'] != 'simclr':
    views['recipe'] = 'solo_imagenet100' if large else 'solo2022'
  config.augment = common.views(size=224 if large else 32, **views)
  config.method = common.method(**{**part('method'), **text})
  config.optimizer = common.optimizer(**part('optimizer'))
  schedule = part('schedule', name='solo_epoch')
  if large and schedule['name'] == 'solo_epoch':
    schedule['name'] = 'solo'
  config.schedule = common.schedule(**schedule)
  config.probe.learning_rate = parts.get('probe', 0.1)

  config.eval_every = 10.0
  config.eval.protocols.online = ConfigDict()
  config.eval.protocols.linear = linear_sgd(epochs=100, batch_size=256, base_lr=0.5)
  return config
