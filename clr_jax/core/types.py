"""Types shared by all parts of the library: arrays, batches, methods, training state.

A *method* (SimCLR, SogCLR, ...) is a `Method`, a NamedTuple of pure functions. The train step
(`clr_jax.experiment.train_step`) calls them in the order embed -> loss -> optimizer -> post_update.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import flax.struct
import jax

from clr_jax.core.metrics import Metrics

Array = jax.Array
PyTree = Any
Params = dict[str, Any]  # first key = component: 'backbone', 'projector', 'predictor', 'probe', ...
State = dict[str, Any]  # everything else that a checkpoint must hold
Schedule = Callable[[Any], Any]  # step -> value

Carry = dict[str, Any]
"""Values passed from `embed` and `loss` to `post_update`, merged; replicated over the devices.

key           written by                                    read by
batch_stats   embed of all skeletons                        commit_batch_stats, accumulate
target_stats  embed of `distillation`                       its post_update, accumulate
keys          loss of methods with a queue                  enqueue_keys, swav, dynamic
queries       loss of `dynamic`                             its post_update
index         loss of methods with tables (MovingAverage)   write_tables
per_example   loss of methods with tables (MovingAverage)   write_tables, telemetry
covariance    loss of tico                                  its post_update
teacher_mean  loss of dino                                  its post_update

