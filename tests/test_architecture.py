"""The rules of the source tree: who may import whom, docstrings, file sizes."""

import ast
import pathlib
import re
import subprocess
import sys

import pytest

import clr_jax

ROOT = pathlib.Path(clr_jax.__file__).parent
FILES = sorted(p for p in ROOT.rglob('*.py') if 'configs' not in p.relative_to(ROOT).parts)
NAMES = [str(p.relative_to(ROOT)) for p in FILES]

# A module may import from its own layer and from those before it. `data` stands beside the models.
LAYERS = (
  {'types', 'lookup', 'stores'},
  {'losses', 'ops', 'augment', 'schedules', 'sharding', 'data'},
  {'models', 'optim'},
  {'methods'},
  {'train_step'},
)
LEVEL = {name: i for i, layer in enumerate(LAYERS) for name in layer}
PURE = ('types', 'lookup', 'losses', 'ops', 'augment', 'data', 'schedules', 'sharding')
SEES_CONFIG = {'config', 'experiment', 'command_flags', 'train', 'evaluate', 'workdir', 'bench'}


def part(file):
  """'losses' of losses/contrastive.py, 'types' of types.py."""
  first = file.relative_to(ROOT).parts[0]
  return first.removesuffix('.py')


def imports(tree, *, package):
  """Dotted names of everything imported anywhere in a module, relative imports resolved."""
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      base = node.module or ''
      if node.level:
        above = package[: len(package) - node.level + 1]
        base = '.'.join([*above, *([base] if base else [])])
      # `from clr_jax import data` imports the module clr_jax.data.
      yield from (f'{base}.{alias.name}' for alias in node.names)


def imported(file):
  package = ('clr_jax', *file.relative_to(ROOT).parent.parts)
  return set(imports(ast.parse(file.read_text()), package=package))


def test_imports_are_read_right():
  tree = ast.parse('import a.b, c\nfrom clr_jax import data\nfrom . import x\nfrom ..y import z')
  found = set(imports(tree, package=('clr_jax', 'losses')))
  assert found == {'a.b', 'c', 'clr_jax.data', 'clr_jax.losses.x', 'clr_jax.y.z'}
  assert FILES and set(LEVEL) <= {part(file) for file in FILES}


@pytest.mark.parametrize('file', FILES, ids=NAMES)
def test_dependency_arrow(file):
  """types <- losses, ops, augment, data <- models, optim <- methods <- train_step <- the rest."""
  if part(file) not in LEVEL:
    return
  for name in imported(file):
    if name.startswith('clr_jax.'):
      other = name.split('.')[1]
      assert LEVEL.get(other, len(LAYERS)) <= LEVEL[part(file)], f'imports {name}'


@pytest.mark.parametrize('file', FILES, ids=NAMES)
def test_who_knows_flax_and_configs(file):
  roots = {name.split('.')[0] for name in imported(file)}
  if part(file) in PURE and part(file) != 'types':  # types has the train state's dataclass
    assert 'flax' not in roots
  if part(file) not in SEES_CONFIG:
    assert 'ml_collections' not in roots
  assert 'tensorflow' not in roots


def test_importing_the_library_does_not_import_tensorflow():
  code = (
    'import sys, clr_jax.cli, clr_jax.train, clr_jax.evaluate.run; '
    'assert "tensorflow" not in sys.modules'
  )
  subprocess.run([sys.executable, '-c', code], check=True, timeout=300)


@pytest.mark.parametrize('file', FILES, ids=NAMES)
def test_docstrings(file):
  """Of modules, and of what other files may use: public functions and classes at the top level."""
  tree = ast.parse(file.read_text())
  kinds = (ast.FunctionDef, ast.ClassDef)
  public = [n for n in tree.body if isinstance(n, kinds) and not n.name.startswith('_')]
  protocols = [n for n in tree.body if isinstance(n, ast.ClassDef) and _is_protocol(n)]
  missing = [n.name for n in public if n not in protocols and not ast.get_docstring(n)]
  assert ast.get_docstring(tree) and not missing, missing


def _is_protocol(node):
  return any(isinstance(base, ast.Name) and base.id == 'Protocol' for base in node.bases)


@pytest.mark.parametrize('file', FILES, ids=NAMES)
def test_files_are_small_and_name_no_machine(file):
  text = file.read_text()
  assert len(text.splitlines()) < 400
  assert not re.search(r'[\'"\s(](/work|/root|/home|/Users|C:\\)\b', text)
