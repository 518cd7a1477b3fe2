"""One file for each evaluation protocol, found by its name. A file `NAME.py` defines

- `measure(subject, *, options)`, which yields the measurements; its annotations say what the
  options may be, and one marked `SEVERAL` is measured for each of several values;
- `check(sets, options)`, if options depend on each other or on the data: refuses before any work;
- `NEEDS_NETWORK = True`, if raw pixels cannot be measured;
- `FITS_CLASSES = True`, if it fails on test images of a class without a training image;
- `table(records)`, if a special table says more than one row for each number;
- `parameters()`, if `measure` takes more options than those of its signature: all, by name;
- `check_together(options, prefix)`, if several values of one option bear on the others;
- `on_target(subject, options)`, if it measures on other sets than the subject's.

What protocols share is in `evaluation.probing`.
"""

from clr_jax.core.registry import ModuleRegistry

PROTOCOLS = ModuleRegistry(
  'protocol', __name__, __path__, function='measure', entry_points='clr_jax.protocols'
)
register = PROTOCOLS.register
"""Decorates a `measure`; the other names above are its options: `@register(NEEDS_NETWORK=True)`."""
