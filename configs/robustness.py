"""Contrastive and supervised networks with input-gradient regularization: the robustness report.

  clr-jax train --config=configs/robustness.py:contrastive --workdir=DIR
  clr-jax evaluate robustness --workdir=DIR

The report is Campbell, Manta and Iannantuono, Robustness of Contrastive Learning Models (2020), on
CIFAR-10. Argument `contrastive`, `supervised` (both also with `-attacks`), `contrastive-anchor`,
`contrastive-labels` or `finetuned`. Published top-1 in percent, table 1, by the share of the
labels, and table 2, by lambda of equations 2 and 3 (`--config.plugins.tikhonov.weight=0.1`, 1 and
10):

                  100 %  10 %   1 %       lambda 0.1   1      10
  supervised      93.93  64.39  30.92            93.34  93.3   89.69
  contrastive     74.79  70.83  67.56            71.9   67.76  60.71
  fine-tuned      77.05  71.36  66.94              -      -      -

Table 1's columns are measured at the end of `contrastive-labels`, or from runs of `contrastive` and
`supervised` as follows; the supervised network is trained from scratch on each share, and the
contrastive one gets a linear classifier, then a two-layer one while its weights change, too:

  clr-jax evaluate finetune --workdir=DIR --features=untrained --params.preset=robustness_supervised
    --params.label_fraction=0.01,0.1,1
  clr-jax evaluate few-label --workdir=DIR --params.preset=robustness --params.balanced=False
    --params.label_fraction=0.01,0.1,1 --params.per_class=
  clr-jax evaluate finetune --workdir=DIR --params.preset=robustness
    --params.label_fraction=0.01,0.1,1

Figure 2, PGD and PLB attacks on the networks of both tables, has no numbers in the text; runs of
`contrastive-attacks` and `supervised-attacks` are attacked when they end. Its fine-tuned network is
`finetuned`, which starts from a run of `contrastive` by `--config.init_from=DIR`.
`launch/robustness_study.sh DIR document` runs all of this, and `launch/robustness_study.sh DIR` the
same at the size of a CPU. The report's future work, equations 4 and 5, is
`--config.plugins.layerwise.weights=0.001,0.01,0.1,1` with
`--config.plugins.tikhonov.layer_weights=0.0001,0.001,0.01,0.1` (increasing; it gives no values).

Not comparable: the published accuracies are the best over epochs on the test set. Those of the
regularized supervised networks are of a penalty 128^2 times smaller than their lambda says, since
the report's code differentiates the batch's mean loss, which is here
`--config.plugins.tikhonov.grad_of=batch_mean`. Compare the directions: with lambda the gradient's
norm and accuracy on clean images fall, and attacks need larger perturbations.

`fashion_contrastive`, `fashion_supervised` and `fashion_finetuned` are for CPUs:
10,000 images of Fashion-MNIST, a small ResNet, 5 epochs with Adam 1e-3 or SGD 0.1 and a cosine;
regularized, a step takes about twice as long.

Where the numbers come from. The report's code, unless it differs from the text: batch 128,
NT-Xent at temperature 0.5 without the anchor itself (equation 1 has it in the denominator:
`contrastive-anchor`), projector 512-128, Adam 3e-4 with weight decay
1e-5 in the gradient for 100 epochs, on the first 95 % of the training images (there a random 95 %;
the classifier has the labels of all), views of SimCLR's colors at full strength without blur;
supervised SGD 0.1 with momentum 0.9, weight decay 5e-4 and times 0.2 after 60, 120 and 160 of 200
epochs, crop and flip. Pixels are in [0, 1] without normalization, which is the scale of lambda.

Fine-tuned: the preset `robustness` of `evaluate finetune`, all labels and features as they are,
since a run's own head has no normalization. The report tried other initial weights of that head
than random ones and does not say which: here they are random.

Deviations. The report's "modified ResNet50" has stages of 64 to 512 channels around bottlenecks of
a quarter and average pools for strides: here a ResNet-50 of width 16, whose stem has 16 channels
instead of 64 and whose pools are in the shortcuts (the text's full width:
`--config.model.width=64`). Its cosine is stepped once an epoch though made for 371 steps, down to
0.86 of the rate: here constant. It keeps the encoder of the lowest validation loss: here the last.
Its classifier is by SGD on unit features, `--params.preset=robustness`: by default here logistic
regression to convergence on standardized features. Equation 4 sums the losses of all layers: here
the loss of the head has weight 1 and the pooled stages of the ResNet have those of the flag.
"""

from ml_collections import ConfigDict

from clr_jax.experiment import config_base as common
from clr_jax.experiment.config_files import choose

