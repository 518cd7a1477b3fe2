"""Changes the method, model, augmentation, ... of a config by rebuilding its section."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clr_jax.core.config_tree import Config, to_dict
from clr_jax.core.errors import UserError
from clr_jax.core.names import listed
from clr_jax.core.options import OPTIONAL, REQUIRED, OnlyWith, Option, check_value, typed
from clr_jax.experiment.schema import section, sections


def switchable() -> list[str]:
  """Sections whose `name` chooses their options: 'method', 'augment', ..."""
  return [path for path, part in sections().items() if part.choices]


def names_in(values: Mapping[str, Any]) -> dict[str, Any]:
  """{section: name} for the dotted keys in the values that choose the options of a section."""
  return {path: values[f'{path}.name'] for path in switchable() if f'{path}.name' in values}


def switch(config: Config, names: Mapping[str, Any]) -> list[str]:
  """Changes the `name` of sections of `config` and rebuilds them with its defaults.

  Values that the config sets (other than the old defaults) are kept if the new section has the
  option, allows the value, and gives it an effect.

  Args:
    config: a checked config, changed in place.
    names: {section: name}, such as {'method': 'byol'}. A section with this name stays unchanged.

  Returns:
    One sentence with the kept and dropped values per rebuilt section that had any.

  Raises:
    UserError: an unknown name.
  """
  said = []
  for path, name in names.items():
    old = to_dict(config)[path]
    old_name = old.pop('name')
    if name == old_name:
      continue
    part = sections()[path]
    before, after = part.options(old_name), part.options(name)
    given = {k: v for k, v in old.items() if k not in before or v != before[k].default}
    kept = _fitting(given, after)
    with config.unlocked():
      config[path] = section(path, name=name, **kept)
      for key, option in after.items():
        if option.default is REQUIRED and OPTIONAL not in option.facts and key not in kept:
          config[path][key] = typed(option, None)  # required: a flag may set it
    dropped = {k: v for k, v in given.items() if k not in kept}
    if given:
      said.append(f'{path}.name={name}: kept {_shown(kept)}; dropped {_shown(dropped)}')
  return said


def _fitting(given: Mapping[str, Any], options: Mapping[str, Option]) -> dict[str, Any]:
  """The given values that a section with these options allows."""
  kept = {k: v for k, v in given.items() if k in options and _allows(options[k], v)}
  idle = [
    key
    for key in kept
    for fact in options[key].facts
    if isinstance(fact, OnlyWith) and not fact.holds(options, kept)
  ]
  return {key: value for key, value in kept.items() if key not in idle}


def _allows(option: Option, value: Any) -> bool:
  try:
    check_value('', value, option.hint)
  except UserError:
    return False
  return True


def _shown(values: Mapping[str, Any]) -> str:
  return listed(f'{key}={value}' for key, value in values.items())
