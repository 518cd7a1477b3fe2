"""Methods of `clr_jax.methods` in plain PyTorch, as `nn.Module`s.

A method maps views to (loss, carry); `after_step(carry)` follows the optimizer and updates the
method's state: averages, queues, tables. Untrained parameters need no gradient. Momenta are
constant; SwAV's prototypes and queue are used from the first step.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]
from torch.nn import functional  # pyright: ignore[reportMissingImports]

from clr_jax.bench.torch_reference import backbones, losses, network
from clr_jax.core.options import keyword_only
from clr_jax.core.types import RunInfo
from clr_jax.models import heads

Views = Sequence[torch.Tensor]  # [B, C, H, W] each
Carry = Any  # a tensor, or None


class Parts(NamedTuple):
  """Parts of methods.

  Attributes:
    backbone: module with `num_features`.
    options: all options of the method.
    info: facts about the run.
    bfloat16: True runs the backbone in bfloat16 and the rest in float32, as in `clr_jax`.
  """

  backbone: backbones.Backbone
  options: Mapping[str, Any]
  info: RunInfo
  bfloat16: bool

  def encoder(self) -> Encoder:
    """Makes backbone and projector."""
    o, width = self.options, self.backbone.num_features
    like = heads.make(o['projector'], hidden_dim=o.get('hidden_dim') or width, out_dim=o['out_dim'])
    return Encoder(
      self.backbone, network.head(like, width), per_view=o['per_view_bn'], bfloat16=self.bfloat16
    )

  def of(self, function: Callable) -> dict[str, Any]:
    """Options that are keyword-only parameters of `function`."""
    return {k: self.options[k] for k in keyword_only(function) if k in self.options}


class Encoder(nn.Module):
  """Backbone and head: views -> embeddings [B, V, D].

  Args:
    per_view: True for separate BatchNorm statistics by a pass per view; False for a single pass.
    bfloat16: True runs the backbone in bfloat16.
  """

  layout = torch.contiguous_format
  """Memory format of the images; that of the weights is the module's own."""

  def __init__(self, backbone: nn.Module, head: nn.Module, *, per_view: bool, bfloat16: bool):
    super().__init__()
    self.backbone, self.head = backbone, head
    self._per_view, self._bfloat16 = per_view, bfloat16

  def forward(self, views: Views) -> torch.Tensor:
    """Embeds one view of B images, [B, 1, D]."""
    if self._per_view or len(views) == 1:
      return torch.stack([self._embed(view) for view in views], 1)
    return self._embed(torch.cat(list(views))).unflatten(0, (len(views), -1)).transpose(0, 1)

  def _embed(self, images: torch.Tensor) -> torch.Tensor:
    images = images.contiguous(memory_format=self.layout)
    with torch.autocast(images.device.type, torch.bfloat16, enabled=self._bfloat16):
      features = self.backbone(images)
    return self.head(features)


class Average(nn.Module):
  """Moving average of an encoder's parameters, with its own BatchNorm statistics."""

  def __init__(self, encoder: Encoder, momentum: float):
    super().__init__()
    self.encoder = copy.deepcopy(encoder).requires_grad_(False)
    self._own, self._online = _tensors(self.encoder), _tensors(encoder)
    self._momentum = momentum

  @torch.no_grad()
  def forward(self, views: Views) -> torch.Tensor:
    """Embeds views as unit rows [V, B, D]."""
    return functional.normalize(self.encoder(views), dim=-1).transpose(0, 1)

  @torch.no_grad()
  def update(self) -> None:
    """Updates all parameters towards the encoder at once."""
    torch._foreach_lerp_(self._own, self._online, 1 - self._momentum)


def _tensors(module: nn.Module) -> list[torch.Tensor]:
  return [*module.parameters()]


