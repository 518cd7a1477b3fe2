"""Makes the text of the package's page from README.md, when a wheel or an sdist is built.

The page is not in the repository, so relative links lead nowhere there. They become links to the
repository if pyproject.toml names it (`[project.urls]`, Repository), and otherwise plain text with
the path.
"""

import pathlib
import re

from hatchling.metadata.plugin.interface import MetadataHookInterface

LINK = re.compile(r'(!?)\[([^\]]*)\]\(([^)\s]+)\)')


def package_page(readme: str, repository: str | None, tag: str) -> str:
  """Replaces the relative links and pictures of a Markdown text.

  Args:
    readme: the text.
    repository: URL of the repository on GitHub; None if there is none yet.
    tag: tag of the version that the links lead to.
  """

  def replaced(match: re.Match) -> str:
    picture, words, target = match.groups()
    if re.match(r'\w+:', target):
      return match[0]
    path, _, anchor = target.partition('#')
    if repository:
      place = f'{repository}/{"raw" if picture else "blob"}/{tag}/{path or "README.md"}'
      return f'{picture}[{words}]({place}{"#" * bool(anchor)}{anchor})'
    return f'{words} (`{path}`)' if path else words

  return LINK.sub(replaced, readme)


class PackagePage(MetadataHookInterface):
  """Sets the field `readme` of the package."""

  def update(self, metadata: dict) -> None:
    """Reads README.md; `metadata` is the table `[project]`."""
    readme = (pathlib.Path(self.root) / 'README.md').read_text(encoding='utf-8')
    repository = metadata.get('urls', {}).get('Repository')
    text = package_page(readme, repository, f'v{metadata["version"]}')
    metadata['readme'] = {'content-type': 'text/markdown', 'text': text}
