"""The smallest run that has everything: 22 steps an epoch of digits at 8x8, a checkpoint every 6.

The checkpoints lie off the grid of the log rows on purpose.
"""

import pathlib
import sys

CONFIGS = str(pathlib.Path(__file__).parent.parent / 'configs')
sys.path.insert(0, CONFIGS)
import common  # noqa: E402

sys.path.remove(CONFIGS)

METHODS = {
  'simclr': {'hidden_dim': 8, 'out_dim': 8},
  'sogclr': {'hidden_dim': 8, 'out_dim': 8},
  'supcon': {'out_dim': 8},
  'tcl': {'out_dim': 8},
  'supervised': {},
}


def get_config(method: str = 'sogclr'):
  config = common.get_config()
  config.data.name = 'digits'
  config.batch_size = 64
  config.num_epochs = 1.0
  config.model = common.model('resnet_tiny', width=4, mean=(0.5,), std=(0.5,))
  config.augment = common.views('affine', size=8)
  config.method = common.method(method, **METHODS.get(method, {}))
  config.optimizer = common.optimizer('sgd', learning_rate=0.1)
  config.schedule = common.schedule(warmup_epochs=0.5)
  config.log_every = 4
  config.eval_every = 0.4  # 9 steps
  config.checkpoint_every = 0.27  # 6 steps
  config.eval.protocols = {'knn': {'k': 5}}
  return config