class Queue(nn.Module):
  """Ring buffers of the last `length` rows, [*leading, K, D]."""

  rows: torch.Tensor

  def __init__(self, *shape: int, random: bool):
    super().__init__()
    rows = functional.normalize(torch.randn(shape), dim=-1) if random else torch.zeros(shape)
    self.register_buffer('rows', rows)
    self._position = 0

  @torch.no_grad()
  def write(self, keys: torch.Tensor) -> None:
    """Replaces the oldest rows by keys [*leading, B, D]."""
    start, length = self._position, self.rows.shape[-2]
    end = min(start + keys.shape[-2], length)
    self.rows[..., start:end, :] = keys[..., : end - start, :]
    if rest := keys.shape[-2] - (end - start):
      self.rows[..., :rest, :] = keys[..., end - start :, :]
    self._position = (start + keys.shape[-2]) % length


class Embedding(nn.Module):
  """A stateless method: a function (z [B, V, D], labels [B], *, options) of all embeddings."""

  def __init__(self, function: Callable, parts: Parts):
    super().__init__()
    self.encoder = parts.encoder()
    self._function = functools.partial(function, **parts.of(function))

  def forward(
    self, views: Views, index: torch.Tensor, labels: torch.Tensor | None
  ) -> tuple[torch.Tensor, Carry]:
    """(loss, None)."""
    return self._function(self.encoder(views), labels), None

  def after_step(self, index: torch.Tensor, carry: Carry) -> None:
    """Does nothing."""


def simclr(z, labels, *, temperature: float, loss_scale: float) -> torch.Tensor:
  """Mean NT-Xent; see `clr_jax.methods.simclr`, likewise for the other functions."""
  return loss_scale * losses.ntxent(z, temperature=temperature).mean()


def supcon(
  z, labels, *, temperature: float, base_temperature: float | None, supervised: bool, anchors: str
) -> torch.Tensor:
  """Mean over all anchors."""
  loss, _ = losses.tcl(
    z,
    labels if supervised else None,
    temperature=temperature,
    anchor_views=1 if anchors == 'one' else None,
  )
  return loss.mean() * (temperature / (base_temperature or temperature))


def tcl(
  z, labels, *, temperature: float, k1: float, k2: float, supervised: bool, reduction: str
) -> torch.Tensor:
  """Mean over all anchors, or over those with a positive."""
  labels = labels if supervised else None
  loss, valid = losses.tcl(z, labels, temperature=temperature, k1=k1, k2=k2)
  return loss.mean() if reduction == 'mean' else loss.sum() / valid.sum().clamp(min=1)


def barlow_twins(z, labels, *, off_diagonal_weight: float, loss_scale: float) -> torch.Tensor:
  """Loss of the batch's cross-correlation."""
  return loss_scale * losses.barlow_twins(z, off_diagonal_weight=off_diagonal_weight)


def vicreg(
  z,
  labels,
  *,
  invariance_weight: float,
  variance_weight: float,
  covariance_weight: float,
  variance_average: bool,
) -> torch.Tensor:
  """Weighted sum of the three terms."""
  terms = losses.vicreg(z, variance_average=variance_average)
  weights = (invariance_weight, variance_weight, covariance_weight)
  return torch.stack([w * term for w, term in zip(weights, terms, strict=True)]).sum()


class SogCLR(nn.Module):
  """SogCLR with u of each training example; see `clr_jax.methods.sogclr`."""

  u: torch.Tensor

  def __init__(self, parts: Parts):
    super().__init__()
    self.encoder = parts.encoder()
    self._loss = functools.partial(losses.sogclr, **parts.of(losses.sogclr))
    self.register_buffer('u', torch.zeros(parts.info.num_examples))

  def forward(
    self, views: Views, index: torch.Tensor, labels: torch.Tensor | None
  ) -> tuple[torch.Tensor, Carry]:
    """(loss, new u [B])."""
    loss, new_u = self._loss(self.encoder(views), self.u[index])
    return loss.mean(), new_u

  def after_step(self, index: torch.Tensor, carry: Carry) -> None:
    """Writes u."""
    self.u[index] = carry


