"""The parsed page of a report, and a browser that draws it."""

import html
import html.parser
import json
import pathlib
import re
import shutil
import subprocess

import pytest

from clr_jax.report import report

CHROMIUM = next(
  filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome', 'chrome'))), None
)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason='no chromium on PATH')


class Parsed(html.parser.HTMLParser):
  """Tags with their attributes, texts of cells, scripts by id."""

  def __init__(self, path):
    super().__init__()
    self.tags, self.scripts, self.texts, self._open = [], {}, [], None
    self.feed(path.read_text())
    self.text = ' '.join(self.texts)

  def handle_starttag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))
    self._open = (tag, dict(attrs).get('id', ''))

  def handle_data(self, data):
    tag, name = self._open or ('', '')
    if tag == 'script':
      self.scripts[name] = self.scripts.get(name, '') + data
    elif data.strip() and tag != 'style':
      self.texts.append(data.strip())

  @property
  def data(self):
    return json.loads(self.scripts['report-data'])

  @property
  def images(self):
    return json.loads(self.scripts['report-images'])

  def ids(self):
    return [attrs['id'] for _, attrs in self.tags if 'id' in attrs]


def make(directories, out):
  """The parsed page; the same numbers are in the JSON file."""
  paths = report([str(d) for d in directories], str(out))
  assert [path.name for path in paths] == [out.name, f'{out.stem}.json']
  found = Parsed(pathlib.Path(out))
  assert found.data == json.loads(out.with_suffix('.json').read_text())
  return found


# ---------------------------------------------------------------- a browser
PROBE = """
<script>
window.reportReady.then(async () => {
  const found = { drawn: document.querySelectorAll('.canvas .main-svg').length > 0
    && [...document.querySelectorAll('.canvas')].every((c) => c.querySelector('.main-svg')) };
  found.marks = [...document.querySelectorAll('.canvas')].map((canvas) => (
    canvas.querySelectorAll('.point, .js-line, .hm image').length
  ));
  found.legend = [...document.querySelectorAll('.legend button')].map((b) => b.textContent);
  const canvas = document.querySelector('[id^="embedding-"] .canvas');
  if (canvas) {
    const trace = canvas.data[0];
    canvas.scrollIntoView();
    const { xaxis, yaxis } = canvas._fullLayout;  // the pointer goes to the third point
    const area = canvas.getBoundingClientRect();
    canvas.querySelector('.nsewdrag').dispatchEvent(new MouseEvent('mousemove', {
      clientX: area.left + xaxis._offset + xaxis.l2p(trace.x[2]),
      clientY: area.top + yaxis._offset + yaxis.l2p(trace.y[2]), bubbles: true, view: window,
    }));
    const image = document.querySelector('#tip img');
    for (let i = 0; i < 100 && !image.src; i++) await new Promise((go) => setTimeout(go, 50));
    await image.decode();
    const box = document.getElementById('tip').getBoundingClientRect();
    found.tip = { hidden: document.getElementById('tip').hidden, source: image.src, width:
      image.naturalWidth, text: document.querySelector('#tip span').textContent,
      expected: trace.text[2], number: trace.customdata[2],
      inside: box.left >= 0 && box.right <= innerWidth };
  }
  found.overflow = document.documentElement.scrollWidth > innerWidth;
  document.body.dataset.probe = JSON.stringify(found);
});
</script>
"""


def browse(path, width):
  """Results of the probe in a window of that width; the console must stay empty."""
  probed = path.with_name('probed.html')
  probed.write_text(path.read_text().replace('</body>', PROBE + '</body>'))
  arguments = (
    '--headless --no-sandbox --disable-gpu --enable-logging=stderr --dump-dom '
    '--disable-background-networking --no-first-run --virtual-time-budget=30000'
  )
  command = [CHROMIUM, *arguments.split(), f'--user-data-dir={path.parent / "profile"}']
  command += [f'--window-size={width},900', probed.as_uri()]
  done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
  console = [line for line in done.stderr.splitlines() if 'CONSOLE' in line]
  assert not console, console
  dom = re.search(r'data-probe="([^"]*)"', done.stdout)
  assert dom, done.stderr[-2000:]
  return json.loads(html.unescape(dom[1])), done.stdout
