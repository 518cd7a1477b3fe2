"""What may be switched on inside an InfoNCE-shaped loss, one file for each: a public module
`clr_jax/plugins/<name>.py` defines `<name>(info, *, options) -> Plugin | None`, None = off.
`pipeline` runs them in a method's loss; what goes around a method is in `wrappers`.
"""

from clr_jax.core.registry import ModuleRegistry

PLUGINS = ModuleRegistry('plug-in', __name__, __path__, besides=('pipeline',))
"""The factories by name; their options are `config.plugins.<name>`."""
