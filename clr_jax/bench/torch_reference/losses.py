"""Losses of `clr_jax.losses` in idiomatic PyTorch."""

from __future__ import annotations

import math

import torch  # pyright: ignore[reportMissingImports]
from torch.nn import functional  # pyright: ignore[reportMissingImports]


def ntxent(z: torch.Tensor, *, temperature: float) -> torch.Tensor:
  """Loss per anchor [B, V] of embeddings z [B, V, D]; see `clr_jax.losses.contrastive.ntxent`."""
  z = functional.normalize(z, dim=-1)
  rows = z.flatten(0, 1)
  scores = (rows @ rows.T / temperature).fill_diagonal_(-torch.inf)
  own = z @ z.mT / temperature  # [B, V, V]
  itself = torch.eye(z.shape[1], dtype=torch.bool, device=z.device)
  positive = own.masked_fill(itself, -torch.inf).logsumexp(-1)
  return scores.logsumexp(-1).view(z.shape[:2]) - positive


def sogclr(
  z: torch.Tensor,
  u: torch.Tensor,
  *,
  temperature: float,
  gamma: float,
  eps: float,
  first_visit: str,
) -> tuple[torch.Tensor, torch.Tensor]:
  """Loss per example [B] and new u [B]; see `clr_jax.losses.global_contrastive.sogclr`.

  Args:
    z: [B, 2, D] embeddings.
    u: [B] moving averages of these examples, 0 = unvisited.
    temperature, gamma, eps: options of the method.
    first_visit: 'per_index' (u of a new example is this batch's value) or 'none'.
  """
  z = functional.normalize(z, dim=-1)
  rows, size = z.flatten(0, 1), len(z)
  scores = rows @ rows.T
  sample = torch.arange(2 * size, device=z.device) // 2
  others = sample[:, None] != sample[None, :]
  with torch.no_grad():
    exponentials = torch.exp(scores / temperature) * others
    g = exponentials.sum(1).view(size, 2) / (2 * (size - 1))
    new_u = (1 - gamma) * u[:, None] + gamma * g
    if first_visit == 'per_index':
      new_u = torch.where(u[:, None] == 0, g, new_u)
    weight = exponentials / new_u.view(-1, 1).clamp(min=eps)
  pushed = (weight * scores).sum(1).view(size, 2) / (2 * (size - 1))
  positive = (z[:, 0] * z[:, 1]).sum(-1)
  return pushed.sum(1) - 2 * positive, new_u.mean(1)


def tcl(
  z: torch.Tensor,
  labels: torch.Tensor | None,
  *,
  temperature: float,
  k1: float = 0.0,
  k2: float = 1.0,
  anchor_views: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
  """Loss per anchor [B, A] and whether it has a positive; see `clr_jax.losses.contrastive.tcl`.

  With k1 = 0 and k2 = 1 this is SupCon.

  Args:
    z: [B, V, D] embeddings.
    labels: [B] classes, or None: the views of a sample are its positives.
    temperature, k1, k2: options of the method.
    anchor_views: number A of first views that are anchors; None = all.
  """
  size, views = z.shape[:2]
  z = functional.normalize(z, dim=-1)
  anchors = z[:, :anchor_views]
  scores = anchors.flatten(0, 1) @ z.flatten(0, 1).T
  sample = torch.arange(size, device=z.device)
  classes = sample if labels is None else labels
  same = classes[:, None] == classes[None, :]
  numbers = torch.arange(size * views, device=z.device).view(size, views)
  itself = numbers[:, :anchor_views].reshape(-1, 1) == numbers.view(1, -1)
  positive = same.repeat_interleave(anchors.shape[1], 0).repeat_interleave(views, 1) & ~itself
  logits = (scores / temperature).masked_fill(itself, -torch.inf)
  if k2 != 1:
    logits = torch.where(positive, logits, logits + math.log(k2))
  log_denominator = logits.logsumexp(1)
  if k1 > 0:
    hard = (-scores).masked_fill(~positive, -torch.inf).logsumexp(1)
    log_denominator = torch.logaddexp(log_denominator, hard + math.log(k1))
  count = positive.sum(1)
  attraction = (scores * positive).sum(1) / count.clamp(min=1) / temperature
  loss = torch.where(count > 0, log_denominator - attraction, 0.0)
  return loss.view(size, -1), (count > 0).view(size, -1)


def moco(
  query: torch.Tensor, key: torch.Tensor, queue: torch.Tensor, *, temperature: float
) -> torch.Tensor:
  """Mean loss of unit queries [B, D] against their unit keys [B, D] and queue rows [K, D]."""
  positive = (query * key).sum(-1, keepdim=True)
  logits = torch.cat([positive, query @ queue.T], 1) / temperature
  return functional.cross_entropy(logits, torch.zeros_like(logits[:, 0], dtype=torch.int64))


@torch.no_grad()
def sinkhorn(scores: torch.Tensor, *, epsilon: float, iterations: int) -> torch.Tensor:
  """Balanced assignments [..., R, K] of R samples to K prototypes, as in SwAV's code."""
  q = torch.exp(scores / epsilon)
  for _ in range(iterations):
    q /= q.sum(-2, keepdim=True)
    q /= q.sum(-1, keepdim=True)
  return q


def swav(scores: torch.Tensor, codes: torch.Tensor, *, temperature: float) -> torch.Tensor:
  """Mean cross-entropy of each view's prediction to the other's code; both [2, B, K]."""
  return -(codes.flip(0) * functional.log_softmax(scores / temperature, -1)).sum(-1).mean()


def barlow_twins(z: torch.Tensor, *, off_diagonal_weight: float) -> torch.Tensor:
  """Scalar loss of z [B, 2, D]; see `clr_jax.losses.redundancy.barlow_twins`."""
  first, second = (functional.batch_norm(x, None, None, training=True) for x in z.unbind(1))
  c = first.T @ second / len(z)
  diagonal = (c.diagonal() - 1).square().sum()
  return diagonal + off_diagonal_weight * _off_diagonal(c).square().sum()


def vicreg(
  z: torch.Tensor, *, variance_average: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
  """Invariance, variance, covariance of z [B, 2, D]; see `clr_jax.losses.redundancy.vicreg`."""
  invariance = functional.mse_loss(z[:, 0], z[:, 1])
  variance = covariance = torch.zeros_like(invariance)
  for x in z.unbind(1):
    x = x - x.mean(0)
    variance = variance + functional.relu(1 - (x.var(0) + 1e-4).sqrt()).mean()
    products = x.T @ x / (len(x) - 1)
    covariance = covariance + _off_diagonal(products).square().sum() / x.shape[1]
  return invariance, variance / 2 if variance_average else variance, covariance


def _off_diagonal(x: torch.Tensor) -> torch.Tensor:
  """Off-diagonal entries of a contiguous [D, D], as a view [D - 1, D]."""
  size = len(x)
  return x.flatten()[:-1].view(size - 1, size + 1)[:, 1:]
