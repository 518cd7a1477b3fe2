"""The pictures that `clr-jax inspect` draws: (workdirs, picture's name) -> the files written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from etils import epath

from clr_jax.inspect.curves import curves
from clr_jax.inspect.few_label_curves import figures as few_label
from clr_jax.inspect.robustness import figures as robustness


def _curves(directories: Sequence[str], out: str) -> list[epath.Path]:
  return [epath.Path(out), curves(directories, out)]


FIGURES: Mapping[str, Callable[[Sequence[str], str], list[epath.Path]]] = {
  'curves': _curves,
  'few_label': few_label,
  'robustness': robustness,
}
