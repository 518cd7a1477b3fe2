"""The block of a vision transformer: attention and MLP, each after a LayerNorm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from clr_jax.core.types import Array
from clr_jax.models.initializers import uniform

WeightInit = Literal['truncated_normal_02', 'xavier_uniform']
Attention = Literal['xla', 'cudnn']


def _xavier_of_qkv(key: Array, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
  """Xavier's initializer of the three matrices inside of a kernel [D, 3 D] (MoCo v3)."""
  return uniform((6 / (shape[0] + shape[1] // 3)) ** 0.5)(key, shape, dtype)


# DINO and timm cut the normal at +-2, a hundred standard deviations: a plain normal is equal.
_NORMAL = nn.initializers.normal(0.02)
_KERNEL_INITS: dict[WeightInit, dict[str, Any]] = {
  'truncated_normal_02': {'qkv': _NORMAL, 'others': _NORMAL},
  'xavier_uniform': {'qkv': _xavier_of_qkv, 'others': nn.initializers.xavier_uniform()},
}


def layer_norm(name: str, dtype: Any) -> nn.LayerNorm:
  """LayerNorm with epsilon 1e-6, as timm's ViTs have it; statistics in float32 or wider."""
  return nn.LayerNorm(epsilon=1e-6, dtype=dtype, use_fast_variance=False, name=name)


class Block(nn.Module, kw_only=True):
  """A pre-norm transformer block (Dosovitskiy et al., https://arxiv.org/abs/2010.11929).

  x += attention(norm1(x)), then x += mlp(norm2(x)); biases everywhere, exact GELU. If the
  collection 'attention' is mutable, stores the weights [B, heads, T, T] there as 'weights'.

  Attributes:
    heads: number of attention heads, a divisor of the width.
    hidden: width of the MLP's hidden layer.
    weight_init: initializer of the matrices, see `ViT`.
    attention: implementation of the product, see `ViT`.
    dtype: dtype of the products; None takes that of input and parameters.
  """

  heads: int
  hidden: int
  weight_init: WeightInit
  attention: Attention
  dtype: Any

  @nn.compact
  def __call__(self, x: Array, kept: Array | None = None) -> Array:
    """Maps tokens [B, T, D] to [B, T, D].

    Args:
      x: tokens.
      kept: [2, B] factors of the two branches of each image, for stochastic depth; None = 1.
    """
    # bench/scopes.py finds the branches by these scope names.
    for i, (scope, branch) in enumerate((('attention', self._attend), ('mlp', self._mlp))):
      y = layer_norm(f'norm{i + 1}', self.dtype)(x)
      with jax.named_scope(scope):
        y = branch(y)
      if kept is not None:
        y = y * kept[i].astype(y.dtype)[:, None, None]
      x = x + y
    return x

  def _attend(self, x: Array) -> Array:
    projection = self._dense('attn_qkv', 3 * x.shape[-1], 'qkv')
    dtype = projection(x).dtype
    params = {name: a.astype(dtype) for name, a in projection.variables['params'].items()}
    x = x.astype(dtype)
    stored = self.is_mutable_collection('attention') and not self.is_initializing()
    if stored or dtype == jnp.float64:
      q, k, v = _heads_of(x, params, self.heads)
      weights = _weights(q, k)
      if stored:
        self.put_variable('attention', 'weights', weights)
    if dtype == jnp.float64:  # the library's function would round the weights to float32
      y = jnp.einsum('bhqk,bhkd->bhqd', weights, v)
    else:
      y = _attention(x, params, self.heads, self.attention)
    return self._dense('attn_proj', x.shape[-1])(jnp.swapaxes(y, 1, 2).reshape(x.shape))

  def _mlp(self, x: Array) -> Array:
    hidden = nn.gelu(self._dense('mlp_fc1', self.hidden)(x), approximate=False)
    return self._dense('mlp_fc2', x.shape[-1])(hidden)

  def _dense(self, name: str, features: int, kind: str = 'others') -> nn.Dense:
    init = _KERNEL_INITS[self.weight_init][kind]
    return nn.Dense(features, dtype=self.dtype, kernel_init=init, name=name)


def _heads_of(x: Array, params: Mapping[str, Array], heads: int) -> Array:
  """Queries, keys and values of the heads, [3, B, heads, T, D / heads], of tokens [B, T, D]."""
  qkv = x @ params['kernel'] + params['bias'][None, None]
  return jnp.transpose(qkv.reshape(*x.shape[:2], 3, heads, -1), (2, 0, 3, 1, 4))


def _attention(
  x: Array, params: Mapping[str, Array], heads: int, implementation: Attention
) -> Array:
  """Attention of all heads, [B, heads, T, D / heads], of tokens [B, T, D]."""
  if implementation == 'cudnn':
    return _as_heads(_heads_of(x, params, heads), implementation='cudnn')
  # Given heads, XLA for GPUs transposes q, k and v by themselves, and the weights [T, T]; given
  # further images with one head, q, k and v together. On TPUs that copies more, and three products
  # copy less than one that is split: bench/README.md.
  return jax.lax.platform_dependent(
    x,
    params,
    cuda=lambda x, params: _as_images(_heads_of(x, params, heads)),
    tpu=lambda x, params: _projected_apart(x, params, heads),
    default=lambda x, params: _as_heads(_heads_of(x, params, heads)),
  )


def _projected_apart(x: Array, params: Mapping[str, Array], heads: int) -> Array:
  parts = zip(jnp.split(params['kernel'], 3, 1), jnp.split(params['bias'], 3), strict=True)
  q, k, v = ((x @ w + b[None, None]).reshape(*x.shape[:2], heads, -1) for w, b in parts)
  return jnp.swapaxes(jax.nn.dot_product_attention(q, k, v, implementation='xla'), 1, 2)


def _as_heads(qkv: Array, implementation: Attention = 'xla') -> Array:
  q, k, v = jnp.swapaxes(qkv, 2, 3)
  return jnp.swapaxes(jax.nn.dot_product_attention(q, k, v, implementation=implementation), 1, 2)


def _as_images(qkv: Array) -> Array:
  _, batch, heads, tokens, width = qkv.shape
  q, k, v = qkv.reshape(3, batch * heads, tokens, 1, width)
  y = jax.nn.dot_product_attention(q, k, v, implementation='xla')
  return y.reshape(batch, heads, tokens, width)


def _weights(q: Array, k: Array) -> Array:
  """Attention weights [B, heads, T, T] of queries and keys [B, heads, T, D / heads]."""
  dtype = jnp.promote_types(q.dtype, jnp.float32)
  scores = jnp.einsum('bhqd,bhkd->bhqk', q, k, preferred_element_type=dtype)
  return jax.nn.softmax(scores / q.shape[-1] ** 0.5)
