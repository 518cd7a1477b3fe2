"""The smallest run that has everything: 22 steps an epoch of digits at 8x8, a checkpoint every 6.

The checkpoints lie off the grid of the log rows on purpose.
"""

from clr_jax.experiment import config_base as common
from tests import method_cases

SIZES = {'hidden_dim': 8, 'predictor_dim': 8, 'out_dim': 8, 'queue_length': 128}
VIEWS = {'infomin': ('infomin_jigsaw', {'policy': 'affine', 'grid': 2})}


def get_config(method: str = 'sogclr'):
  config = common.get_config()
  config.data.name = 'digits'
  config.batch_size = 64
  config.num_epochs = 1.0
  config.model = common.model('resnet_tiny', width=4, mean=(0.5,), std=(0.5,))
  name, options = VIEWS.get(method, ('affine', {}))
  config.augment = common.views(name, size=8, **options)
  config.method = common.method(method, **method_cases.options(method, **SIZES))
  config.optimizer = common.optimizer('sgd', learning_rate=0.1)
  config.schedule = common.schedule(warmup_epochs=0.5)
  config.log_every = 4
  config.eval_every = 0.4  # 9 steps
  config.checkpoint_every = 0.27  # 6 steps
  config.eval.protocols = {'knn': {'k': 5}}
  return config
