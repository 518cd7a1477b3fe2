"""What the pictures share: colours, names of runs, the files of a picture and its numbers."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from typing import Any

from etils import epath

from clr_jax.core.errors import UserError
from clr_jax.core.storage import reaching

# Okabe and Ito's palette: tells apart under all common forms of colour blindness.
COLOURS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9', '#000000')
STYLES = ('-', '--', ':', '-.')


def look(i: int) -> dict[str, Any]:
  """Colour and line style of the i-th line: 28 different ones."""
  return {'color': COLOURS[i % len(COLOURS)], 'ls': STYLES[i // len(COLOURS) % len(STYLES)]}


def check_out(out: str, suffix: str) -> None:
  """UserError, before any work, for a file that cannot be written or has another suffix."""
  path = epath.Path(out)
  if path.suffix != suffix:
    raise UserError(f'--out={out}: its name must end in {suffix}')
  try:
    with reaching(path):
      if path.is_dir():
        raise UserError(f'--out={out} is a folder: name a file')
      path.parent.mkdir(parents=True, exist_ok=True)
      if not path.exists():
        path.write_text('')
        path.unlink()
  except OSError as error:
    raise UserError(f'--out={out} cannot be written: {error.strerror or error}') from None


def save(figure: Any, out: str, header: Sequence[str], rows: Iterable[Sequence]) -> epath.Path:
  """Writes the PNG `out` and its numbers to the CSV file of that name; returns the latter."""
  picture = epath.Path(out)
  picture.parent.mkdir(parents=True, exist_ok=True)
  with picture.open('wb') as file:
    figure.savefig(file, format='png')
  data = picture.with_suffix('.csv')
  write_csv(data, header, rows)
  return data


def write_csv(path: epath.Path, header: Sequence[str], rows: Iterable[Sequence]) -> None:
  """Writes a table with its header."""
  with path.open('w') as file:
    writer = csv.writer(file)
    writer.writerow(header)
    writer.writerows(rows)
