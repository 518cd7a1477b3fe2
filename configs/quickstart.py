"""The quickstart: SogCLR on the embedded digits, a tiny ResNet, about 2 minutes on 2 CPU cores.

  clr-jax train --config=configs/quickstart.py --workdir=DIR

ends with a table of linear accuracy at 1 %, 10 % and 100 % of the labels (10 draws) and kNN for the
trained encoder, the same encoder untrained (BatchNorm statistics estimated on the training images)
and raw pixels. Any method: `--config=configs/quickstart.py:simclr`.
"""

from clr_jax.experiment import config_base as common

# Values that differ from each method's defaults because the problem is small.
SMALL_HEAD = {'hidden_dim': 128, 'out_dim': 64}
METHODS = {
  'sogclr': {'temperature': 0.2, **SMALL_HEAD},
  'isogclr': {'temperature': 0.2, **SMALL_HEAD},
  'simclr': {'temperature': 0.2, **SMALL_HEAD},
  'supcon': {'out_dim': 64},
  'tcl': {'out_dim': 64},
  'supervised': {},
  'dcl': SMALL_HEAD,
  'flatnce': {'out_dim': 64},
  'hcl': SMALL_HEAD,
  'debiased': SMALL_HEAD,
  'rpc': SMALL_HEAD,
  'simsiam': {'predictor_dim': 32, **SMALL_HEAD},
  'w_mse': {'hidden_dim': 128, 'out_dim': 32},
  # Sums over features, made for LARS, which does not see a loss's scale; SGD does.
  'barlow_twins': SMALL_HEAD,
  'arb': {'loss_scale': 0.1, **SMALL_HEAD},
  'vicreg': {
    'invariance_weight': 1.0,
    'variance_weight': 1.0,
    'covariance_weight': 0.04,
    **SMALL_HEAD,
  },
  # Momenta for 275 steps, queues shorter than the 1437 training images.
  'byol': {'momentum': 0.95, 'predictor_dim': 128, **SMALL_HEAD},
  # Without BatchNorm in the head the images' directions are so alike that the centered teacher is
  # uniform from the start, and the student follows.
  'dino': {
    'projector': 'dino_bn',
    'num_prototypes': 256,
    'teacher_temperature': 0.04,
    'warmup_teacher_epochs': 0,
    'momentum': 0.99,
    **SMALL_HEAD,
  },
  'dynamic_moco': {'queue_length': 1024, 'momentum': 0.95, **SMALL_HEAD},
  'infomin': {'queue_length': 1024, 'momentum': 0.95, 'out_dim': 64},
  'moco': {'queue_length': 1024, 'momentum': 0.95, 'temperature': 0.2, 'projector': 'mocov2'},
  'moco_v2plus': {'queue_length': 1024, 'momentum': 0.95, **SMALL_HEAD},
  'moco_v3': {'temperature': 0.2, 'momentum': 0.95, 'predictor_dim': 128, **SMALL_HEAD},
  'nnclr': {'queue_length': 1024, 'predictor_dim': 128, **SMALL_HEAD},
  'real': {'queue_length': 1024, 'momentum': 0.95, **SMALL_HEAD},
  'ressl': {'queue_length': 1024, 'momentum': 0.99, 'projector': 'byol', **SMALL_HEAD},
  'tico': {'momentum': 0.95, **SMALL_HEAD},
  # Six prototypes a digit, frozen for one epoch; a third of the images in the queue.
  'swav': {
    'num_prototypes': 60,
    'freeze_prototypes_steps': 11,
    'queue_length': 512,
    'queue_start_epoch': 5,
    **SMALL_HEAD,
  },
}

# Views other than two of `affine`: what a method needs.
VIEWS = {'infomin': ('infomin_jigsaw', {'policy': 'affine', 'jigsaw_flip_p': 0.0})}


def get_config(method: str = 'sogclr'):
  config = common.get_config()
  config.data.name = 'digits'
  config.data.image_size = 16
  config.batch_size = 128
  config.num_epochs = 25.0
  config.model = common.model('resnet_tiny', width=32, mean=(0.5,), std=(0.5,))
  name, options = VIEWS.get(method, ('affine', {}))
  config.augment = common.views(name, size=16, **options)
  config.method = common.method(method, **METHODS.get(method, {}))
  config.optimizer = common.optimizer('sgd', learning_rate=0.1, scaling='linear', weight_decay=1e-4)
  config.schedule = common.schedule('warmup_cosine', warmup_epochs=2.0)

  config.log_every = 10
  config.eval_every = 5.0
  config.checkpoint_every = 5.0
  config.eval.features = ('trained', 'untrained', 'pixels')
  config.eval.protocols.knn.k = 10
  config.eval.protocols.linear.update({'label_fraction': (0.01, 0.1, 1.0), 'draws': 10})
  return config
