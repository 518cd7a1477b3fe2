"""Settings of a run that do not belong to a component: options of sections of a config."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Literal

from annotated_types import Gt, Le, MinLen

from clr_jax.core.bounds import Count, CountOrZero, Epochs, NonNegative, Pixels, Seed, Workers
from clr_jax.core.options import DISTINCT, INCREASING, NO_EFFECT_ON_TRAINING, OPTIONAL
from clr_jax.data.whole import Interpolation
from clr_jax.rundir.loggers import LoggerName
from clr_jax.rundir.results import FeaturesOf

PositiveEpochs = Annotated[float, Gt(0), Le(100_000)]
Loggers = Annotated[tuple[LoggerName, ...], DISTINCT]
Features = Annotated[tuple[FeaturesOf, ...], MinLen(1), DISTINCT]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
  """Keys at the top of a config.

  Attributes:
    seed: RNG seed of the run.
    batch_size: images (not views) in the global batch.
    accumulate: number of passes over parts of the batch; the loss uses the whole batch.
    num_epochs: length of the training, in epochs.
    precision: dtype of the backbone's computation; 'bfloat16' for GPU and TPU.
    deterministic: resume bit-for-bit on GPU, at some cost in speed.
    init_from: workdir of another run, or file of weights of another library (.safetensors, .pth),
      to start from; '' = random weights.
    stop_at_epoch: epoch at which to pause the run, with an unchanged schedule; None = at the end.
    log_every: steps between rows of metrics.
    eval_every: epochs between evaluations; 0 = only at the end.
    checkpoint_every: epochs between checkpoints; 0 = only at the end.
    keep_last: number of newest checkpoints to keep.
    keep_best: metric, such as 'online_knn_top1', whose best checkpoint is also kept; '' = none.
    imports: your modules that register methods and other components: files or importable names.
    loggers: additional outputs for metrics: 'tensorboard', 'csv', 'wandb'.
    steps_per_call: training steps per dispatch; None = 1 on CPUs, 25 elsewhere.
    shard_optimizer: shard the optimizer state over the devices.
    progress: show a progress bar in the terminal.
    watchdog_seconds: longest time without progress before the process ends; 0 = no limit.
    profile: (first, last) step of a profiler trace; (0, 0) = none.
  """

  seed: Seed = 0
  batch_size: Count = 256
  accumulate: Count = 1
  num_epochs: PositiveEpochs = 100.0
  precision: Literal['float32', 'bfloat16'] = 'float32'
  deterministic: bool = True
  init_from: str = ''
  stop_at_epoch: Annotated[PositiveEpochs | None, NO_EFFECT_ON_TRAINING] = None
  log_every: Annotated[CountOrZero, NO_EFFECT_ON_TRAINING] = 50
  eval_every: Annotated[Epochs, NO_EFFECT_ON_TRAINING] = 1.0
  checkpoint_every: Annotated[Epochs, NO_EFFECT_ON_TRAINING] = 1.0
  keep_last: Annotated[Count, NO_EFFECT_ON_TRAINING] = 2
  keep_best: Annotated[str, NO_EFFECT_ON_TRAINING] = ''
  imports: Annotated[tuple[str, ...], NO_EFFECT_ON_TRAINING, OPTIONAL] = ()
  loggers: Annotated[Loggers, NO_EFFECT_ON_TRAINING, OPTIONAL] = ('tensorboard',)
  steps_per_call: Annotated[Count | None, NO_EFFECT_ON_TRAINING] = None
  shard_optimizer: Annotated[bool, NO_EFFECT_ON_TRAINING] = False
  progress: Annotated[bool, NO_EFFECT_ON_TRAINING] = True
  watchdog_seconds: Annotated[NonNegative, NO_EFFECT_ON_TRAINING] = 1800.0
  profile: Annotated[tuple[CountOrZero, CountOrZero], INCREASING, NO_EFFECT_ON_TRAINING] = (0, 0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
  """`config.data`: the images.

  Attributes:
    name: a TFDS name, 'imagenet100', 'folder:PATH', 'npz:PATH' or 'digits'.
    train_split: split to train on, also a slice, 'train[:90%]', or several, 'train+unlabelled'.
    test_split: split for evaluation; '' = none.
    data_dir: folder of the TFDS data sets; None = TFDS's own default.
    image_size: side of the resized square images, pixels; None = keep whole images of any size.
    canvas: side of the array that holds a whole image if images differ in size, pixels; larger
      images are reduced to it; None = 16/7 of the views' side, 512 for 224.
    mode: 'resident' on the device or 'streamed'; 'auto' = resident up to 2 GiB.
    workers: processes that decode streamed images; 0 = threads.
  """

  name: Annotated[str, MinLen(1)] = 'digits'
  train_split: Annotated[str, MinLen(1)] = 'train'
  test_split: str = 'test'
  data_dir: Annotated[str | None, NO_EFFECT_ON_TRAINING] = None
  image_size: Pixels | None = None
  canvas: Pixels | None = None
  mode: Annotated[Literal['auto', 'resident', 'streamed'], NO_EFFECT_ON_TRAINING] = 'auto'
  workers: Annotated[Workers, NO_EFFECT_ON_TRAINING] = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
  """`config.eval`: the evaluation at the end of training.

  Attributes:
    protocols: options of each protocol by its name; None leaves one out.
    features: features to evaluate: 'trained', 'untrained' (step 0), or raw 'pixels'.
    data: labeled data set to evaluate on; None = that of `config.data`.
    train_split, test_split: splits of the data set to evaluate on; None = those of `config.data`.
    resize: shorter side that whole images are resized to; None = 256/224 of the views' side.
    crop: side of the central square cropped from the resized image; None = the views' side.
    interpolation: method of resizing, PIL's 'bilinear' or 'bicubic'.
  """

  protocols: Annotated[Mapping[str, Mapping[str, object] | None], NO_EFFECT_ON_TRAINING]
  features: Annotated[Features, NO_EFFECT_ON_TRAINING] = ('trained',)
  data: Annotated[str | None, NO_EFFECT_ON_TRAINING] = None
  train_split: Annotated[str | None, NO_EFFECT_ON_TRAINING] = None
  test_split: Annotated[str | None, NO_EFFECT_ON_TRAINING] = None
  resize: Annotated[Pixels | None, NO_EFFECT_ON_TRAINING] = None
  crop: Annotated[Pixels | None, NO_EFFECT_ON_TRAINING] = None
  interpolation: Annotated[Interpolation, NO_EFFECT_ON_TRAINING] = 'bilinear'
