"""The Markdown pages: links, anchors, and the commands and files that code blocks name."""

import ast
import functools
import pathlib
import re
import shlex

import pytest

from clr_jax.cli.parser import make_parser
from clr_jax.core.config_tree import check_keys
from clr_jax.evaluation import registry as protocols
from clr_jax.experiment.config_files import load, packaged

ROOT = pathlib.Path(__file__).parent.parent
TOPS = ('clr_jax', 'configs', 'launch', 'tests')
PAGES = sorted([*ROOT.glob('*.md'), *(p for top in TOPS for p in (ROOT / top).rglob('*.md'))])
by_page = pytest.mark.parametrize('page', PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())

FENCED = re.compile(r'^```(\w*)\n(.*?)^```$', re.MULTILINE | re.DOTALL)
LINK = re.compile(r'\[[^\]]*\]\(([^)\s]+)\)')
HEADING = re.compile(r'^#+ (.*)$', re.MULTILINE)
FOLDERS = tuple(f'{top}/' for top in TOPS)
PLACEHOLDERS = ('...', 'FILE')  # in place of a config


@functools.cache
def prose(page):
  return FENCED.sub('', page.read_text())


def links(page):
  """Targets in the repository of the links and pictures of a page."""
  found = LINK.findall(re.sub(r'`[^`]*`', '', prose(page)))
  return [target for target in found if not re.match(r'\w+:', target)]


def anchors(page):
  """Anchors that GitHub makes of the headings."""
  titles = (re.sub(r'[^\w\- ]', '', title.lower()) for title in HEADING.findall(prose(page)))
  return {title.replace(' ', '-') for title in titles}


def blocks(page, language):
  return [text for kind, text in FENCED.findall(page.read_text()) if kind == language]


def expanded(word):
  """The words that a shell makes of braces: a{b,c}d is abd acd."""
  match = re.search(r'\{([^{}]*,[^{}]*)\}', word)
  if match is None:
    return [word]
  parts = match[1].split(',')
  return [w for part in parts for w in expanded(word[: match.start()] + part + word[match.end() :])]


def commands(page):
  """Lists of words of the shell commands in code blocks."""
  for text in blocks(page, 'bash'):
    for line in text.replace('\\\n', ' ').splitlines():
      words = [w for word in shlex.split(line, comments=True) for w in expanded(word)]
      while words:
        end = words.index('&&') if '&&' in words else len(words)
        yield words[: words.index('>') if '>' in words[:end] else end]
        words = words[end + 1 :]


def place_of(page, target):
  """The file that a link names, in the folder of its page."""
  name = target.partition('#')[0]
  return (page.parent / name).resolve() if name else page


@by_page
def test_links_resolve(page):
  for target in links(page):
    place, anchor = place_of(page, target), target.partition('#')[2]
    assert place.exists() and place.is_relative_to(ROOT), target
    assert not anchor or anchor in anchors(place), target


def test_every_page_is_reached_from_the_readme():
  reached, new = set(), {ROOT / 'README.md'}
  while new:
    reached |= new
    targets = {place_of(page, target) for page in new for target in links(page)}
    new = {place for place in targets if place.suffix == '.md'} - reached
  assert reached == set(PAGES)


def test_the_readme_is_short():
  assert len((ROOT / 'README.md').read_text().splitlines()) <= 250


@by_page
def test_python_blocks_are_python(page):
  for text in blocks(page, 'python'):
    ast.parse(text)


@by_page
def test_files_of_commands_exist(page):
  for words in commands(page):
    for word in words:
      value = word.partition('=')[2] or word
      if value.startswith(FOLDERS):
        assert (ROOT / value.partition(':')[0]).exists(), word
      elif word.startswith('--config='):
        assert value in PLACEHOLDERS or value.partition(':')[0] in packaged(), word


@by_page
def test_options_of_commands_exist(page, monkeypatch):
  """The parser of the command line accepts all flags, and the keys of configs and protocols."""
  monkeypatch.chdir(ROOT)
  _, parsers = make_parser()
  for program, *words in commands(page):
    if program != 'clr-jax' or '...' in words:
      continue
    args, given = parsers[words[0]].parse(words[1:])
    specs = getattr(args, 'config', None) or []
    for spec in [specs] if isinstance(specs, str) else specs:
      if not args.imports:
        known = protocols.with_all_options(load(spec))
        grid = [key for axis in getattr(args, 'grid', ()) for key in axis.keys]
        check_keys(known, [*(key for key, _ in given['config']), *grid])
    if words[0] == 'evaluate':
      known = protocols.parameters(args.protocol)
      check_keys(known, [key for key, _ in given['params']], '--params.')


@by_page
def test_commands_in_sentences_exist(page):
  _, parsers = make_parser()
  for command in re.findall(r'`clr-jax ([^`]+)`', prose(page)):
    name, *options = command.split()
    if name == 'COMMAND':
      continue
    usage = parsers[name].format_usage() + ' --help'
    for option in (word.partition('=')[0] for word in options if word.startswith('--')):
      assert '.' in option or option in usage.replace('[', ' ').replace(']', ' ').split(), command
