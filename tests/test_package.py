"""The wheel: what is in it, and that it works away from the checkout."""

import os
import pathlib
import re
import runpy
import subprocess
import sys
import types
import zipfile
from unittest import mock

import pytest

ROOT = pathlib.Path(__file__).parent.parent


def page_maker():
  """The module that makes the package's page; hatchling, which builds packages, is not needed."""
  interface = types.ModuleType('hatchling.metadata.plugin.interface')
  interface.MetadataHookInterface = object
  names = ('hatchling', 'hatchling.metadata', 'hatchling.metadata.plugin')
  with mock.patch.dict(sys.modules, {n: types.ModuleType(n) for n in names}):
    sys.modules[interface.__name__] = interface
    return runpy.run_path(str(ROOT / '.ci' / 'package_page.py'))['package_page']


def test_links_of_the_package_page_work_away_from_the_repository():
  page, link = page_maker(), re.compile(r'\]\((?!\w+:)')
  readme = (ROOT / 'README.md').read_text()
  assert link.search(readme)
  plain, linked = page(readme, None, 'v1'), page(readme, 'https://github.com/a/b', 'v1')
  assert not link.search(plain) and not link.search(linked)
  assert 'changes (`CHANGELOG.md`)' in plain and '| Install |' in plain
  assert '[changes](https://github.com/a/b/blob/v1/CHANGELOG.md)' in linked
  assert '[Install](https://github.com/a/b/blob/v1/README.md#install)' in linked
  assert '(https://github.com/a/b/raw/v1/.github/images/fashion_mnist.png)' in linked
  assert page('[SogCLR](https://arxiv.org)', None, 'v1') == '[SogCLR](https://arxiv.org)'


@pytest.mark.slow
def test_wheel_carries_the_configs_and_runs_from_another_folder(tmp_path):
  pip = [sys.executable, '-m', 'pip', '--quiet', '--disable-pip-version-check']
  subprocess.run([*pip, 'wheel', '--no-deps', '-w', str(tmp_path), str(ROOT)], check=True)
  (wheel,) = tmp_path.glob('*.whl')
  names = zipfile.ZipFile(wheel).namelist()
  for config in ROOT.glob('configs/*.py'):
    assert f'clr_jax/configs/{config.name}' in names
  for page in ROOT.glob('clr_jax/**/README.md'):
    assert page.relative_to(ROOT).as_posix() in names
  assert not [n for n in names if n.startswith(('tests/', 'launch/'))]
  (metadata,) = (n for n in names if n.endswith('.dist-info/METADATA'))
  assert '](CHANGELOG.md)' not in zipfile.ZipFile(wheel).read(metadata).decode()

  site, elsewhere = tmp_path / 'site', tmp_path / 'elsewhere'
  elsewhere.mkdir()
  subprocess.run([*pip, 'install', '--no-deps', '--target', str(site), str(wheel)], check=True)
  program = """
import clr_jax, sys
from clr_jax.experiment import config_files
assert clr_jax.__file__.startswith(sys.argv[1]), clr_jax.__file__
path, argument = config_files.resolve('quickstart:simclr')
assert str(path).startswith(sys.argv[1]) and argument == 'simclr', path
assert config_files.load('quickstart:simclr').method.name == 'simclr'
"""
  env = {**os.environ, 'PYTHONPATH': str(site)}
  subprocess.run([sys.executable, '-c', program, str(site)], cwd=elsewhere, env=env, check=True)
  done = subprocess.run(
    [sys.executable, '-m', 'clr_jax', 'methods'],
    cwd=elsewhere,
    env=env,
    capture_output=True,
    text=True,
    check=True,
  )
  assert 'sogclr' in done.stdout
