"""Plug-ins of InfoNCE-shaped losses, one file each: a public module
`clr_jax/plugins/<name>.py` defines `<name>(info, *, options) -> Plugin | None`, None = off.
`pipeline` runs them in a method's loss. Functions around a whole method are in `wrappers`.
"""

from clr_jax.core.registry import ModuleRegistry

PLUGINS = ModuleRegistry('plug-in', __name__, __path__, besides=('pipeline',))
"""The factories by name; their options are `config.plugins.<name>`."""
