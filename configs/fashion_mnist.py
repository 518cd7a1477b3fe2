"""Fashion-MNIST with SogCLR on a CPU: a small ResNet, about 10 epochs.

  clr-jax train --config=configs/fashion_mnist.py --workdir=DIR

It reproduces no paper; it is a complete run on 60,000 real images from TFDS. The table at the end
compares the trained encoder with the same encoder untrained and with raw pixels.
"""

from clr_jax.experiment import config_base as common


def get_config():
  config = common.get_config()
  config.data.name = 'fashion_mnist'
  config.batch_size = 256
  config.num_epochs = 10.0
  config.model = common.model('resnet_tiny', width=16, mean=(0.286,), std=(0.353,))
  config.augment = common.views(
    'sogclr', size=28, crop_scale=(0.2, 1.0), jitter=(0.4, 0.4, 0.0, 0.0), gray_p=0.0
  )
  config.method = common.method('sogclr', temperature=0.2, hidden_dim=256, out_dim=64)
  config.optimizer = common.optimizer('sgd', learning_rate=0.1, weight_decay=1e-4)
  config.schedule = common.schedule(warmup_epochs=1.0)
  config.eval.features = ('trained', 'untrained', 'pixels')
  config.eval.protocols.linear.update({'label_fraction': (0.01, 0.1, 1.0), 'draws': 3})
  return config
