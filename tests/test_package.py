"""The wheel: what is in it, and that it works away from the checkout."""

import os
import pathlib
import subprocess
import sys
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parent.parent


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
