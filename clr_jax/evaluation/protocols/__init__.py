"""Evaluation protocols, one file each, found by name. A file `NAME.py` defines

- `measure(subject, *, options)`, which yields measurements; annotations define the allowed options,
  and an option marked `SEVERAL` is measured for each of several values;
- `check(sets, options)`, optional: raises errors about combinations of options, or data, early;
- `NEEDS_NETWORK = True`, if raw pixels cannot be measured;
- `NEEDS_PROBE = True`, if it measures the online probe of the run;
- `OUTPUT`, the output of `represent` whose classes it needs, and `WITHOUT_OUTPUT`, a sentence for
  networks that lack it;
- `FITS_CLASSES = True`, if it fails on test images of a class without a training image;
- `table(records)`, for a special table instead of one row per number;
- `parameters()`, if `measure` takes options beyond its signature: all options by name;
- `check_together(options, prefix)`, if several values of one option affect others;
- `programs(sizes, options, devices)`, for `clr-jax plan --protocol`: yields a `planned.Program` for
  each program that `measure` runs on the features, with `devices` those of one process;
- `on_target(subject, options)`, if it measures on other sets than the subject's.

Common code of protocols is in `evaluation.probing`.
"""

from clr_jax.core.registry import ModuleRegistry

PROTOCOLS = ModuleRegistry(
  'protocol', __name__, __path__, function='measure', entry_points='clr_jax.protocols'
)
register = PROTOCOLS.register
"""Decorates a `measure`; the other names above are its options: `@register(NEEDS_NETWORK=True)`."""
