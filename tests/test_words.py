"""The words of docstrings, comments and messages: American spelling, plain openings."""

import pathlib
import re

ROOT = pathlib.Path(__file__).parent.parent
CODE = [
  path for top in ('clr_jax', 'configs', 'launch', 'tests') for path in (ROOT / top).rglob('*.py')
]
PAGES = [path for kind in ('md', 'sh', 'ipynb') for path in (ROOT / 'launch').rglob(f'*.{kind}')]
PAGES += [path for top in ('clr_jax', 'configs', 'tests') for path in (ROOT / top).rglob('*.md')]
PAGES += ROOT.glob('*.md')
EXEMPT = ('tests/test_words.py', 'clr_jax/core/names.py', 'tests/core/test_names.py')

BRITISH = """
  labelled modelled cancelled travelled signalled colour grey neighbour behaviour favour honour
  centre metres fibre licence defence whilst amongst judgement artefact learnt spelt catalogue
  analysed normalis standardis regularis optimise optimising optimisation initialis generalis
  organis randomis parallelise parallelisa realise realising realisation recognis summaris utilis
  maximis minimis materialis specialis serialis vectoris quantis tokenis emphasise categoris
  customis discretis penalis prioritis synchronis visualis characteris equalis stabilis linearis
  localis memoris binaris symmetris orthogonalis
"""
OPENING = re.compile(r'^ *r?"""((What|Of|Those|Whether)\b|(Args|Attributes):).*', re.MULTILINE)
PARAGRAPH = re.compile(r'(?<=\n\n) *(What|Of|Those|Whether) .*')
COMMENT = re.compile(r'^ *# (What|Of|Those|Whether)\b.*', re.MULTILINE)
ARGUMENT_OF = re.compile(r'^ +\*{0,2}\w+(, \*{0,2}\w+)*: of .*', re.MULTILINE)


def texts(paths):
  """(name, text) of each file."""
  return [(path.relative_to(ROOT).as_posix(), path.read_text()) for path in paths]


def found(pattern):
  """'file:line: text' of each match in the code."""
  return [
    f'{name}:{text.count(chr(10), 0, match.start()) + 1}: {match[0].strip()}'
    for name, text in texts(CODE)
    for match in pattern.finditer(text)
  ]


def test_american_spelling():
  british = []
  for name, text in texts(CODE + PAGES):
    for name_of_others in ('unlabelled', 'aria-labelledby'):  # a split of STL-10, HTML
      text = text.lower().replace(name_of_others, '')
    if name not in EXEMPT:
      british += [f'{name}: {word}' for word in BRITISH.split() if word in text]
  assert not british, '\n'.join(british)


def test_docstrings_and_comments_begin_with_a_verb_or_a_noun_phrase():
  riddles = found(OPENING) + found(PARAGRAPH) + found(COMMENT)
  assert not riddles, '\n'.join(riddles)


def test_arguments_are_described_by_nouns():
  riddles = found(ARGUMENT_OF)
  assert not riddles, '\n'.join(riddles)
