"""NT-Xent and SogCLR in plain PyTorch: the numbers of `clr_jax.losses`, as torch code has them."""

from __future__ import annotations

import torch  # pyright: ignore[reportMissingImports]


def ntxent(z: torch.Tensor, *, temperature: float) -> torch.Tensor:
  """Loss per anchor [B, V] of embeddings z [B, V, D]; see `clr_jax.losses.contrastive.ntxent`."""
  z = torch.nn.functional.normalize(z, dim=-1)
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
    u: [B] moving averages of these examples, 0 = not visited yet.
    temperature, gamma, eps: of the method.
    first_visit: 'per_index' (u of a new example is this batch's value) or 'none'.
  """
  z = torch.nn.functional.normalize(z, dim=-1)
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
