"""Trained backbones for other libraries: files of weights with a model card, no training code."""

from clr_jax.exchange.export import FORMATS as FORMATS
from clr_jax.exchange.export import Format as Format
from clr_jax.exchange.export import export as export
