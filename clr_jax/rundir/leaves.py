"""Arrays of a train state by path, as listed in a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import jax

from clr_jax.core.errors import UserError
from clr_jax.core.types import PyTree


def describe(tree: PyTree) -> dict[str, Any]:
  """Lists {'params/backbone/...': [shape, dtype]} of all leaves."""
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): [list(leaf.shape), str(leaf.dtype)]
    for path, leaf in leaves
  }


def check_same(saved: Mapping[str, Any], wanted: Mapping[str, Any], what: str) -> None:
  """Raises a UserError with some names if two results of `describe` differ."""
  names = [k for k in sorted(saved.keys() | wanted.keys()) if saved.get(k) != wanted.get(k)]
  if not names:
    return
  shown = '; '.join(
    f'{k} is {_leaf_text(saved.get(k))} there and {_leaf_text(wanted.get(k))} here'
    for k in names[:3]
  )
  more = f'; and {len(names) - 3} more' if len(names) > 3 else ''
  raise UserError(
    f'{what} belongs to another method or model ({shown}{more}): restore it with the config with '
    f'which it was trained'
  )


def _leaf_text(leaf) -> str:
  return 'absent' if leaf is None else f'{leaf[1]}{json.dumps(leaf[0])}'