A method may add keys for its own `post_update`.
"""

Pairs = Literal['own', 'set', 'cluster', 'batch']
PAIRS: Mapping[Pairs, str] = {
  'own': 'each image has its own positive, such as another view or a neighbor',
  'set': 'the positives form a set, such as a class or all other views',
  'cluster': 'the targets are computed from the online embeddings of the batch',
  'batch': 'the loss is a statistic of the whole batch, not a mean over images',
}
"""Kinds of comparisons in losses, as messages describe them; see `Method.pairs`."""


class Batch(NamedTuple):
  """One global batch. Rows never repeat an `index`.

  Attributes:
    image: [B, H, W, C] uint8, or None once there are `views`.
    extent: [B, 2] int32, height and width of each image in the top left corner of its canvas; None
      if all images fill their arrays.
    label: [B] int32, or None for unlabeled data.
    index: [B] int32, position of each row in the training set, stable over epochs.
    views: {'global': [B, V, H, W, C], ...} float in [0, 1]; computed by the train step.
  """

  image: Any = None
  label: Any = None
  index: Any = None
  views: Any = None
  extent: Any = None


class Out(NamedTuple):
  """Outputs of a pass of the networks over a batch of views, for the loss.

  Attributes:
    online: [B, V, D] embeddings that carry gradient: projector or predictor output, not normalized.
    target: [B, V, D] embeddings without gradient (EMA target), or None.
    h: [B, V, F] backbone features of the same pass.
    extra: other outputs: prototypes, stages, logits, additions of wrappers.
  """

  online: Any = None
  target: Any = None
  h: Any = None
  extra: Mapping[str, Any] = {}


class Group(NamedTuple):
  """Optimizer settings of the parameters below one first key of `params`.

  Attributes:
    lr_scale: factor of the learning rate.
    lr: a constant learning rate or schedule that replaces the run's; None keeps it.
    peak_of: number of steps of the run to hold the learning rate constant at the peak of its
      schedule (SimSiam's predictor); 0 follows the schedule.
    weight_decay: weight decay that replaces the run's; None keeps it.
    freeze_steps: number of first steps in which the group is frozen (no momentum, no decay).
    no_sam: exclude the group from SAM's perturbation and gradient norm.
  """

  lr_scale: float = 1.0
  lr: float | Schedule | None = None
  peak_of: int = 0
  weight_decay: float | None = None
  freeze_steps: int = 0
  no_sam: bool = False


class RunInfo(NamedTuple):
  """Facts about a run, from which a method's factory builds schedules, tables and checks.

  Attributes:
    num_examples: N, size of the training set (valid values of `Batch.index` are 0..N-1).
    num_classes: number of classes, or None for unlabeled data and for one class.
    batch_size: B, images in the global batch.
    num_views: V of views['global'].
    steps_per_epoch: N // B.
    total_steps: steps of the whole run.
  """

  num_examples: int
  num_classes: int | None
  batch_size: int
  num_views: int
  steps_per_epoch: int
  total_steps: int


class InitFn(Protocol):
  def __call__(self, rng: Array, batch: Batch) -> tuple[Params, State]:
    """Returns parameters and state for step 0; `batch.views` determines the shapes.

    `state['per_example'] = {name: [N_pad]}` is sharded over the data axis, the rest is replicated.
    """
    ...


class EmbedFn(Protocol):
  def __call__(
    self, params: Params, state: State, batch: Batch, rng: Array, step: Array
  ) -> tuple[Out, Carry]:
    """Runs every network pass of the step. The carry holds the new BatchNorm statistics."""
    ...


class LossFn(Protocol):
  def __call__(
    self, out: Out, state: State, batch: Batch, rng: Array, step: Array
  ) -> tuple[Array, Carry, Metrics]:
    """Computes a scalar from embeddings, without networks or parameters."""
    ...


class PostUpdateFn(Protocol):
  def __call__(
    self, params: Params, state: State, carry: Carry, step: Array
  ) -> tuple[Params, State]:
    """Updates the state (statistics, tables, EMA, queues) after the optimizer's update."""
    ...


class RepresentFn(Protocol):
  def __call__(self, params: Params, state: State, images: Array) -> dict[str, Array]:
    """Inference: maps images [B, H, W, C] in [0, 1] to {'h': [B, F], 'z': [B, D], ...}."""
    ...


class ScoresFn(Protocol):
  def __call__(self, out: Out, state: State, batch: Batch, rng: Array, step: Array) -> Any:
    """Returns the `clr_jax.losses.scores.ScoreSets` that `loss` compares for these arguments."""
    ...


class GradientMetricsFn(Protocol):
  def __call__(self, grads: Params, step: Array) -> Metrics:
    """Computes metrics of the step's gradient, before the optimizer changes it."""
    ...


class StageLossesFn(Protocol):
  def __call__(self, out: Out) -> Sequence[Array]:
    """Computes one scalar per stage of the backbone, shallow to deep."""
    ...


class Method(NamedTuple):
  """A method of representation learning: pure functions over (params, state), and facts about them.

  Wrappers read these facts instead of the method's name.

  Attributes:
    name: name of the method, for messages.
    init, embed, loss, post_update, represent: see the classes of these names + Fn.
    pairs: kind of comparison, a key of PAIRS. With 'own' the loss is a mean over images (other
      images may be negatives), so that it can be weighted image by image.
    independent: True if the loss is a mean of losses of single views, none of which depends on
      another view or another image of the batch.
    groups: optimizer settings by first key of `params`.
    scores: scores for telemetry; None for methods without negatives.
    stage_losses: losses of the backbone's stages that are added to the loss; None without.
    gradient_metrics: adds metrics that need the gradient; None adds nothing.
  """

  name: str
  init: InitFn
  embed: EmbedFn
  loss: LossFn
  post_update: PostUpdateFn
  represent: RepresentFn
  pairs: Pairs
  independent: bool = False
  groups: Mapping[str, Group] = {}
  scores: ScoresFn | None = None
  stage_losses: StageLossesFn | None = None
  gradient_metrics: GradientMetricsFn | None = None


class TrainState(flax.struct.PyTreeNode):
  """The content of a checkpoint. The random key of a step is fold_in(key, step)."""

  step: Array
  params: Params
  state: State
  opt_state: PyTree
  key: Array


ViewFn = Callable[..., Mapping[str, Array]]
"""(key, uint8 [B, H, W, C]) -> views; for images on canvases (key, images, extent) -> views."""
