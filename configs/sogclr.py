"""SogCLR on CIFAR-10 and CIFAR-100: table 1 of the TAMU report (CSCE 689, "Proposed Improvement").

  clr-jax train --config=configs/sogclr.py:cifar10 --workdir=DIR
  clr-jax train --config=configs/sogclr.py:cifar10-moco --workdir=DIR

Argument DATASET[-VARIANT]; published top-1 in percent:

  variant                               CIFAR-10  CIFAR-100  row of table 1
  (none)                                  89.36     59.22    Baseline (reference code: 91.78)
  noise-variance9e-4                      89.71       -      GN sigma^2 = 9/10000
  noise-as-published                      89.71       -      the same, as its code adds it
  noise-variance2, noise-std2             72.89       -      GN sigma^2 = 2/255
  noise-variance8, noise-std8             70.85       -      GN sigma^2 = 8/255
  salt-pepper                             89.14       -      S&P Noise (50-50)
  noise-sam                               89.79     59.34    SAM (uniform noise, section 3.3)
  sam                                       -         -      none: SAM with the gradient, eq. 3
  blur, blur-always                         -         -      none: Gaussian blur of section 3.1
  moco, moco-as-published                 89.87     60.21    MOCO+SogCLR, both views are queries
  moco-one-way                            89.87     60.21    the same, algorithm 1 as printed
  real, real-as-published                 87.47     55.36    REAL, section 3.4: keys within a radius
  real-top-p, real-top-k                    -         -      none: other forms of retrieval
  rate-over-4                             89.36     59.22    Baseline, "0.25" read before scaling
  40k                                     89.36     59.22    Baseline, 40k labels and 10k held out

Protocol: pre-training without labels, then a linear classifier on the frozen features by SGD, 90
epochs; the accuracy of the last epoch is the result, and that of the best one on the test set, as
the report's code prints, is recorded beside it. All 50,000 training images are used in both stages
(code); the report's text says 40,000 and 10,000 for validation in the second: `40k`. Features are
of unaugmented images. Figures 4 and 5 draw the test accuracy against epochs: `clr-jax inspect
trajectory` measures it on all test images at the checkpoints that `--config.checkpoint_every=10
--config.keep_last=40` keeps, `--config.eval_every=10` on at most 1,024 images while training.

Where the numbers come from. Report, section 4.1: ResNet-50, batch 64, 400 epochs, "linear learning
rate scaling with an initial learning rate of 0.25": 1.0 per 256 images, which is 0.25 (the code),
or 0.25 per 256 images, which is 0.0625 (`rate-over-4`), LARS, weight decay 1e-4, temperature 0.3,
gamma 0.9, classifier without weight decay on batches of 1024. Its code (Optimization-AI/SogCLR,
branch cifar): CIFAR stem, zero-initialized residuals, head 2048/128 (the report's "hidden size of
128" is the output), warm-up 10, momentum 0.9, trust coefficient 0.001, crops and jitter,
classifier's learning rate 0.1 per 256. Noise: only the 9/10000 row has code, with probability 0.5.
The trace left of the others adds noise to every image and takes 2/255 for a standard deviation, the
table for a variance, so both are here; their noise is added to pixels in [0, 1], the report's to
normalized ones. As published, noise is added to normalized pixels, which are then clipped to [-1,
1] (here drawn for each image, there for each batch). Salt-and-pepper: 5 % of the pixels
(scikit-image's default; `--config.augment.salt_pepper_per=element` draws each channel, as that
does). Uniform noise: 1e-5, written in the code but never applied there. Gradient SAM: rho 0.05
(Foret et al.); eq. 3 has any norm, `--config.sam.norm=inf --config.sam.rho=0.0001`. Salt among the
noisy pixels is half ("50-50"); `--config.augment.salt_pepper_ratio=0.3`. Blur: 9x9, sigma 0.1 to 2,
always (code), or with probability 0.5.

Equation 1 is a sketch of the loss (its sign is misplaced): its negatives are the other images in
the other view, without the positive: `--config.method.name=dcl` with `negative_views=other`;
SogCLR's are both views of the other images. MetAug and InfoMin are only named in the report:
InfoMin's views are in `feature_transformation.py`, MetAug is not here.

MOCO+SogCLR and REAL: the report does not say which code made its rows, so both forms have the row
as their target. Where they differ: `as-published` divides by the temperature twice, stores the sum
of the views' averages u, does not treat a first visit apart, and REAL counts an image's own key as
near its query and divides its radius by the 128 outputs; the others are free of these defects
(without the last one the radius leaves out few keys). All but `moco-one-way` are in two directions,
as its code. "Other distance metrics" for retrieval are REAL's options `distance=cosine` and
`manhattan`. From the report and its code (hxu105/TAMU_CSCE689_OPT): queue 65536 ("65336" in the
text), radius 0.5 at the start, momentum 0.999. top-p keeps half of the keys and top-k compares with
1024 rows of the queue: no published values. The queue is longer than the 50,000 training images and
holds older keys of the batch's own images, as the report's does;
`--config.method.queue_length=32768` avoids that.

Bigger batches: `--config.batch_size=512`; other lengths: `--config.num_epochs=100`.
"""