CHOICES = {
  'contrastive': ('cifar10', 'contrastive'),
  'contrastive-anchor': ('cifar10', 'contrastive'),
  'contrastive-attacks': ('cifar10', 'contrastive'),
  'contrastive-labels': ('cifar10', 'contrastive'),
  'finetuned': ('cifar10', 'finetuned'),
  'supervised': ('cifar10', 'supervised'),
  'supervised-attacks': ('cifar10', 'supervised'),
  'fashion_contrastive': ('fashion_mnist', 'contrastive'),
  'fashion_contrastive-attacks': ('fashion_mnist', 'contrastive'),
  'fashion_contrastive-labels': ('fashion_mnist', 'contrastive'),
  'fashion_finetuned': ('fashion_mnist', 'finetuned'),
  'fashion_supervised': ('fashion_mnist', 'supervised'),
  'fashion_supervised-attacks': ('fashion_mnist', 'supervised'),
}


def get_config(argument: str = 'contrastive'):
  dataset, kind = choose(argument, CHOICES, 'contrastive')
  config = common.get_config()
  common.data(config, dataset)
  config.batch_size = 128
  if kind == 'contrastive':
    _contrastive(config)
  else:
    _supervised(config)
  if argument.endswith('-anchor'):
    config.method.include_anchor = True
  if argument.endswith('-labels'):
    _table_1(config)
  if argument.endswith('-attacks'):
    config.eval.protocols.robustness = ConfigDict({'attack': ('early_stop_l2', 'plb_l2')})
  if kind == 'finetuned':
    _finetuned(config)
  if dataset == 'fashion_mnist':
    _small(config, kind)
    _short_evaluation(config.eval.protocols)
  return config


def _contrastive(config):
  config.data.train_split = 'train[:95%]'
  config.eval.train_split = 'train'
  config.num_epochs = 100.0
  config.model = common.model('resnet50', width=16, stem='cifar', downsample='avgpool')
  config.augment = common.views('simclr', size=32, jitter_strength=1.0, method='bilinear')
  config.method = common.method(
    'simclr', temperature=0.5, projector='solo_simclr', hidden_dim=512, out_dim=128
  )
  config.optimizer = common.optimizer(
    'adam', learning_rate=3e-4, scaling='none', weight_decay=1e-5, exclude_from_decay='none'
  )
  config.schedule = common.schedule('constant', warmup_epochs=0.0)
  config.eval_every = 10.0


def _table_1(config):
  """All of table 1 when the training ends: few labels, from scratch, and fine-tuned."""
  shares = (0.01, 0.1, 1.0)
  few = {'preset': 'robustness', 'label_fraction': shares, 'per_class': (), 'balanced': False}
  scratch = {'baseline': 'robustness_supervised', 'draws': 1}
  config.eval.protocols.few_label = ConfigDict({**few, **scratch})
  config.eval.protocols.finetune = ConfigDict({'preset': 'robustness', 'label_fraction': shares})


def _supervised(config):
  config.num_epochs = 200.0
  config.model = common.model('resnet50', width=16, stem='cifar', downsample='avgpool')
  config.augment = common.views('crop_flip', size=32, padding=4, num_views=1)
  config.method = common.method('supervised')
  config.optimizer = common.optimizer(
    'sgd',
    learning_rate=0.1,
    scaling='none',
    momentum=0.9,
    weight_decay=5e-4,
    exclude_from_decay='none',
  )
  config.schedule = common.schedule('step_decay', milestones=(60, 120, 160), factor=0.2)
  config.eval_every = 10.0
  config.eval.protocols.own_head = ConfigDict()


def _finetuned(config):
  """From the weights of `init_from`."""
  config.num_epochs = 100.0
  config.method.head_layers = 2
  config.optimizer.update({'learning_rate': 0.8, 'weight_decay': 0.0})
  config.schedule.milestones = (60,)


def _small(config, kind: str):
  """The size of a CPU: what is not set here is as on CIFAR-10."""
  config.data.train_split = 'train[:10000]'
  config.eval.train_split = None
  config.num_epochs = 5.0
  config.model = common.model('resnet_tiny', width=16)
  if kind == 'contrastive':
    config.augment = common.views(
      'sogclr', size=28, crop_scale=(0.2, 1.0), jitter=(0.4, 0.4, 0.0, 0.0), gray_p=0.0
    )
    config.method.update({'hidden_dim': 64, 'out_dim': 64})
    config.optimizer.learning_rate = 1e-3
  else:
    config.augment = common.views('crop_flip', size=28, padding=2, num_views=1)
    config.optimizer.learning_rate = 0.1
  config.schedule = common.schedule('warmup_cosine', warmup_epochs=0.5)
  config.eval_every = 0.0


def _short_evaluation(protocols):
  """Few-label networks by this library's short recipes, and a quarter of ProxLogBarrier's steps."""
  if 'few_label' in protocols:
    del protocols.few_label.preset
    protocols.few_label.baseline = 'small_supervised'
    protocols.finetune.preset = 'small'
    protocols.finetune.balanced = False
  if 'robustness' in protocols:
    protocols.robustness.update({'outer': 15, 'inner': 15})
