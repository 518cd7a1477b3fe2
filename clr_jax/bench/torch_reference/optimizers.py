"""The optimizers of `clr_jax.optim` in plain PyTorch; all parameters of a step at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch  # pyright: ignore[reportMissingImports]


class Lars:
  """LARS in the form 'mocov3'; see `clr_jax.optim._optimizers.lars`."""

  def __init__(self, groups, *, lr: float, momentum: float, trust_coefficient: float):
    self._groups, self._lr = groups, lr
    self._momentum, self._trust = momentum, trust_coefficient
    self._traces = [[torch.zeros_like(p) for p in group['params']] for group in groups]

  @torch.no_grad()
  def step(self) -> None:
    """One update from the gradients of all parameters."""
    for group, trace in zip(self._groups, self._traces, strict=True):
      params = group['params']
      update = [p.grad for p in params]
      if group['trust']:
        update = torch._foreach_add(update, params, alpha=group['weight_decay'])
        p_norm = torch.stack(torch._foreach_norm(params))
        d_norm = torch.stack(torch._foreach_norm(update))
        ratio = torch.where((p_norm > 0) & (d_norm > 0), self._trust * p_norm / d_norm, 1.0)
        update = [d * q for d, q in zip(update, ratio.unbind(), strict=True)]
      torch._foreach_mul_(trace, self._momentum)
      torch._foreach_add_(trace, update)
      torch._foreach_add_(params, trace, alpha=-self._lr)

  def zero_grad(self) -> None:
    """Drops the gradients."""
    for group in self._groups:
      for p in group['params']:
        p.grad = None


def build(params: Sequence[torch.Tensor], options: Mapping[str, Any], learning_rate: float) -> Any:
  """The optimizer of `config.optimizer` (as a dict) with a constant learning rate."""
  options = dict(options)
  name, decay = options.pop('name'), options.pop('weight_decay')
  excluded = options.pop('exclude_from_decay')
  everything = excluded == 'none' or (excluded == 'auto' and name in ('sgd', 'adam'))
  decayed = [p for p in params if everything or p.ndim > 1]
  rest = [p for p in params if not everything and p.ndim <= 1]
  groups = [
    {'params': decayed, 'weight_decay': decay, 'trust': True},
    {'params': rest, 'weight_decay': 0.0, 'trust': False},
  ]
  groups = [group for group in groups if group['params']]
  if name == 'lars':
    trust = options['trust_coefficient']
    trust = 0.001 if trust is None else trust
    return Lars(groups, lr=learning_rate, momentum=options['momentum'], trust_coefficient=trust)
  for group in groups:
    del group['trust']
  fused = params[0].is_cuda
  if name == 'sgd':
    momentum, nesterov = options['momentum'], options['nesterov']
    return torch.optim.SGD(
      groups, lr=learning_rate, momentum=momentum, nesterov=nesterov, fused=fused
    )
  make = {'adam': torch.optim.Adam, 'adamw': torch.optim.AdamW}[name]
  betas = (options['b1'], options['b2'])
  return make(groups, lr=learning_rate, betas=betas, eps=options['eps'], fused=fused)