from clr_jax.evaluation.probing.linear_settings import linear_sgd
from clr_jax.experiment import config_base as common
from clr_jax.experiment.config_files import choose

MOCO = {'queue_length': 65536, 'momentum': 0.999}
DYNAMIC_MOCO, REAL = {'name': 'dynamic_moco', **MOCO}, {'name': 'real', **MOCO}
PUBLISHED = {'temperature_twice': True, 'combine': 'sum', 'first_visit': 'none'}
VARIANTS = {
  '': {},
  '-noise-variance9e-4': {'augment': {'noise_variance': 9 / 10000, 'noise_p': 0.5}},
  '-noise-as-published': {
    'augment': {
      'noise_variance': 9 / 10000,
      'noise_p': 0.5,
      'noise_mean': common.CIFAR_MEAN,
      'noise_std': common.CIFAR_STD,
    }
  },
  '-noise-variance2': {'augment': {'noise_variance': 2 / 255, 'noise_p': 1.0}},
  '-noise-std2': {'augment': {'noise_sigma': 2 / 255, 'noise_p': 1.0}},
  '-noise-variance8': {'augment': {'noise_variance': 8 / 255, 'noise_p': 1.0}},
  '-noise-std8': {'augment': {'noise_sigma': 8 / 255, 'noise_p': 1.0}},
  '-salt-pepper': {'augment': {'salt_pepper': 0.05, 'salt_pepper_p': 0.5}},
  '-blur': {'augment': {'blur_p': 0.5}},
  '-blur-always': {'augment': {'blur_p': 1.0}},
  '-noise-sam': {'sam': {'name': 'noise_sam', 'eps': 1e-5}},
  '-sam': {'sam': {'name': 'sam', 'rho': 0.05}},
  '-moco': {'method': DYNAMIC_MOCO},
  '-moco-one-way': {'method': {**DYNAMIC_MOCO, 'symmetric': False}},
  '-moco-as-published': {'method': {**DYNAMIC_MOCO, **PUBLISHED}},
  '-real': {'method': {**REAL, 'retrieval': 'radius'}},
  '-real-as-published': {
    'method': {**REAL, 'retrieval': 'radius', 'as_published': True, **PUBLISHED}
  },
  '-real-top-p': {'method': {**REAL, 'retrieval': 'top_p', 'top_p': 0.5}},
  '-real-top-k': {'method': {**REAL, 'retrieval': 'top_k', 'top_k': 1024}},
  '-rate-over-4': {'optimizer': {'learning_rate': 0.25}},
  '-40k': {'linear': {'held_out': 0.2}},
}
CHOICES = {
  dataset + variant: (dataset, parts)
  for dataset in ('cifar10', 'cifar100')
  for variant, parts in VARIANTS.items()
}


def get_config(argument: str = 'cifar10'):
  dataset, parts = choose(argument, CHOICES, 'cifar10')
  config = common.get_config()
  config.data.name = dataset
  config.batch_size = 64
  config.num_epochs = 400.0
  config.model = common.model(
    'resnet50',
    stem='cifar',
    stem_init='torch_default',
    zero_init_residual=True,
    mean=common.CIFAR_MEAN,
    std=common.CIFAR_STD,
  )
  config.augment = common.views('sogclr', size=32, **parts.get('augment', {}))
  shared = {'temperature': 0.3, 'gamma': 0.9}
  head = {'projector': 'sogclr', 'hidden_dim': 2048, 'out_dim': 128}
  config.method = common.method(**{'name': 'sogclr', **shared, **head, **parts.get('method', {})})
  config.optimizer = common.optimizer(
    'lars',
    **{'learning_rate': 1.0, **parts.get('optimizer', {})},
    scaling='linear',
    weight_decay=1e-4,
    momentum=0.9,
    form='mocov3',
    trust_coefficient=0.001,
  )
  config.schedule = common.schedule('warmup_cosine', warmup_epochs=10.0)
  config.sam = common.sam(**parts.get('sam', {}))

  config.eval_every = 10.0  # as in figure 5
  config.eval.protocols.linear = linear_sgd(
    epochs=90, batch_size=1024, base_lr=0.1, momentum=0.9, weight_decay=0.0
  )
  config.eval.protocols.linear.update(parts.get('linear', {}))
  return config
