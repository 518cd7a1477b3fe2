"""Your own images, with settings derived from them.

  clr-jax train --config=configs/images.py --config.data.name=folder:PATH --workdir=DIR

PATH has one sub-folder for each class, directly or below train and test, or images without labels;
`npz:FILE` and TFDS names work, too. Sizes, statistics, splits, batch size, warm-up and evaluation
are derived from the images (`clr_jax.experiment.from_data`), printed and stored with the run; a
flag overrides any of them. Other methods: `--config=configs/images.py:byol`. The optimizer and its
learning rate follow no paper: AdamW is independent of the scale of the loss, in which the methods
differ.
"""

from clr_jax.experiment import config_base as common
from clr_jax.experiment.from_data import fit_to_data

# Views other than two of `simclr`: what a method needs.
VIEWS = {'infomin': ('infomin_jigsaw', {})}


def get_config(method: str = 'simclr'):
  config = common.get_config()
  config.num_epochs = 100.0
  config.model = common.model('resnet_tiny', width=32)
  name, options = VIEWS.get(method, ('simclr', {}))
  config.augment = common.views(name, size=32, **options)
  config.method = common.method(method)
  config.optimizer = common.optimizer(
    'adamw', learning_rate=1e-3, scaling='none', weight_decay=1e-4
  )
  config.schedule = common.schedule('warmup_cosine')
  config.log_every = 10
  config.eval.protocols.linear.draws = 3
  return config


complete = fit_to_data
