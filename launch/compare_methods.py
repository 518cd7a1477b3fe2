#!/usr/bin/env python3
"""Trains every method on the quickstart's data, same backbone and steps, and prints a table.

  python launch/compare_methods.py --out=DIR [--methods=simclr,moco] [--seeds=0,1] [--FLAG=VALUE]

Each run is `clr-jax train --config=quickstart:METHOD --workdir=DIR/METHOD-SEED --config.seed=SEED`
with the additional flags given here. Run the same command to resume: finished runs are kept, an
interrupted one continues from its checkpoint. The table compares the linear
accuracy of the trained encoder with that of the untrained one (BatchNorm statistics estimated), in
percent, mean over the seeds ± half their range. It goes to DIR/table.md and to the terminal.

Environment: CLR_JAX, the program (default clr-jax).
"""

import argparse
import json
import os
import pathlib
import shlex
import subprocess
import sys
import time

PROGRAM = shlex.split(os.environ.get('CLR_JAX', 'clr-jax'))


def main() -> int:
  parser = argparse.ArgumentParser(usage=__doc__)
  parser.add_argument('--out', type=pathlib.Path, required=True)
  parser.add_argument('--methods', default='')
  parser.add_argument('--seeds', default='0,1')
  options, flags = parser.parse_known_args()
  names = options.methods.split(',') if options.methods else all_methods()
  seeds = [int(seed) for seed in options.seeds.split(',')]
  options.out.mkdir(parents=True, exist_ok=True)
  failed = []
  for seed in seeds:  # all methods once before any of them twice
    for name in names:
      code = train(options.out / f'{name}-{seed}', name, seed, flags)
      if code in (75, 130):  # preempted, Ctrl-C: both have saved
        return code
      if code:
        failed.append(f'{name}-{seed}')
  table = markdown(options.out, names, seeds)
  (options.out / 'table.md').write_text(table)
  print(table)
  if failed:
    print(f'failed: {", ".join(failed)}; see their .log files', file=sys.stderr)
  return 1 if failed else 0


def all_methods() -> list[str]:
  listing = subprocess.run([*PROGRAM, 'methods'], check=True, capture_output=True, text=True).stdout
  return [line.split()[0] for line in listing.splitlines() if line.strip()]


def train(workdir: pathlib.Path, name: str, seed: int, flags: list[str]) -> int:
  """Runs one training to its end unless it has ended; keeps its output and its seconds."""
  seconds = workdir.with_suffix('.seconds')
  ended = workdir.with_suffix('.ended')
  if ended.exists():
    return 0
  command = [*PROGRAM, 'train', f'--config=quickstart:{name}', f'--workdir={workdir}']
  command += [f'--config.seed={seed}', '--config.progress=False', *flags]
  # The second seed compiles nothing again.
  env = {'JAX_COMPILATION_CACHE_DIR': str(workdir.parent / 'compiled'), **os.environ}
  print(f'{name}, seed {seed}', file=sys.stderr, flush=True)
  start = time.monotonic()
  with workdir.with_suffix('.log').open('a') as log:
    code = subprocess.run(command, stdout=log, stderr=log, env=env).returncode
  spent = float(seconds.read_text()) if seconds.exists() else 0.0
  seconds.write_text(f'{spent + time.monotonic() - start:.1f}')
  if code == 0:
    ended.touch()
  return code


def markdown(out: pathlib.Path, names: list[str], seeds: list[int]) -> str:
  """A row for each method, best first: linear accuracy by label fraction, seconds of a run."""
  rows = {name: [read(out / f'{name}-{seed}') for seed in seeds] for name in names}
  fractions = sorted({f for runs in rows.values() for run in runs for f, _ in run})
  head = [
    'method',
    *(f'{kind}, {f:g}' for f in fractions for kind in ('trained', 'untrained')),
    'seconds',
  ]
  lines = [head, ['---'] * len(head)]

  def key(name):
    first = [run.get((fractions[0], 'trained')) for run in rows[name]] if fractions else []
    return -sum(v or 0 for v in first)

  for name in sorted(names, key=key):
    cells = [
      interval([run[f, kind] for run in rows[name] if (f, kind) in run])
      for f in fractions
      for kind in ('trained', 'untrained')
    ]
    spent = [float(p.read_text()) for s in seeds if (p := out / f'{name}-{s}.seconds').exists()]
    cells.append(f'{sum(spent) / len(spent):.0f}' if spent else '-')
    lines.append([f'`{name}`', *cells])
  return ''.join(f'| {" | ".join(line)} |\n' for line in lines)


def read(workdir: pathlib.Path) -> dict[tuple[float, str], float]:
  """{(label fraction, features): linear top-1 in percent}, mean over the draws."""
  values: dict[tuple[float, str], list[float]] = {}
  for path in sorted((workdir / 'results').glob('*.json')):
    record = json.loads(path.read_text())
    if record['protocol'] == 'linear' and record['metric'] == 'top1':
      key = float(record['params']['label_fraction']), record['features']
      values.setdefault(key, []).append(100 * record['value'])
  return {key: sum(v) / len(v) for key, v in values.items()}


def interval(values: list[float]) -> str:
  if not values:
    return '-'
  middle = sum(values) / len(values)
  return f'{middle:.1f} ± {(max(values) - min(values)) / 2:.1f}'


if __name__ == '__main__':
  sys.exit(main())
