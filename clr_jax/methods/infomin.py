"""InfoMin: MoCo with a jigsaw branch, Tian et al., https://arxiv.org/abs/2005.10243."""

import functools

import flax.linen as nn

from clr_jax.core.bounds import Dimension, Probability, Temperature
from clr_jax.core.errors import UserError
from clr_jax.core.options import takes_options_of
from clr_jax.core.types import Method, RunInfo
from clr_jax.losses.queue import queue_infonce
from clr_jax.models import heads
from clr_jax.models.siamese import Chain
from clr_jax.ops.random import Stream, stream
from clr_jax.skeletons.momentum_contrast import momentum_contrast


@takes_options_of(momentum_contrast, without=('final_momentum', 'ema_index', 'symmetric', 'beta'))
def infomin(
  backbone: nn.Module,
  info: RunInfo,
  *,
  jigsaw_weight: Probability = 0.5,
  temperature: Temperature = 0.15,
  projector: heads.Recipe = 'mocov2',
  hidden_dim: Dimension | None = None,
  out_dim: Dimension = 128,
  **options,
) -> Method:
  """MoCo's InfoNCE of view 0 and of the image's shuffled patches against the key of view 1.

  The patches are batch.views['jigsaw'] [B, P, h, w, C]: each passes through the backbone (all
  patches share batch statistics) and a separate head; a Linear layer joins their outputs.

  Args:
    jigsaw_weight: beta in loss = (1 - beta) main + beta jigsaw, .5 (PyContrast).
    temperature: divisor of the similarities; .15 (PyContrast's InfoMin).
    projector: recipe of `clr_jax.models.heads`, also for the patches' head; 'mocov2' (PyContrast).
    hidden_dim: width of the hidden layers of the projector; None = the backbone's width
      (PyContrast).
    out_dim: length of the embeddings; 128 (PyContrast).
    **options: options of `momentum_contrast`: queue_length 65536, momentum .999, per_view_bn True
      (all as in PyContrast); plugins act on the main branch only.

  Raises:
    UserError: at init, views without 'jigsaw'; settings that MoCo rejects.
  """
  main = momentum_contrast(
    'infomin',
    backbone,
    info,
    temperature=temperature,
    projector=projector,
    hidden_dim=hidden_dim,
    out_dim=out_dim,
    **options,
  )

  def jigsaw_network(num_patches):
    make = functools.partial(heads.make, out_dim=out_dim)
    patch = make(projector, hidden_dim=hidden_dim or backbone.num_features)
    head = heads.JigsawHead(num_patches=num_patches, patch=patch, join=make('linear'))
    return Chain({'backbone': backbone, 'jigsaw': head})

  def init(rng, batch):
    patches = batch.views.get('jigsaw')
    if patches is None:
      raise UserError(
        "infomin needs views of shuffled patches: set augment.name='infomin_jigsaw' "
        f'(the views are {", ".join(batch.views)})'
      )
    params, state = main.init(rng, batch)
    extra, batch_stats = jigsaw_network(patches.shape[1]).init(
      stream(rng, Stream.JIGSAW), patches.reshape(-1, *patches.shape[2:])
    )
    return {**extra, **params}, {**state, 'batch_stats': {**batch_stats, **state['batch_stats']}}

  def embed(params, state, batch, rng, step):
    out, carry = main.embed(params, state, batch, rng, step)
    patches = batch.views.get('jigsaw')
    if patches is None:  # only the statistics of whole images are needed, see `init`
      return out, carry
    outputs, batch_stats = jigsaw_network(patches.shape[1]).apply(
      params,
      carry['batch_stats'],
      patches.reshape(-1, *patches.shape[2:]),
      train=True,
      rng=stream(rng, Stream.JIGSAW_DROP_PATH),
    )
    out = out._replace(extra={**out.extra, 'jigsaw': outputs['jigsaw']})
    return out, {**carry, 'batch_stats': batch_stats}

  def loss(out, state, batch, rng, step):
    main_loss, carry, metrics = main.loss(out, state, batch, rng, step)
    if 'jigsaw' not in out.extra:  # a wrapper's additional terms use the main branch only
      return (1 - jigsaw_weight) * main_loss, carry, metrics
    # The original key and queue: plug-ins change them in the main branch only.
    jigsaw_loss = queue_infonce(
      out.extra['jigsaw'], carry['keys'], state['queue']['rows'], temperature=temperature
    ).mean()
    total = (1 - jigsaw_weight) * main_loss + jigsaw_weight * jigsaw_loss
    return total, carry, {**metrics, 'loss_main': main_loss, 'loss_jigsaw': jigsaw_loss}

  return main._replace(init=init, embed=embed, loss=loss)
