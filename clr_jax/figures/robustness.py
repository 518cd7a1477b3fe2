"""The robustness figures of runs, from what `clr-jax evaluate robustness` recorded."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from clr_jax.core.errors import UserError
from clr_jax.figures.robustness_curves import draw, draw_corruptions
from clr_jax.rundir import workdir
from clr_jax.rundir.identity import read_config
from clr_jax.rundir.reader import run_name
from clr_jax.rundir.results import read_arrays, read_results

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
  measured = newest(directories)
  if not measured:
    raise UserError(
      'no attack was measured in these runs: run `clr-jax evaluate robustness` on them first'
    )
  path = epath.Path(out)
  pictures = []
  for attack, found in measured.items():
    picture = path.with_name(f'{path.stem}-{attack}.png')
    kept = comparable(found)
    for label in found.keys() - kept.keys():
      print(f'{attack}: {label} is left out, it was measured with other settings or other images')
    _figure(attack, kept, str(picture))
    pictures.append(picture)
  return pictures


def newest(
  directories: Sequence[str],
) -> dict[str, dict[str, tuple[workdir.Workdir, dict[str, Any]]]]:
  """Attack -> name of a curve -> its run and the newest record that carries its arrays.

  Raises:
    UserError: a directory is not a run.
  """
  found: dict[str, dict[str, tuple[workdir.Workdir, dict[str, Any]]]] = {}
  for directory in directories:
    run = workdir.Workdir(directory)
    read_config(run)
    for record in read_results(run):
      if record['protocol'] == 'robustness' and record['metric'] in _METRIC:
        label = run_name(directory, directories)
        if record['features'] != 'trained':
          label = f'{label}, {record["features"]}'
        found.setdefault(record['params']['attack'], {})[label] = (run, record)
  return found


def comparable(found: Mapping[str, Any]) -> dict[str, Any]:
  """Of one attack's curves those whose settings and images are the newest record's."""

  def settings(record: Mapping[str, Any]) -> str:
    asked = {k: v for k, v in record['params'].items() if k != 'head'}  # supervised: its own
    return json.dumps([asked, record['data_checksum']], sort_keys=True)

  last = max((record for _, record in found.values()), key=lambda record: record['time'])
  return {k: v for k, v in found.items() if settings(v[1]) == settings(last)}


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
    draw(distances, out, norm=params['norm'], attack=title(attack, params))
    return
  tables = corruption_tables(arrays)
  draw_corruptions(tables, out, clean={label: float(a['clean']) for label, a in arrays.items()})


def corruption_tables(
  arrays: Mapping[str, Mapping[str, Any]],
) -> dict[str, dict[str, dict[int, float]]]:
  """Name of a curve -> family -> severity -> top-1 accuracy, of the arrays of its record."""
  return {
    label: {
      str(family): dict(zip(array['level'].tolist(), row.tolist(), strict=True))
      for family, row in zip(array['family'], array['top1'], strict=True)
    }
    for label, array in arrays.items()
  }


def title(attack: str, params: Mapping[str, Any]) -> str:
  """The attack with its settings in short."""
  told = [f'{key} {params[key]}' for key in ('steps', 'outer', 'inner') if key in params]
  if budgets := params.get('epsilons'):
    told.append(f'budgets {", ".join(f"{e:.3g}" for e in budgets)}')
  settings = f' ({", ".join(told)})' if told else ''
  return f'{attack}{settings}, {params["num_images"]} images'
