"""Functions Method -> Method that any method can be trained with, one file for each: a public
module `clr_jax/wrappers/<name>.py` defines `<name>(method, info, *, options) -> Method`, which
returns the method as it is unless an option switches it on. What acts inside a loss is in
`plugins`.
"""

from clr_jax.core.registry import ModuleRegistry

WRAPPERS = ModuleRegistry(
  'wrapper', __name__, __path__, besides=('accumulate', 'telemetry', 'online_probe')
)
"""The wrappers of `config.plugins.<name>`; the others have keys and places of their own."""


def in_order() -> list[str]:
  """The names in WRAPPERS, innermost first: by the ORDER that each module states."""
  return sorted(WRAPPERS.names(), key=lambda name: WRAPPERS.module(name).ORDER)
