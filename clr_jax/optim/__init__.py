"""Optimizers as optax chains: `make` builds a run's optimizer from its name and groups."""

from clr_jax.optim._build import REGISTRY as REGISTRY
from clr_jax.optim._build import Factors as Factors
from clr_jax.optim._build import factory as factory
from clr_jax.optim._build import make as make
from clr_jax.optim._build import names as names
from clr_jax.optim._build import sharpness_aware as sharpness_aware
from clr_jax.optim._optimizers import adam as adam
from clr_jax.optim._optimizers import adamw as adamw
from clr_jax.optim._optimizers import lars as lars
from clr_jax.optim._optimizers import matrices as matrices
from clr_jax.optim._optimizers import sgd as sgd
from clr_jax.optim._sam import noise_sam as noise_sam
from clr_jax.optim._sam import sam as sam
from clr_jax.optim._sam import with_noise as with_noise
