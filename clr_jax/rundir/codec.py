"""Encoding of numbers, arrays and times in the files of a run."""

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

_MOST_DIGITS = 300  # readers use floats, whose maximum is 1.8e308


def write_arrays(path: epath.Path, arrays: Mapping[str, Any]) -> None:
  """Writes an .npz file atomically."""
  buffer = io.BytesIO()
  np.savez_compressed(buffer, **arrays)
  atomic_write(path, buffer.getvalue())


def jsonable(value: Any) -> Any:
  """Converts to JSON values: arrays to (lists of) numbers, non-finite ones to 'nan', 'inf', '-inf'.

  JSON has no such numbers, and null could not distinguish a diverged from an unmeasured loss.
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
  """Inverse of `jsonable` for numbers, including those in lists and dicts; keeps other values."""
  if isinstance(value, dict):
    return {k: number(v) for k, v in value.items()}
  if isinstance(value, list):
    return [number(v) for v in value]
  return float(value) if value in ('nan', 'inf', '-inf') else value


def read_object(text: str | bytes) -> dict[str, Any]:
  """Parses a JSON object.

  Raises:
    ValueError: text that is not a JSON object, or an integer that exceeds the range of floats.
  """
  try:
    value = json.loads(text, parse_int=_whole_number)
  except RecursionError:  # a million brackets
    raise ValueError('too many nested brackets') from None
  if not isinstance(value, dict):
    raise ValueError(f'not a JSON object but {type(value).__name__}')
  return value


def _whole_number(text: str) -> int:
  if len(text) > _MOST_DIGITS:
    raise ValueError(f'a number of {len(text):,} digits')
  return int(text)


def now() -> str:
  """Current time in UTC, ISO 8601, in whole seconds."""
  return datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds')
