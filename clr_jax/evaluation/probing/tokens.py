"""Features of a subject from the tokens of its vision transformer."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax

from clr_jax.core.types import Array, Params, State
from clr_jax.evaluation.probing.features import Features, extract
from clr_jax.evaluation.probing.finetuning import backbone_weights
from clr_jax.evaluation.probing.subject import Subject
from clr_jax.models.tokens import Tokens, check_tokens, token_features
from clr_jax.rundir.results import Measurement


def features_of_tokens(
  subject: Subject, tokens: Tokens, last_blocks: int
) -> tuple[Features, Features]:
  """Features of the training and the test set; see `models.tokens.token_features`.

  Raises:
    UserError: a backbone without tokens, or with fewer blocks.
  """
  experiment = subject.experiment
  check_tokens(experiment.backbone, experiment.config.model.name, last_blocks)
  represent = _represent(experiment.backbone, tokens, last_blocks)
  weights = backbone_weights(experiment, *subject.weights)
  train, test = subject.sets
  take = functools.partial(extract, represent, *weights, mesh=experiment.mesh)
  return take(train), take(test)


@functools.lru_cache(maxsize=16)  # the same function again needs no compilation
def _represent(backbone: nn.Module, tokens: Tokens, last_blocks: int) -> Any:
  def represent(params: Params, state: State, images: Array) -> dict[str, jax.Array]:
    variables = {'params': params, 'batch_stats': state}
    how = {'tokens': tokens, 'last_blocks': last_blocks}
    return {'h': token_features(backbone, variables, images, **how)}

  return represent


def recorded(
  found: Iterable[Measurement], protocol: str, tokens: Tokens, last_blocks: int
) -> Iterator[Measurement]:
  """Measurements of the protocol of this name, with the tokens among the parameters."""
  for one in found:
    params = {**one.params, 'tokens': tokens, 'last_blocks': last_blocks}
    yield one._replace(protocol=protocol, params=params)


def without_tokens(options: Mapping[str, Any]) -> dict[str, Any]:
  """Options that the same protocol has on other features."""
  return {key: value for key, value in options.items() if key not in ('tokens', 'last_blocks')}
