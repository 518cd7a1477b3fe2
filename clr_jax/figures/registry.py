"""The pictures that `clr-jax inspect` draws: (workdirs, picture's name) -> the files written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from etils import epath

from clr_jax.core.config_tree import Config
from clr_jax.core.options import component
from clr_jax.figures.compare import figures as compare
from clr_jax.figures.curves import curves
from clr_jax.figures.embedding import figures as embedding
from clr_jax.figures.few_label_curves import figures as few_label
from clr_jax.figures.gradients import figures as gradients
from clr_jax.figures.robustness import figures as robustness
from clr_jax.figures.scores import figures as scores


def _curves(directories: Sequence[str], out: str) -> list[epath.Path]:
  return [epath.Path(out), curves(directories, out)]


# Keyword-only parameters are options, `--params.KEY=VALUE`; `step` is the flag of that name.
FIGURES: Mapping[str, Callable[..., list[epath.Path]]] = {
  'compare': compare,
  'curves': _curves,
  'embedding': embedding,
  'few_label': few_label,
  'gradients': gradients,
  'robustness': robustness,
  'scores': scores,
}


def parameters(name: str) -> Config:
  """All options of a picture with their defaults."""
  return component(FIGURES[name])
