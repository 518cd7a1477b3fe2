"""Optimizers as optax chains: `build` makes the one of a run from its name and parameter groups."""

from clr_jax.optim._build import build as build
from clr_jax.optim._build import factory as factory
from clr_jax.optim._build import idle_sam_options as idle_sam_options
from clr_jax.optim._optimizers import adam as adam
from clr_jax.optim._optimizers import adamw as adamw
from clr_jax.optim._optimizers import lars as lars
from clr_jax.optim._optimizers import matrices as matrices
from clr_jax.optim._optimizers import sgd as sgd
from clr_jax.optim._sam import noise_sam as noise_sam
from clr_jax.optim._sam import sam as sam
from clr_jax.optim._sam import with_noise as with_noise
