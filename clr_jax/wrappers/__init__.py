"""Functions Method -> Method that can wrap any method, one file each: a public
module `clr_jax/wrappers/<name>.py` defines `<name>(method, info, *, options) -> Method`, which
returns the method unchanged unless an option switches it on. Changes inside a loss are in
`plugins`.
"""

from clr_jax.core.registry import ModuleRegistry

WRAPPERS = ModuleRegistry(
  'wrapper', __name__, __path__, besides=('accumulate', 'telemetry', 'online_probe')
)
"""The wrappers of `config.plugins.<name>`; the others have their own keys."""


def in_order() -> list[str]:
  """Names in WRAPPERS, innermost first, by the ORDER of each module."""
  return sorted(WRAPPERS.names(), key=lambda name: WRAPPERS.module(name).ORDER)
