"""A stand-in for Google Cloud Storage: one bucket in memory behind the JSON API, on a free port.

It answers what gcsfs, TensorStore and google-cloud-storage were seen to ask for, as the API's
documentation has it, conditional writes and pages of lists included. Every operation is recorded;
a copy, which is what a rename is there, is refused until a test allows it.
"""

import base64
import contextlib
import datetime
import email.utils
import json
import pathlib
import re
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal, NamedTuple

import pytest

google_crc32c = pytest.importorskip('google_crc32c')  # comes with gcsfs

BUCKET = 'bucket'
_PATH = re.compile(r'(/upload|/download)?/storage/v1/b/(?P<bucket>[^/]+)(/o(/(?P<name>.+))?)?')
_PAGE = 5  # Google's has 1000: here lists have several


class Operation(NamedTuple):
  """(key of `Store.refused`, object) of a request; 'begin' comes before gcsfs's 'write'."""

  what: Literal['begin', 'write', 'read', 'stat', 'delete', 'copy', 'list', 'bucket']
  name: str


class Store(ThreadingHTTPServer):
  """Objects by name: content and generation. The test sets `refused` and `on_operation`.

  Its clock is far from that of the machine, and `clock` can be set on, in seconds.
  """

  daemon_threads = True
  request_queue_size = 128

  def __init__(self):
    super().__init__(('127.0.0.1', 0), _Handler)
    self.url = f'http://127.0.0.1:{self.server_address[1]}'
    self.objects: dict[str, tuple[bytes, int]] = {}
    self.times: dict[str, float] = {}  # of the last write, by name
    self.clock = 10_000_000.0
    self.uploads: dict[str, bytearray] = {}  # begun, by name
    self.operations: list[Operation] = []
    self.refused: dict[str, int] = {'copy': 403}  # from now on: what -> status
    self.on_operation: Callable[[Operation], None] = lambda _: None  # before it is answered
    self._lock = threading.Lock()
    self._generation = 0

  def environment(self) -> dict[str, str]:
    """Environment that directs the clients of a process to this server."""
    return {
      'STORAGE_EMULATOR_HOST': self.url,  # gcsfs, google-cloud-storage
      'TENSORSTORE_GCS_HTTP_URL': self.url,
      'GOOGLE_AUTH_TOKEN_FOR_TESTING': 'token',  # TensorStore's
      'FSSPEC_GCS_TOKEN': 'anon',  # gcsfs's
      'GOOGLE_CLOUD_PROJECT': 'project',
      'GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT': 'false',  # asks by gRPC, which is not spoken here
    }

  def now(self) -> float:
    """Seconds since 1970, by the store's clock."""
    return time.time() + self.clock

  def names(self, prefix: str = '') -> list[str]:
    """Sorted."""
    with self._lock:
      return sorted(name for name in self.objects if name.startswith(prefix))

  def download(self, prefix: str, folder: pathlib.Path) -> pathlib.Path:
    """Writes the objects below `prefix` as files; returns the folder."""
    for name in self.names(f'{prefix}/'):
      path = folder / name.removeprefix(f'{prefix}/')
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_bytes(self.objects[name][0])
    return folder

  def change(self, name: str, content: bytes | None, wanted: str | None) -> int:
    """Writes, or deletes where the content is None, if the generation is the one wanted."""
    with self._lock:
      current = self.objects.get(name, (b'', 0))[1]
      if wanted is not None and int(wanted) != current:
        return 412
      if content is None:
        return 204 if self.objects.pop(name, None) else 404
      self._generation += 1
      self.times[name] = self.now()
      self.objects[name] = content, self._generation
      return 200

  def handle_error(self, request, client_address):
    """Clients are killed in the middle of a request."""
    if not isinstance(sys.exception(), ConnectionError):
      super().handle_error(request, client_address)


@contextlib.contextmanager
def serving() -> Iterator[Store]:
  """A store that answers until the end of the block."""
  with Store() as store:
    thread = threading.Thread(target=store.serve_forever)
    thread.start()
    try:
      yield store
    finally:
      store.shutdown()
      thread.join()


