"""The rules of the source tree: who imports whom, docstrings, sizes, names."""

import ast
import graphlib
import pathlib
import re
import subprocess
import sys

import clr_jax

ROOT = pathlib.Path(clr_jax.__file__).parent

# A room imports from itself and from the rooms before it.
ORDER = (
  'core',
  'ops',
  'augment',
  'data',
  'optim',
  'models',
  'losses',
  'rundir',
  'plugins',
  'skeletons',
  'wrappers',
  'methods',
  'experiment',
  'evaluation',
  'training',
  'figures',
  'report',
  'exchange',
  'studies',
  'bench',
  'cli',
)
LEVEL = {room: level for level, room in enumerate(ORDER)}
PURE = ('ops', 'augment', 'data', 'losses')  # arrays in, arrays out
SEES_CONFIG = ('core', 'rundir', 'experiment', 'evaluation', 'training', 'bench', 'cli')


class Source:
  """One parsed file; `tree` is its syntax tree, `name` its dotted module name."""

  def __init__(self, path):
    self.path = path.relative_to(ROOT.parent)
    self.text = path.read_text()
    self.tree = ast.parse(self.text)
    parts = self.path.with_suffix('').parts
    self.is_package = parts[-1] == '__init__'
    self.name = '.'.join(parts[:-1] if self.is_package else parts)

  @property
  def room(self):
    first = self.name.split('.')[1:2]
    return first[0] if first and first[0] in ORDER else ''


SOURCES = [
  Source(path)
  for path in sorted(ROOT.rglob('*.py'))
  if path.relative_to(ROOT).parts[0] != 'configs'  # in a wheel
]
MODULES = {source.name for source in SOURCES}


def imports(tree):
  """(node, dotted name) of everything imported anywhere in a file."""
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      yield from ((node, alias.name) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert not node.level, f'line {node.lineno}: write the whole name of what is imported'
      yield from ((node, f'{node.module}.{alias.name}') for alias in node.names)


def module_of(name):
  """The module of the library that an imported name is, or is in; None for other libraries."""
  while name and name not in MODULES:
    name = name.rpartition('.')[0]
  return name or None


def used(source):
  """Modules of the library that a file imports."""
  return {module_of(name) for _, name in imports(source.tree)} - {None, source.name, 'clr_jax'}


def test_imports_are_read_right():
  tree = ast.parse('import a.b, c\ndef f():\n  from clr_jax.ops import ema')
  assert [name for _, name in imports(tree)] == ['a.b', 'c', 'clr_jax.ops.ema']
  assert module_of('clr_jax.ops.ema.update') == 'clr_jax.ops.ema' and module_of('jax') is None


def test_rooms():
  packages = {s.name.split('.')[1] for s in SOURCES if s.is_package and '.' in s.name}
  assert packages == set(ORDER)
  assert len([s for s in SOURCES if s.name.count('.') == 1 and not s.is_package]) <= 1 + 5
  assert not packages & sys.stdlib_module_names


def test_a_room_imports_from_rooms_below_it():
  wrong = [
    f'{source.path} imports {name}'
    for source in SOURCES
    for name in used(source)
    if source.room and LEVEL[name.split('.')[1]] > LEVEL[source.room]
  ]
  assert not wrong, wrong


def test_no_circle():
  # Importing a.b runs a/__init__ first, so a package's face may import its own files.
  graph = {
    source.name: {name for name in used(source) if not source.name.startswith(f'{name}.')}
    for source in SOURCES
  }
  graphlib.TopologicalSorter(graph).prepare()  # raises CycleError with the circle
  assert all(graph[name] for name in ('clr_jax.cli.main', 'clr_jax.training.loop'))


def test_imports_stand_at_the_top_or_say_why_not():
  """Only the bodies of commands import late without a word: `--help` must be quick."""
  wrong = []
  for source in SOURCES:
    lines = source.text.splitlines()
    for function in ast.walk(source.tree):
      if not isinstance(function, ast.FunctionDef) or source.name == 'clr_jax.cli.commands':
        continue
      block = ''  # the comment of the first import of a block is that of all
      for node in function.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
          before = lines[node.lineno - 2].strip()
          block = block or (before if before.startswith('#') else '')
          if not block and '#' not in lines[node.lineno - 1]:
            wrong.append(f'{source.path}:{node.lineno}')
  assert not wrong, wrong


# Longer than 60 lines without docstring: factories of methods, whose loss is a nested function.
LONG = ('methods', 'skeletons')


def test_functions_are_short():
  for source in SOURCES:
    for node in ast.walk(source.tree):
      if isinstance(node, ast.FunctionDef) and source.room not in LONG:
        documentation = (ast.get_docstring(node, clean=False) or '').splitlines()
        lines = node.end_lineno - node.lineno + 1 - len(documentation)
        assert lines <= 75, f'{source.path}: {node.name} has {lines} lines'


def test_private_names_stay_in_their_file():
  wrong = [
    f'{source.path}:{node.lineno} takes {name}'
    for source in SOURCES
    for node, name in imports(source.tree)
    if module_of(name) not in (None, name) and name.rpartition('.')[2].startswith('_')
  ]
  assert not wrong, wrong


def test_who_knows_what():
  for source in SOURCES:
    roots = {name.split('.')[0] for _, name in imports(source.tree)}
    assert 'tensorflow' not in roots, source.path
    if source.room in PURE:
      assert 'flax' not in roots, source.path
    if source.room and source.room not in SEES_CONFIG:
      assert 'ml_collections' not in roots, source.path


def test_programs_of_the_host_get_their_compiler_options():
  """`host_jit` is the only way to compile: `jax.jit` stands in no other file."""
  for source in SOURCES:
    calls = [
      node
      for node in ast.walk(source.tree)
      if isinstance(node, ast.Attribute) and ast.unparse(node) == 'jax.jit'
    ]
    assert not calls or source.path.name == 'programs.py', source.path


def test_importing_the_library_does_not_import_tensorflow():
  code = (
    'import sys, clr_jax.cli.main, clr_jax.training.loop, clr_jax.report; '
    'assert "tensorflow" not in sys.modules'
  )
  subprocess.run([sys.executable, '-c', code], check=True, timeout=300)


def test_docstrings():
  """Packages, modules, and their public functions and classes have docstrings."""
  kinds = (ast.FunctionDef, ast.ClassDef)
  for source in SOURCES:
    public = [
      node
      for node in source.tree.body
      if isinstance(node, kinds) and not node.name.startswith('_') and not is_protocol(node)
    ]
    missing = [node.name for node in public if not ast.get_docstring(node)]
    assert ast.get_docstring(source.tree) and not missing, (source.path, missing)


def is_protocol(node):
  bases = node.bases if isinstance(node, ast.ClassDef) else []
  return any(isinstance(base, ast.Name) and base.id == 'Protocol' for base in bases)


def test_files_are_small_and_name_no_machine():
  for source in SOURCES:
    assert len(source.text.splitlines()) < 400, source.path
    found = re.search(r'[\'"\s(](/work|/root|/home|/Users|C:\\)\b', source.text)
    assert not found, source.path
