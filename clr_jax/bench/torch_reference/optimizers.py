"""Optimizers of `clr_jax.optim` in plain PyTorch, which update all parameters at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch  # pyright: ignore[reportMissingImports]


class Lars:
  """LARS with a constant learning rate; see `clr_jax.optim._optimizers.lars`.

  With a constant rate the forms 'mocov3' and 'simclr' are equal.

  Args:
    groups: dicts with 'params', 'weight_decay' and 'trust' (both trust ratio and decay, or none).
    lr, momentum, form, trust_coefficient, eps: see `lars`; trust_coefficient must be a number.
  """

  def __init__(
    self,
    groups: Sequence[Mapping[str, Any]],
    *,
    lr: float,
    momentum: float,
    form: str,
    trust_coefficient: float,
    eps: float,
  ):
    self._groups, self._lr, self._momentum = groups, lr, momentum
    self._trust, self._eps = trust_coefficient, eps
    self._limit = lr if form == 'clipped' else None
    self._scale = self._scale_solo if form in ('clipped', 'unclipped') else self._scale_official
    self._traces = [[torch.zeros_like(p) for p in group['params']] for group in groups]

  @torch.no_grad()
  def step(self) -> None:
    """Updates all parameters."""
    for group, trace in zip(self._groups, self._traces, strict=True):
      params = group['params']
      update = [p.grad for p in params]
      if group['trust']:
        update = self._scale(params, update, group['weight_decay'])
      torch._foreach_mul_(trace, self._momentum)
      torch._foreach_add_(trace, update)
      torch._foreach_add_(params, trace, alpha=-self._lr)

  def zero_grad(self) -> None:
    """Drops the gradients."""
    for group in self._groups:
      for p in group['params']:
        p.grad = None

  def _scale_official(self, params, grads, decay: float) -> list[torch.Tensor]:
    update = [*torch._foreach_add(grads, params, alpha=decay)]
    p_norm, d_norm = _norms(params), _norms(update)
    ratio = torch.where((p_norm > 0) & (d_norm > 0), self._trust * p_norm / d_norm, 1.0)
    return [d * q for d, q in zip(update, ratio.unbind(), strict=True)]

  def _scale_solo(self, params, grads, decay: float) -> list[torch.Tensor]:
    p_norm, g_norm = _norms(params), _norms(grads)
    ratio = self._trust * p_norm / (g_norm + decay * p_norm + self._eps)
    if self._limit is not None:
      ratio = (ratio / self._limit).clamp(max=1)
    some = (p_norm > 0) & (g_norm > 0)
    of_g = torch.where(some, ratio, 1.0).unbind()
    of_p = torch.where(some, decay * ratio, 0.0).unbind()
    scaled = [g * q for g, q in zip(grads, of_g, strict=True)]
    for d, p, q in zip(scaled, params, of_p, strict=True):
      d.addcmul_(p, q)
    return scaled


def _norms(tensors: list[torch.Tensor]) -> torch.Tensor:
  return torch.stack(torch._foreach_norm(tensors))


def build(params: Sequence[torch.Tensor], options: Mapping[str, Any], learning_rate: float) -> Any:
  """Builds the optimizer of `config.optimizer` (as a dict) with a constant learning rate."""
  name, excluded = options['name'], options['exclude_from_decay']
  everything = excluded == 'none' or (excluded == 'auto' and name in ('sgd', 'adam'))
  decayed = [p for p in params if everything or p.ndim > 1]
  rest = [p for p in params if not everything and p.ndim <= 1]
  groups = [
    {'params': decayed, 'weight_decay': options['weight_decay'], 'trust': True},
    {'params': rest, 'weight_decay': 0.0, 'trust': False},
  ]
  groups = [group for group in groups if group['params']]
  if name == 'lars':
    taken = {k: options[k] for k in ('momentum', 'form', 'trust_coefficient', 'eps')}
    if taken['trust_coefficient'] is None:
      taken['trust_coefficient'] = 0.02 if taken['form'] in ('clipped', 'unclipped') else 0.001
    return Lars(groups, lr=learning_rate, **taken)
  for group in groups:
    del group['trust']
  if name == 'sgd':
    make: Callable = torch.optim.SGD
    own = {'momentum': options['momentum'], 'nesterov': options['nesterov']}
  else:
    make = {'adam': torch.optim.Adam, 'adamw': torch.optim.AdamW}[name]
    own = {'betas': (options['b1'], options['b2']), 'eps': options['eps']}
  return make(groups, lr=learning_rate, fused=True, **own)