class MoCo(nn.Module):
  """MoCo: queries against keys of the average and a queue; see `clr_jax.methods.moco`."""

  def __init__(self, parts: Parts):
    super().__init__()
    options = parts.options
    self.encoder = parts.encoder()
    self.target = Average(self.encoder, options['momentum'])
    self.queue = Queue(options['queue_length'], options['out_dim'], random=True)
    self._count = 2 if options['symmetric'] else 1
    self._loss = functools.partial(losses.moco, temperature=options['temperature'])

  def forward(
    self, views: Views, index: torch.Tensor, labels: torch.Tensor | None
  ) -> tuple[torch.Tensor, Carry]:
    """(loss, keys [V * B, D])."""
    queries = functional.normalize(self.encoder(views[: self._count]), dim=-1).unbind(1)
    keys = self.target(views[-self._count :])
    pairs = zip(queries, keys.flip(0), strict=True)
    values = [self._loss(query, key, self.queue.rows) for query, key in pairs]
    return torch.stack(values).sum(), keys.flatten(0, 1)

  def after_step(self, index: torch.Tensor, carry: Carry) -> None:
    """Writes the keys and the average."""
    self.queue.write(carry)
    self.target.update()


class BYOL(nn.Module):
  """Predicts the average's projection of the other view; see `clr_jax.methods.byol`."""

  def __init__(self, parts: Parts):
    super().__init__()
    o, encoder = parts.options, parts.encoder()
    like = heads.make(o['predictor'], hidden_dim=o['predictor_dim'], out_dim=o['out_dim'])
    self.target = Average(encoder, o['momentum'])
    # The average covers the projector, which precedes the predictor in the same head.
    encoder.head = nn.Sequential(encoder.head, network.head(like, o['out_dim']))
    self.encoder = encoder
    self._count, self._scale = 2 if o['symmetric'] else 1, o['loss_scale']

  def forward(
    self, views: Views, index: torch.Tensor, labels: torch.Tensor | None
  ) -> tuple[torch.Tensor, Carry]:
    """(loss, None)."""
    online = functional.normalize(self.encoder(views[: self._count]), dim=-1).transpose(0, 1)
    target = self.target(views[-self._count :])
    return self._scale * (2 - 2 * (online * target.flip(0)).sum(-1).mean(1)).sum(), None

  def after_step(self, index: torch.Tensor, carry: Carry) -> None:
    """Writes the average."""
    self.target.update()


class SwAV(nn.Module):
  """Each view predicts the other's prototypes; see `clr_jax.methods.swav`."""

  def __init__(self, parts: Parts):
    super().__init__()
    o = parts.options
    self.encoder = parts.encoder()
    self.prototypes = nn.Parameter(torch.randn(o['num_prototypes'], o['out_dim']))
    self._scale_prototypes()
    self.queue = None
    if o['queue_length']:
      self.queue = Queue(2, o['queue_length'], o['out_dim'], random=False)
    self._temperature = o['temperature']
    self._assign = functools.partial(
      losses.sinkhorn, epsilon=o['epsilon'], iterations=o['sinkhorn_iterations']
    )

  def forward(
    self, views: Views, index: torch.Tensor, labels: torch.Tensor | None
  ) -> tuple[torch.Tensor, Carry]:
    """(loss, unit embeddings [V, B, D])."""
    z = functional.normalize(self.encoder(views), dim=-1).transpose(0, 1)
    scores = z @ self.prototypes.T
    rows = scores.detach()
    if self.queue is not None:
      rows = torch.cat([rows, self.queue.rows @ self.prototypes.detach().T], 1)
    codes = self._assign(rows)[:, : z.shape[1]]
    return losses.swav(scores, codes, temperature=self._temperature), z.detach()

  def after_step(self, index: torch.Tensor, carry: Carry) -> None:
    """Writes the queue and normalizes the prototypes."""
    self._scale_prototypes()
    if self.queue is not None:
      self.queue.write(carry)

  @torch.no_grad()
  def _scale_prototypes(self) -> None:
    self.prototypes.copy_(functional.normalize(self.prototypes, dim=-1))


METHODS: dict[str, Callable[[Parts], Any]] = {
  **{f.__name__: functools.partial(Embedding, f) for f in (simclr, supcon, tcl)},
  **{f.__name__: functools.partial(Embedding, f) for f in (barlow_twins, vicreg)},
  'sogclr': SogCLR,
  'moco': MoCo,
  'byol': BYOL,
  'swav': SwAV,
}
