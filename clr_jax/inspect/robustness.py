"""The robustness figures of runs, from what `clr-jax evaluate robustness` recorded."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from clr_jax import workdir
from clr_jax.inspect.plots import run_name
from clr_jax.inspect.robustness_curves import draw, draw_corruptions
from clr_jax.results import read_arrays, read_results
from clr_jax.types import UserError

_METRIC = {'median_distance', 'mean_corrupted_top1'}  # the records that carry arrays


def figures(directories: Sequence[str], out: str) -> list[epath.Path]:
  """Draws one picture for each attack that was measured: FILE.png becomes FILE-plb_l2.png, ...

  Of each run the newest numbers count. Runs that were attacked with other settings than the
  newest ones cannot share a figure with them and are left out; a line on the terminal says so.

  Args:
    directories: workdirs of runs.
    out: the picture's name, to which the attack's is added; CSV files with the numbers lie beside.

  Returns:
    The pictures.

  Raises:
    UserError: a directory is not a run, or nothing was measured.
  """
  newest: dict[
    str, dict[str, tuple[workdir.Workdir, dict[str, Any]]]
  ] = {}  # attack -> curve -> ...
  for directory in directories:
    run = workdir.Workdir(directory)
    workdir.read_config(run)
    for record in read_results(run):
      if record['protocol'] == 'robustness' and record['metric'] in _METRIC:
        label = run_name(directory, directories)
        if record['features'] != 'trained':
          label = f'{label}, {record["features"]}'
        newest.setdefault(record['params']['attack'], {})[label] = (run, record)
  if not newest:
    raise UserError(
      'no attack was measured in these runs: run `clr-jax evaluate robustness` on them first'
    )
  path = epath.Path(out)
  pictures = []
  for attack, found in newest.items():
    picture = path.with_name(f'{path.stem}-{attack}.png')
    _figure(attack, _comparable(attack, found), str(picture))
    pictures.append(picture)
  return pictures


def _comparable(attack: str, found: Mapping[str, Any]) -> dict[str, Any]:
  """The curves whose settings and images are those of the newest record."""

  def settings(record: Mapping[str, Any]) -> str:
    asked = {k: v for k, v in record['params'].items() if k != 'head'}  # supervised: its own
    return json.dumps([asked, record['data_checksum']], sort_keys=True)

  last = max((record for _, record in found.values()), key=lambda record: record['time'])
  kept = {k: v for k, v in found.items() if settings(v[1]) == settings(last)}
  for label in found.keys() - kept.keys():
    print(f'{attack}: {label} is left out, it was measured with other settings or other images')
  return kept


def _figure(attack: str, found: Mapping[str, Any], out: str) -> None:
  arrays = {label: read_arrays(run, record) for label, (run, record) in found.items()}
  lost = [label for label, array in arrays.items() if not array]
  if lost:
    raise UserError(
      f'{attack}: the distances of {lost[0]} are lost: run `clr-jax evaluate robustness --again`'
    )
  params = next(iter(found.values()))[1]['params']
  if attack != 'corruptions':
    distances = {label: array['distance'] for label, array in arrays.items()}
    draw(distances, out, norm=params['norm'], attack=_title(attack, params))
    return
  tables = {
    label: {
      str(family): dict(zip(array['level'].tolist(), row.tolist(), strict=True))
      for family, row in zip(array['family'], array['top1'], strict=True)
    }
    for label, array in arrays.items()
  }
  draw_corruptions(tables, out, clean={label: float(a['clean']) for label, a in arrays.items()})


def _title(attack: str, params: Mapping[str, Any]) -> str:
  told = [f'{key} {params[key]}' for key in ('steps', 'outer', 'inner') if key in params]
  if budgets := params.get('epsilons'):
    told.append(f'budgets {", ".join(f"{e:.3g}" for e in budgets)}')
  return f'{attack} ({", ".join(told)}), {params["num_images"]} images'
