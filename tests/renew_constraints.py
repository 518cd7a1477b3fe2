"""Renews tests/constraints.txt: python tests/renew_constraints.py python3.11 python3.12

Installs the extra `test` into a fresh environment of each Python and pins what pip chose: the
lowest JAX and flax that pyproject.toml allows with the first one, the newest with the second.
"""

import pathlib
import re
import subprocess
import sys
import tempfile
import tomllib

ROOT = pathlib.Path(__file__).parent.parent
FILE = ROOT / 'tests/constraints.txt'
BOUNDARY = '3.12'  # the first Python of the second set
LOWEST = ('jax', 'jaxlib', 'flax')
TORCH = 'torch==2.13.0+cpu'  # of the extra `peer`; the CPU build, where it can be had
HEADER = """\
# The packages that the tests run with: the lowest supported JAX and flax before Python 3.12, the
# newest from there on. Renew: python tests/renew_constraints.py python3.11 python3.12
"""


def lowest_supported():
  """Pins of LOWEST by the lower bounds in pyproject.toml; jaxlib's is JAX's."""
  dependencies = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']['dependencies']
  bounds = dict(re.match(r'([\w-]+)\S*?>=([\d.]+)', d).groups() for d in dependencies if '>=' in d)
  return [f'{name}=={bounds["jax" if name == "jaxlib" else name]}' for name in LOWEST]


def installed(python, pins):
  """{package: version} in a fresh environment with the tests' extras."""
  with tempfile.TemporaryDirectory() as folder:
    subprocess.run([python, '-m', 'venv', folder], check=True)
    pip = [f'{folder}/bin/python', '-m', 'pip']
    subprocess.run([*pip, 'install', '--quiet', '--upgrade', 'pip'], check=True)
    subprocess.run([*pip, 'install', '--quiet', f'{ROOT}[test]', *pins], check=True)
    subprocess.run([*pip, 'install', '--quiet', TORCH], check=False)
    frozen = subprocess.run([*pip, 'freeze'], check=True, capture_output=True, text=True).stdout
  pairs = (line.split('==') for line in frozen.splitlines() if '==' in line)
  return {name.lower().replace('_', '-'): version.partition('+')[0] for name, version in pairs}


def merged(old, new):
  """Lines of a constraints file; a marker where the two sets differ."""
  for name in sorted(old.keys() | new.keys()):
    if old.get(name) == new.get(name):
      yield f'{name}=={old[name]}'
      continue
    for versions, marker in ((old, '<'), (new, '>=')):
      if name in versions:
        yield f"{name}=={versions[name]}; python_version {marker} '{BOUNDARY}'"


def main(first, second):
  old, new = installed(first, lowest_supported()), installed(second, [])
  FILE.write_text(HEADER + '\n'.join(merged(old, new)) + '\n')
  print(f'{FILE}: {len(old)} and {len(new)} packages')


if __name__ == '__main__':
  main(*sys.argv[1:])
