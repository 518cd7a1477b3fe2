"""Linear evaluation on the tokens of a vision transformer's last blocks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from clr_jax.core.bounds import Count
from clr_jax.core.options import takes_options_of
from clr_jax.evaluation.probing.sets import Sets
from clr_jax.evaluation.probing.subject import Subject
from clr_jax.evaluation.probing.tokens import features_of_tokens, recorded, without_tokens
from clr_jax.evaluation.protocols import linear as of_features
from clr_jax.models.tokens import Tokens
from clr_jax.rundir.results import Measurement

NEEDS_NETWORK = True
NEEDS_TOKENS = True
FITS_CLASSES = True


@takes_options_of(of_features.linear)
def measure(
  subject: Subject, *, tokens: Tokens = 'token', last_blocks: Count = 4, **options: Any
) -> Iterable[Measurement]:
  """Runs `linear` on other features of a vision transformer than those of `linear`.

  DINO's linear evaluation of ViT-S concatenates the class tokens of the last 4 blocks
  (https://arxiv.org/abs/2104.14294).

  Args:
    subject: a network with tokens, and the labeled sets.
    tokens: 'token' (class tokens), 'mean' (means of the patches) or 'token_and_mean' (class tokens,
      and the mean of the last block's patches).
    last_blocks: number of last blocks whose features are concatenated.
    options: see `linear`.

  Raises:
    UserError: a backbone without tokens, or with fewer blocks.
  """
  features = features_of_tokens(subject, tokens, last_blocks)
  found = of_features.linear(*features, subject.kind, **options)
  return recorded(found, 'token_linear', tokens, last_blocks)


def check(sets: Sets, options: Mapping[str, Any]) -> None:
  """Raises a UserError for options that `linear` does not allow."""
  of_features.check(sets, without_tokens(options))
