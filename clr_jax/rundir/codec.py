"""How numbers, arrays and times are written into the files of a run."""

from __future__ import annotations

import datetime
import io
import json
import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from etils import epath

from clr_jax.core.storage import atomic_write

_MOST_DIGITS = 300  # readers compute with floats, which end at 1.8e308


def write_arrays(path: epath.Path, arrays: Mapping[str, Any]) -> None:
  """Writes an .npz file, whole or not at all."""
  buffer = io.BytesIO()
  np.savez_compressed(buffer, **arrays)
  atomic_write(path, buffer.getvalue())


def jsonable(value: Any) -> Any:
  """Plain JSON values; arrays become (lists of) numbers, non-finite numbers 'nan', 'inf', '-inf'.

  JSON has no such numbers, and null would not tell a diverged loss from one that was not measured.
  """
  if isinstance(value, Mapping):
    return {str(k): jsonable(v) for k, v in value.items()}
  if isinstance(value, (list, tuple)):
    return [jsonable(v) for v in value]
  if isinstance(value, (np.ndarray, np.generic, jax.Array)):
    return jsonable(np.asarray(value).tolist())
  if isinstance(value, float) and not math.isfinite(value):
    return str(value)
  return value


def number(value: Any) -> Any:
  """The inverse of `jsonable` for numbers, also those in lists and dicts; else the value itself."""
  if isinstance(value, dict):
    return {k: number(v) for k, v in value.items()}
  if isinstance(value, list):
    return [number(v) for v in value]
  return float(value) if value in ('nan', 'inf', '-inf') else value


def read_object(text: str | bytes) -> dict[str, Any]:
  """A JSON object.

  Raises:
    ValueError: text that is none, whatever else it is, or a whole number that no float holds.
  """
  try:
    value = json.loads(text, parse_int=_whole_number)
  except RecursionError:  # a million brackets
    raise ValueError('too many brackets inside each other') from None
  if not isinstance(value, dict):
    raise ValueError(f'it holds no JSON object but {type(value).__name__}')
  return value


def _whole_number(text: str) -> int:
  if len(text) > _MOST_DIGITS:
    raise ValueError(f'a number of {len(text):,} digits')
  return int(text)


def now() -> str:
  """UTC, ISO 8601, to the second."""
  return datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds')
