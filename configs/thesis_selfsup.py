"""TCL without labels, on triplets of views, and SimCLR as in solo-learn: table 5.2 of the thesis.

  clr-jax train --config=configs/thesis_selfsup.py:cifar10-tcl --workdir=DIR

The thesis is Animesh, Tuned Contrastive Learning. Argument DATASET-METHOD; published top-1 in
percent:

  dataset     simclr              tcl
  cifar10   90.7 (README 90.74)   91.8
  cifar100  65.5 (README 65.78)   67.2

Protocol: SimCLR's numbers are of the classifier trained online beside it (solo-learn; here
`online_probe_top1`, on 1,024 test images) and so is the one to compare; TCL's is of a linear
classifier on the frozen features by SGD, 100 epochs from 0.5 (thesis A.3). Both are recorded for
both methods; the linear protocol uses features of unaugmented images.

Where the numbers come from. Thesis, section A.3: ResNet-18, head 2048/256 of solo-learn's SimCLR,
three views (section 4.2), k1 1, k2 1.5, batch 256 (taken for images), 1000 epochs, LARS with
momentum 0.9, learning rate 0.5, weight decay 1e-4, Gaussian blur. It leaves open the temperature:
0.1, that of its runs with labels. solo-learn: stem with padding 2, LARS with trust coefficient 0.02
clipped at the learning rate, warm-up 10 from 3e-5, learning rates per 256 images, views embedded
one at a time, crops, jitter and blur (`symmetric`). SimCLR is solo-learn's 2021-22 script for
CIFAR, from which its published numbers are: learning rate 0.4, weight decay 1e-5, temperature 0.2,
no blur, the schedule by the epoch.

SimCLR with TCL's optimization: `--config.optimizer.learning_rate=0.5
--config.optimizer.weight_decay=1e-4 --config.augment.blur_p=0.5`.
"""

import common

from clr_jax.config import choose

NETWORK = {'projector': 'solo_simclr', 'hidden_dim': 2048, 'out_dim': 256, 'per_view_bn': True}
METHODS = {
  'tcl': {
    'method': {'temperature': 0.1, 'k1': 1.0, 'k2': 1.5, 'supervised': False},
    'augment': {'num_views': 3, 'blur_p': 0.5},
    'optimizer': {'learning_rate': 0.5, 'weight_decay': 1e-4},
    'schedule': 'solo',
  },
  'simclr': {
    'method': {'temperature': 0.2},
    'augment': {'num_views': 2, 'blur_p': 0.0},
    'optimizer': {'learning_rate': 0.4, 'weight_decay': 1e-5},
    'schedule': 'solo_epoch',
  },
}
CHOICES = {f'{d}-{m}': (d, m) for d in common.SOLO_STATISTICS for m in METHODS}


def get_config(argument: str = 'cifar10-tcl'):
  dataset, method = choose(argument, CHOICES, 'cifar10-tcl')
  parts = METHODS[method]
  config = common.get_config()
  config.data.name = dataset
  config.batch_size = 256
  config.num_epochs = 1000.0
  config.model = common.model('resnet18', stem='cifar_pad2', **common.SOLO_STATISTICS[dataset])
  config.augment = common.views(  # the preset 'symmetric', with any number of views
    'simclr', size=32, jitter_strength=1.0, blur_kernel=13, **parts['augment']
  )
  config.method = common.method(method, **NETWORK, **parts['method'])
  config.optimizer = common.optimizer(
    'lars',
    scaling='linear',
    momentum=0.9,
    form='clipped',
    trust_coefficient=0.02,
    **parts['optimizer'],
  )
  config.schedule = common.schedule(parts['schedule'], warmup_epochs=10.0)

  config.eval_every = 10.0
  config.eval.protocols.linear = common.linear_sgd(epochs=100, batch_size=256, base_lr=0.5)
  return config
