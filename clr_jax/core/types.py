"""The vocabulary that every part of the library shares: arrays, batches, methods, training state.

A *method* (SimCLR, SogCLR, ...) is a `Method`: a NamedTuple of pure functions. The one train step
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
State = dict[str, Any]  # everything else that must survive a restart
Schedule = Callable[[Any], Any]  # step -> value

Carry = dict[str, Any]
"""What `embed` and `loss` hand to `post_update`, merged; replicated over the devices.

key           written by                                    read by
batch_stats   embed of all skeletons                        commit_batch_stats, accumulate
target_stats  embed of `distillation`                       its post_update, accumulate
keys          loss of methods with a queue                  enqueue_keys, swav, dynamic
queries       loss of `dynamic`                             its post_update
index         loss of methods with tables (MovingAverage)   write_tables
per_example   loss of methods with tables (MovingAverage)   write_tables, telemetry
covariance    loss of tico                                  its post_update
teacher_mean  loss of dino                                  its post_update

A method may add keys of its own for its own `post_update`.
"""

Pairs = Literal['own', 'set', 'cluster', 'batch']
PAIRS: Mapping[Pairs, str] = {
  'own': 'each image is compared with a positive of its own, such as another view or a neighbor',
  'set': 'the positives are a set at once, such as a class or all other views',
  'cluster': 'the targets are computed from the online embeddings of the batch',
  'batch': 'the loss is a statistic of the whole batch, not a mean over images',
}
"""What losses compare an image with, in the words of messages; see `Method.pairs`."""


class Batch(NamedTuple):
  """One global batch. Rows never repeat an `index`.

  Attributes:
    image: [B, H, W, C] uint8, or None once `views` are made.
    label: [B] int32, or None for unlabeled data.
    index: [B] int32, position of each row in the training set, stable over epochs.
    views: {'global': [B, V, H, W, C], ...} float in [0, 1]; made by the train step.
  """

  image: Any = None
  label: Any = None
  index: Any = None
  views: Any = None


class Out(NamedTuple):
  """What one pass of the networks over a batch of views gives to the loss.

  Attributes:
    online: [B, V, D] embeddings that carry gradient: projector or predictor output, not normalized.
    target: [B, V, D] embeddings without gradient (EMA target), or None.
    h: [B, V, F] backbone features of the same pass.
    extra: prototypes, stages, logits, things that wrappers add.
  """

  online: Any = None
  target: Any = None
  h: Any = None
  extra: Mapping[str, Any] = {}


class Group(NamedTuple):
  """How the optimizer treats the parameters below one first key of `params`.

  Attributes:
    lr_scale: multiplies the learning rate.
    lr: a constant learning rate or schedule that replaces the run's; None keeps it.
    peak_of: with so many steps in the run, the learning rate is constant at the highest value of
      its schedule, whatever that is (SimSiam's predictor); 0 follows the schedule.
    weight_decay: replaces the run's weight decay; None keeps it.
    freeze_steps: for so many first steps the group's updates are dropped (no momentum, no decay).
    no_sam: the group is left out of SAM's perturbation and of its gradient norm.
  """

  lr_scale: float = 1.0
  lr: float | Schedule | None = None
  peak_of: int = 0
  weight_decay: float | None = None
  freeze_steps: int = 0
  no_sam: bool = False


class RunInfo(NamedTuple):
  """Facts of a run that a method's factory may build schedules, tables and checks from.

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
    """Parameters and state for step 0; `batch.views` gives the shapes.

    `state['per_example'] = {name: [N_pad]}` is sharded over the data axis, all else is replicated.
    """
    ...


class EmbedFn(Protocol):
  def __call__(
    self, params: Params, state: State, batch: Batch, rng: Array, step: Array
  ) -> tuple[Out, Carry]:
    """Every network pass of the step. The carry holds the new BatchNorm statistics."""
    ...


class LossFn(Protocol):
  def __call__(
    self, out: Out, state: State, batch: Batch, rng: Array, step: Array
  ) -> tuple[Array, Carry, Metrics]:
    """A scalar from embeddings: no network, no parameters. This is what the golden tests call."""
    ...


class PostUpdateFn(Protocol):
  def __call__(
    self, params: Params, state: State, carry: Carry, step: Array
  ) -> tuple[Params, State]:
    """After the optimizer; the only writer of state (statistics, tables, EMA, queues)."""
    ...


class RepresentFn(Protocol):
  def __call__(self, params: Params, state: State, images: Array) -> dict[str, Array]:
    """Inference: images [B, H, W, C] in [0, 1] -> {'h': [B, F], 'z': [B, D], 'logits': ...}."""
    ...


class ScoresFn(Protocol):
  def __call__(self, out: Out, state: State, batch: Batch, rng: Array, step: Array) -> Any:
    """The `clr_jax.losses.scores.ScoreSets` that `loss` compares, given the same arguments."""
    ...


class GradientMetricsFn(Protocol):
  def __call__(self, grads: Params, step: Array) -> Metrics:
    """Metrics of the gradient that the step computed, before the optimizer changes it."""
    ...


class StageLossesFn(Protocol):
  def __call__(self, out: Out) -> Sequence[Array]:
    """One scalar for each stage of the backbone, shallow to deep."""
    ...


class Method(NamedTuple):
  """A method of representation learning: pure functions over (params, state), and facts about them.

  Wrappers ask the facts, so that none of them needs to know methods by name.

  Attributes:
    name: of the method, for messages.
    init, embed, loss, post_update, represent: see the classes of these names + Fn.
    pairs: what the loss compares an image with, a key of PAIRS. With 'own' the loss is a mean over
      images (other images may be negatives), so that it can be weighted image by image.
    independent: the loss is a mean of losses of single views, none of which depends on another view
      or on another image of the batch.
    groups: how the optimizer treats parameters, by first key of `params`.
    scores: what telemetry measures; None for methods without negatives.
    stage_losses: the losses of the backbone's stages that are added to the loss; None = none are.
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
  """All that a checkpoint holds. Randomness of a step is fold_in(key, step)."""

  step: Array
  params: Params
  state: State
  opt_state: PyTree
  key: Array


ViewFn = Callable[[Array, Array], Mapping[str, Array]]  # (key, uint8 [B,H,W,C]) -> views
