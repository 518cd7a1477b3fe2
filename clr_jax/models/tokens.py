"""Features from the tokens of a vision transformer, other than the one that it trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp

from clr_jax.core.errors import UserError
from clr_jax.core.types import Array

Tokens = Literal['token', 'mean', 'token_and_mean']


def check_tokens(backbone: nn.Module, name: str, last_blocks: int = 1) -> None:
  """Raises a UserError for a backbone without tokens, or with fewer blocks than asked for.

  Example:
    >>> from clr_jax.models import vit_tiny
    >>> check_tokens(vit_tiny(), 'vit_tiny', 12)
  """
  depth = getattr(backbone, 'depth', None)
  if depth is None:
    raise UserError(f'{name} has no tokens: use a vision transformer, such as vit_tiny')
  if last_blocks > depth:
    raise UserError(
      f'last_blocks={last_blocks} is more than the {depth} blocks of {name}: lower it'
    )


def token_features(
  backbone: nn.Module, variables: Any, images: Array, *, tokens: Tokens, last_blocks: int
) -> Array:
  """Concatenates features of the last blocks, each after the last normalization.

  Args:
    backbone: a `ViT`.
    variables: its variables.
    images: [B, H, W, C] float in [0, 1].
    tokens: 'token' (the class tokens), 'mean' (the means of the patches) or 'token_and_mean' (the
      class tokens, then the mean of the last block's patches: DINO's linear evaluation of ViT-B).
    last_blocks: number n of blocks; DINO takes 4 for ViT-S and 1 for ViT-B.

  Returns:
    [B, F] float32 or wider; F is n or n + 1 times the width.
  """
  outputs: Sequence[Array] = backbone.apply(variables, images, train=False, last_blocks=last_blocks)  # type: ignore[assignment]
  outputs = [x.astype(jnp.promote_types(x.dtype, jnp.float32)) for x in outputs]
  parts = [x[:, 1:].mean(1) if tokens == 'mean' else x[:, 0] for x in outputs]
  if tokens == 'token_and_mean':
    parts.append(outputs[-1][:, 1:].mean(1))
  return jnp.concatenate(parts, -1)
