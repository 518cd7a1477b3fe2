"""Score distributions for momenta of the key encoder, transformed features and weights of TCL.

  clr-jax train --config=configs/score_study.py:moco --workdir=DIR --config.method.momentum=0.9
  clr-jax train --config=configs/score_study.py:tcl --workdir=DIR
  clr-jax inspect scores --workdir=DIR [--workdir=DIR2 ...]

Telemetry is on: scores, gradients and responses are measured at every 10th step. `moco` follows the
study of the momentum m (Zhu et al., https://arxiv.org/abs/2108.02982, figures 2 to 4, MoCo on
ImageNet-100: top-1 collapses at m = 0.5, is 21.2 at 0.6, best at 0.99 with 56.2 and 31.2 for the
largest m), with its transformations as `--config.plugins.feature_transformation.positive=batch` and
`.negative=batch`; `tcl` follows the thesis' figures 5.5 to 5.8 (supervised; `method.k1` up to
50000, k2 of 1 and 3.25; k1 = 0 and k2 = 1 is SupCon).

The size is that of a CPU: 10,000 images of Fashion-MNIST, a small ResNet, 6 epochs of 78 steps. The
queue holds a tenth of the images (half of them in the sources); temperatures and heads are those of
the sources. `launch/score_study.sh` took an hour on two shared cores.
"""

from clr_jax.experiment import config_base as common
from clr_jax.experiment.config_files import choose


def get_config(argument: str = 'moco'):
  set_method = choose(argument, {'moco': _moco, 'tcl': _tcl}, 'moco')
  config = common.get_config()
  config.data.name = 'fashion_mnist'
  config.data.train_split = 'train[:10000]'
  config.batch_size = 128
  config.num_epochs = 6.0
  config.model = common.model('resnet_tiny', width=8, mean=(0.286,), std=(0.353,))
  config.augment = common.views(
    'sogclr', size=28, crop_scale=(0.2, 1.0), jitter=(0.4, 0.4, 0.0, 0.0), gray_p=0.0
  )
  set_method(config)
  config.optimizer = common.optimizer('sgd', learning_rate=0.12, weight_decay=1e-4)
  config.schedule = common.schedule(warmup_epochs=0.5)
  config.log_every = 10
  config.telemetry.update({'enabled': True, 'every': 10})
  config.checkpoint_every = 2.0
  return config


def _moco(config):
  config.method = common.method(
    'moco', queue_length=1024, temperature=0.2, projector='mocov2', out_dim=64
  )


def _tcl(config):
  config.method = common.method('tcl', temperature=0.1, out_dim=64)
