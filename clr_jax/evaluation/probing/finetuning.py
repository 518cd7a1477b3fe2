"""Fine-tuning of a run's backbone with a new classifier, by the library's train step."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from clr_jax import augment, data, models, optim
from clr_jax.core.errors import UserError
from clr_jax.core.programs import host_jit
from clr_jax.core.types import Array, Batch, Group, Metrics, Params, RepresentFn, State, TrainState
from clr_jax.data.pipeline import Pipeline, make_pipeline
from clr_jax.evaluation.probing.features import extract
from clr_jax.experiment.build import Experiment
from clr_jax.experiment.train_step import init_state, make_train_step
from clr_jax.methods.supervised import classification
from clr_jax.models.heads import MLPHead
from clr_jax.ops import ema, sharding
from clr_jax.ops.similarity import l2_normalize
from clr_jax.optim import schedules

_SCHEDULES = {
  'cosine': 'warmup_cosine',
  'tcl': 'tcl',
  'step': 'step_decay',
  'constant': 'constant',
}


class Recipe(NamedTuple):
  """Training hyper-parameters; see `recipes.make_recipe` for the fields."""

  epochs: int
  batch_size: int
  backbone_lr: float
  head_lr: float
  momentum: float
  weight_decay: float
  schedule: str
  milestones: tuple[float, ...]
  factor: float
  warmup_epochs: float
  head_layers: int
  normalize: str
  detach_features: bool
  augment: str
  head: str = 'new'
  layer_decay: float = 1.0


class Tuned(NamedTuple):
  """A trained network with its training curves.

  Attributes:
    represent: see `Method`; returns {'h': ..., 'logits': ...}.
    params, state: arguments of `represent`.
    loss: mean training loss of every epoch.
    epoch: epochs after which the network was tested, from 1, including the last.
    scores: top-1 accuracy in [0, 1] on each of the tested sets, after each of these epochs.
  """

  represent: RepresentFn
  params: Params
  state: State
  loss: list[float]
  epoch: list[int]
  scores: list[list[float]]


class _Program(NamedTuple):
  """Programs, compiled once for all trainings of one shape."""

  init: Callable[[Array], TrainState]
  step: Callable[[TrainState, Any, Any], tuple[TrainState, Metrics]]
  represent: RepresentFn


class Classifier(nn.Module, kw_only=True):
  """Classifier of features: Linear, or Linear - ReLU - Linear.

  Attributes:
    hidden_dims: () or (width of the hidden layer,).
    num_classes: number of outputs.
    normalize: divide each feature vector by its length.
    detach: stop the gradient to the features.
  """

  hidden_dims: tuple[int, ...]
  num_classes: int
  normalize: bool
  detach: bool

  @nn.compact
  def __call__(self, h: Array, *, train: bool, groups: int = 1) -> Array:
    """Maps [R, F] to logits [R, num_classes]."""
    if self.detach:
      h = jax.lax.stop_gradient(h)
    if self.normalize:
      h = l2_normalize(h)
    head = MLPHead(hidden_dims=self.hidden_dims, out_dim=self.num_classes, name='mlp')
    return head(h, train=train, groups=groups)


def backbone_weights(experiment: Experiment, params: Params, state: State) -> tuple[Params, State]:
  """Parameters and BatchNorm statistics of the backbone that `Method.represent` uses.

  Args:
    params, state: as in the train state; arrays or shapes.

  Raises:
    UserError: the method stores its backbone under another key.
  """
  if experiment.config.method.get('represent') == 'target':
    params, state = state['target']['params'], state['target']
  try:
    found = params['backbone'], state['batch_stats'].get('backbone', {})
  except KeyError:
    found = None
  backbone = experiment.backbone
  size, channels = experiment.config.augment.size, experiment.source.image_shape[-1]
  image = jax.ShapeDtypeStruct((1, size, size, channels), jnp.float32)
  init = functools.partial(backbone.init, train=False)
  wanted = jax.eval_shape(init, jax.random.key(0), image)
  if found is None or _shapes(found) != _shapes((wanted['params'], wanted.get('batch_stats', {}))):
    raise UserError(
      f"{experiment.config.method.name} does not keep the network of config.model as 'backbone': "
      'it cannot be fine-tuned'
    )
  return found


def _shapes(tree: Any) -> Any:
  return jax.tree.map(jnp.shape, tree)


def own_classifier(experiment: Experiment, params: Params) -> Params:
  """Parameters of `Classifier` that make it the run's own classification head, one Linear layer.

  Raises:
    UserError: the method has no such head.
  """
  if 'classifier' not in params:
    raise UserError(
      f'{experiment.config.method.name} has no classification head of its own: set head=new'
    )
  return {'mlp': params['classifier']}


def fit(
  experiment: Experiment,
  weights: tuple[Params, State],
  train: data.Source,
  tested: list[data.Source],
  recipe: Recipe,
  *,
  test_every: int,
  seed: int,
  classifier: Params | None = None,
) -> Tuned:
  """Trains backbone and a new classifier on a labeled source.

  The given weights are not modified; accuracies use BatchNorm in inference mode.

  Args:
    experiment: the run of the backbone.
    weights: result of `backbone_weights`, on the run's mesh.
    train: training set with at least `recipe.batch_size` examples.
    tested: labeled sets with the same classes.
    test_every: epochs between tests.
    seed: RNG seed of the classifier's weights, the order of the examples and the augmentation.
    classifier: first weights of the classifier, see `own_classifier`; None = new ones.

  Raises:
    UserError: a warm-up longer than the training, a negative weight decay, or
      errors of `make_pipeline`.
  """
  options = experiment.config.data
  pipeline = make_pipeline(
    train,
    batch_size=recipe.batch_size,
    seed=seed,
    mesh=experiment.mesh,
    mode=options.mode,
    workers=options.workers,
  )
  program = _program(
    experiment.backbone,
    recipe,
    train.num_classes,
    train.stored_shape,
    train.whole is not None,
    experiment.config.augment.size,
    pipeline.steps_per_epoch,
    experiment.mesh,
    experiment.views.policies[0] if recipe.augment == 'own' else None,
  )
  state = _start(program, weights, classifier, seed)
  losses, epoch_losses, epochs, scores = [], [], [], []
  steps = [(step, 1) for step in range(recipe.epochs * pipeline.steps_per_epoch)]
  with contextlib.closing(pipeline.blocks(steps)) as blocks:
    for step, block in enumerate(blocks, 1):
      state, metrics = program.step(state, pipeline.resident, block)
      losses.append(metrics['loss'])
      epoch, inside = divmod(step, pipeline.steps_per_epoch)
      if inside:
        continue
      epoch_losses.append(float(np.mean(jax.device_get(losses))))
      losses.clear()
      if epoch % test_every == 0 or epoch == recipe.epochs:
        epochs.append(epoch)
        scores.append([_top1(program, state, source, experiment.mesh) for source in tested])
  return Tuned(program.represent, state.params, state.state, epoch_losses, epochs, scores)


def _start(
  program: _Program, weights: tuple[Params, State], classifier: Params | None, seed: int
) -> TrainState:
  # The train step donates the buffers of its state.
  (params, statistics), classifier = ema.copy((weights, classifier))
  state = program.init(jax.random.key(seed))
  if classifier is None:
    classifier = state.params['classifier']
  elif _shapes(classifier) != _shapes(state.params['classifier']):
    raise UserError(
      "the run's own head is not one layer for the classes of this data: set head=new"
    )
  return state.replace(
    params={**state.params, 'backbone': params, 'classifier': classifier},
    state={'batch_stats': {**state.state['batch_stats'], 'backbone': statistics}}
    if statistics
    else state.state,
  )


def _top1(program: _Program, state: TrainState, source: data.Source, mesh: Mesh) -> float:
  logits = extract(program.represent, state.params, state.state, source, mesh=mesh, key='logits')
  assert logits.label is not None
  return float(np.mean(logits.h.argmax(-1) == logits.label))


# Draws, and labels of other images, differ in arrays only.
@functools.lru_cache(maxsize=16)
def _program(
  backbone: nn.Module,
  recipe: Recipe,
  num_classes: int,
  stored_shape: tuple[int, int, int],
  whole: bool,
  size: int,
  steps_per_epoch: int,
  mesh: Mesh,
  policy: augment.Policy | None,
) -> _Program:
  total_steps = recipe.epochs * steps_per_epoch
  frozen = recipe.detach_features or recipe.backbone_lr == 0
  method = classification(
    backbone,
    Classifier(
      hidden_dims=(backbone.num_features,) * (recipe.head_layers - 1),
      num_classes=num_classes,
      normalize=recipe.normalize == 'l2',
      detach=recipe.detach_features,
    ),
    num_classes,
    groups={
      # Frozen, it keeps its bits: no weight decay either.
      'backbone': Group(lr_scale=recipe.backbone_lr, freeze_steps=total_steps if frozen else 0),
      'classifier': Group(lr_scale=recipe.head_lr),
    },
  )
  tx = optim.make(
    'sgd',
    method.groups,
    False,
    {'backbone': _factors(backbone, recipe.layer_decay)},
    learning_rate=_schedule(recipe, steps_per_epoch, total_steps),
    weight_decay=recipe.weight_decay,
    momentum=recipe.momentum,
  )
  if policy is None:
    # He et al.'s 4 pixels of padding are for images of 32.
    options = {'padding': max(1, size // 8)} if recipe.augment == 'crop_flip' else {}
    views = augment.make(recipe.augment, size=size, num_views=1, **options)
  else:
    views = augment.single(policy)
  train_step = make_train_step(method, views, tx, mesh=mesh)
  everywhere = sharding.replicated(mesh)

  def init(key: Array) -> TrainState:
    label, index = jnp.zeros([2], jnp.int32), jnp.arange(2, dtype=jnp.int32)
    image, extent = jnp.zeros([2, *stored_shape], jnp.uint8), jnp.ones([2, 2], jnp.int32)
    extent = extent if whole else None
    batch = Batch(image=image, label=label, index=index, extent=extent)
    return init_state(key, batch, method, views, tx)

  def step(state: TrainState, resident: Any, block: Any) -> tuple[TrainState, Metrics]:
    row = jax.tree.map(lambda x: x[0], block)
    return train_step(state, Pipeline.batch(resident, row))

  return _Program(
    host_jit(init, out_shardings=everywhere),
    host_jit(step, donate_argnums=0, out_shardings=(everywhere, None)),
    method.represent,
  )


def _factors(backbone: Any, layer_decay: float) -> dict[str, float]:
  by_layer = backbone.layer_factors(layer_decay) if layer_decay != 1 else {}
  return {**by_layer, **models.fixed_factors(backbone)}


def _schedule(recipe: Recipe, steps_per_epoch: int, total_steps: int):
  """Schedule of the factor of both learning rates."""
  # A preset may have milestones after the end of a shorter training.
  milestones = tuple(m for m in recipe.milestones if m < recipe.epochs)
  step = {'milestones': milestones, 'factor': recipe.factor}
  return schedules.make(
    _SCHEDULES[recipe.schedule],
    peak=1.0,
    steps_per_epoch=steps_per_epoch,
    total_steps=total_steps,
    warmup_epochs=recipe.warmup_epochs,
    **(step if recipe.schedule == 'step' else {}),
  )