class _Handler(BaseHTTPRequestHandler):
  protocol_version = 'HTTP/1.1'
  wbufsize = -1  # head and body leave in one packet
  disable_nagle_algorithm = True
  server: Store

  def log_message(self, *_):
    pass

  def date_time_string(self, timestamp=None):
    return email.utils.formatdate(timestamp or self.server.now(), usegmt=True)

  def do_GET(self):
    name, query, media = self._begin()
    if name is None and self.path.partition('?')[0].endswith('/o'):
      self._refuses('list', query.get('prefix', '')) or self._list(query)
    elif name is None:
      self._refuses('bucket', '') or self._json({'name': BUCKET})
    elif not self._refuses('read' if media else 'stat', name):
      found = self.server.objects.get(name)
      if not found:
        self._json({'error': {'code': 404}}, 404)
      elif media:
        self._media(*found, query.get('ifGenerationNotMatch'))
      else:
        self._json(self._resource(name, *found))

  def do_POST(self):
    name, query, _ = self._begin()
    body = self.rfile.read(int(self.headers.get('Content-Length', 0)))
    if name is not None:
      source, _, target = name.partition(f'/rewriteTo/b/{BUCKET}/o/')
      if not self._refuses('copy', source):
        self.server.change(target, self.server.objects[source][0], None)
        resource = self._resource(target, *self.server.objects[target])
        self._json({'kind': 'storage#rewriteResponse', 'done': True, 'resource': resource})
    elif 'upload_id' in query:  # a part
      name = query['upload_id']
      self.server.uploads[name] += body
      if not self.headers['Content-Range'].endswith('/*'):
        self._change('write', name, query, bytes(self.server.uploads.pop(name)))
      else:
        self._answer(b'', 308, {'Range': f'bytes=0-{len(self.server.uploads[name]) - 1}'})
    elif query['uploadType'] == 'resumable':
      if not self._refuses('begin', query['name']):
        self.server.uploads[query['name']] = bytearray()
        location = f'{self.server.url}{self.path}&upload_id={urllib.parse.quote(query["name"])}'
        self._answer(b'', 200, {'Location': location})
    else:
      assert query['uploadType'] == 'media', 'what gcsfs and TensorStore send was seen, no more'
      self._change('write', query['name'], query, body)

  def do_DELETE(self):
    name, query, _ = self._begin()
    self._change('delete', name, query, None)

  def _begin(self):
    """(name or None, query, whether the content is asked for)."""
    url = urllib.parse.urlsplit(self.path)
    match = _PATH.fullmatch(url.path)
    self._bucket = match['bucket']
    query = dict(urllib.parse.parse_qsl(url.query))
    name = match['name'] and urllib.parse.unquote(match['name'])
    return name, query, query.get('alt') == 'media'

  def _refuses(self, what, name: str) -> bool:
    """Records an operation; True where it is answered with a refusal."""
    operation = Operation(what, name)
    self.server.operations.append(operation)
    self.server.on_operation(operation)
    status = self.server.refused.get(what, 200 if self._bucket == BUCKET else 404)
    if status != 200:
      self._json({'error': {'code': status, 'message': f'refused with {status}'}}, status)
    return status != 200

  def _change(self, what: str, name: str, query, content: bytes | None):
    if not self._refuses(what, name):
      status = self.server.change(name, content, query.get('ifGenerationMatch'))
      found = self.server.objects.get(name, (b'', 0))
      self._json(self._resource(name, *found) if status == 200 else {}, status)

  def _list(self, query):
    prefix, delimiter = query.get('prefix', ''), query.get('delimiter')
    entries = {}  # what is shown -> whether it is an object
    for name in self.server.names(prefix):
      cut = name.find(delimiter, len(prefix)) if delimiter else -1
      entries.setdefault(name if cut < 0 else name[: cut + len(delimiter)], cut < 0)
    first = int(query.get('pageToken') or 0)
    last = first + min(int(query.get('maxResults') or _PAGE), _PAGE)
    page = list(entries.items())[first:last]
    found = {name: self.server.objects.get(name) for name, is_object in page if is_object}
    items = [self._resource(name, *pair) for name, pair in found.items() if pair]
    prefixes = [name for name, is_object in page if not is_object]
    more = {'nextPageToken': str(last)} if last < len(entries) else {}
    self._json({'kind': 'storage#objects', 'items': items, 'prefixes': prefixes, **more})

  def _media(self, content: bytes, generation: int, known: str | None):
    headers = {'x-goog-generation': str(generation), 'Content-Type': 'application/octet-stream'}
    asked = re.fullmatch(r'bytes=(\d+)-(\d*)', self.headers.get('Range', ''))
    if known == str(generation):
      self._answer(b'', 304, headers)
    elif not asked:
      self._answer(content, 200, headers)
    else:
      first, last = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
      headers['Content-Range'] = f'bytes {first}-{last}/{len(content)}'
      self._answer(content[first : last + 1], 206 if first <= last else 416, headers)

  def _resource(self, name: str, content: bytes, generation: int):
    written = datetime.datetime.fromtimestamp(self.server.times.get(name, 0), datetime.UTC)
    at = written.isoformat(timespec='milliseconds').replace('+00:00', 'Z')
    crc32c = base64.b64encode(google_crc32c.Checksum(content).digest()).decode()
    return {
      **{'kind': 'storage#object', 'bucket': BUCKET, 'name': name, 'size': str(len(content))},
      **{'generation': str(generation), 'timeCreated': at, 'updated': at, 'crc32c': crc32c},
    }

  def _json(self, value, status: int = 200):
    self._answer(json.dumps(value).encode(), status, {'Content-Type': 'application/json'})

  def _answer(self, body: bytes, status: int, headers: dict[str, str]):
    body = b'' if status in (204, 304) else body
    self.send_response(status)
    for key, value in {**headers, 'Content-Length': str(len(body))}.items():
      self.send_header(key, value)
    self.end_headers()
    self.wfile.write(body)
