"""Export of trained backbones for other libraries: weights and a model card."""

from clr_jax.exchange.export import FORMATS as FORMATS
from clr_jax.exchange.export import Format as Format
from clr_jax.exchange.export import export as export
