"""A bucket in this process, and the way to it for others.

It knows the part of Cloud Storage's JSON API that TensorStore uses, for Orbax
and for epath, whose file system is here. As there, a name is the whole path of
an object, there are no folders, each write gives an object a new generation, to
which requests may be bound, and lists have pages.
"""

import bisect
from collections.abc import Mapping
from http import server
import io
import itertools
import json
import re
import sys
import threading
import types
from urllib import parse

import fsspec
import tensorstore

NAME = 'bucket'
_PAGE = 5  # entries, of the 1000 there, so that most lists have many
_PATH = re.compile(f'(?:/upload)?/storage/v1/b/{NAME}/o(?:/([^/]+))?')
Query = Mapping[str, str]


class Refused(Exception):
  """A status that is the whole answer."""


class Bucket:
  """Objects by name, served as long as this is used as a context manager.

  Attributes:
    environment: what leads a process that calls `register` here.
    before_write: called with each name before it is written; it may wait, or
      raise `Refused`.
  """

  def __init__(self):
    self.before_write = lambda name: None
    self._objects: dict[str, tuple[bytes, int]] = {}  # with its generation
    self._lock = threading.RLock()
    self._generations = itertools.count(1)
    handler = type('Handler', (_Handler,), {'bucket': self})
    self._server = server.ThreadingHTTPServer(('127.0.0.1', 0), handler)
    url = f'http://127.0.0.1:{self._server.server_port}'
    self.environment = {
        'TENSORSTORE_GCS_HTTP_URL': url,
        'GOOGLE_AUTH_TOKEN_FOR_TESTING': 'any',
        'EPATH_USE_TF': 'false',  # whose file system only knows Google's
    }

  def __enter__(self):
    threading.Thread(target=self._server.serve_forever, daemon=True).start()
    return self

  def __exit__(self, *unused):
    self._server.shutdown()
    self._server.server_close()

  def below(self, folder: str) -> dict[str, bytes]:
    """Name -> content of what is in a folder."""
    with self._lock:
      found = self._objects.items()
      return {k: v for k, (v, _) in found if k.startswith(f'{folder}/')}

  def read(self, name: str, query: Query) -> tuple[bytes, int]:
    with self._lock:
      self._check(name, query)
      if name not in self._objects:
        raise Refused(404)
      return self._objects[name]

  def write(self, name: str, content: bytes, query: Query) -> dict:
    self.before_write(name)
    with self._lock:
      self._check(name, query)
      self._objects[name] = content, next(self._generations)
      return self._describe(name)

  def remove(self, name: str, query: Query) -> None:
    with self._lock:
      self.read(name, query)
      del self._objects[name]

  def list(self, query: Query) -> dict:
    """A page of what is in order between two names."""
    first, last = query.get('startOffset', ''), query.get('endOffset')
    with self._lock:
      names = [name for name in self._objects if name >= first]
      found = sorted(name for name in names if not last or name < last)
      begin = bisect.bisect(found, query.get('pageToken', ''))
      page = found[begin : begin + _PAGE]
      answer = {'items': list(map(self._describe, page))}
      if page[-1:] != found[-1:]:
        answer['nextPageToken'] = page[-1]
      return answer

  def _check(self, name: str, query: Query) -> None:
    """Raises where a condition does not hold; 0 stands for no object."""
    generation = str(self._objects.get(name, (b'', 0))[1])
    if query.get('ifGenerationMatch', generation) != generation:
      raise Refused(412)
    if query.get('ifGenerationNotMatch') == generation:
      raise Refused(304)

  def _describe(self, name: str) -> dict:
    content, generation = self._objects[name]
    size = str(len(content))
    return {'name': name, 'size': size, 'generation': str(generation)}


class _Handler(server.BaseHTTPRequestHandler):
  bucket: Bucket
  protocol_version = 'HTTP/1.1'
  wbufsize = -1  # an answer is one packet: a second waits for 40 ms

  def log_message(self, *unused):
    pass

  def do_GET(self):
    body = self.rfile.read(int(self.headers.get('Content-Length') or 0))
    try:
      status, content, headers = self._answer(body)
    except Refused as e:
      status, content, headers = e.args[0], b'', {}
    if not isinstance(content, bytes):
      content = json.dumps(content).encode()
    self.send_response(status)
    for name, value in {**headers, 'Content-Length': len(content)}.items():
      self.send_header(name, value)
    self.end_headers()
    self.wfile.write(content)

  do_POST = do_DELETE = do_GET

  def _answer(self, body: bytes) -> tuple[int, bytes | dict, dict]:
    """Status, content and headers."""
    url = parse.urlsplit(self.path)
    query = dict(parse.parse_qsl(url.query))
    if not (match := _PATH.fullmatch(url.path)):
      raise Refused(404)
    name = match[1] and parse.unquote(match[1])
    if self.command == 'DELETE':
      self.bucket.remove(name, query)
      return 204, b'', {}
    if self.command == 'POST':
      return 200, self.bucket.write(query['name'], body, query), {}
    if name is None:
      return 200, self.bucket.list(query), {}
    content, generation = self.bucket.read(name, query)
    about = {'x-goog-generation': generation}
    asked = re.fullmatch(r'bytes=(\d*)-(\d*)', self.headers.get('Range') or '')
    if not asked:
      return 200, content, about
    size, (first, last) = len(content), asked.groups()
    begin = int(first) if first else max(0, size - int(last))
    end = min(int(last) + 1, size) if first and last else size
    if begin >= size:
      raise Refused(416)
    about['Content-Range'] = f'bytes {begin}-{end - 1}/{size}'
    return 206, content[begin:end], about


class _FileSystem(fsspec.AbstractFileSystem):
  """Does for epath, by TensorStore, what gcsfs does with many dependencies."""

  protocol = ('gs', 'gcs')

  def __init__(self, **unused):
    super().__init__()
    spec = {'driver': 'gcs', 'bucket': NAME}
    self._store = tensorstore.KvStore.open(spec).result()

  def _below(self, path):
    """The names in a folder."""
    start = f'{_name(path)}/'.removeprefix('/')
    keys = tensorstore.KvStore.KeyRange(start, f'{start}\U0010ffff')
    return [key.decode() for key in self._store.list(keys).result()]

  def ls(self, path, detail=True, **unused):
    depth = len(f'{_name(path)}/'.removeprefix('/').split('/'))
    found = {'/'.join(name.split('/')[:depth]) for name in self._below(path)}
    paths = [f'{NAME}/{name}' for name in sorted(found)] or [path]
    entries = [self.info(path) for path in paths]
    return entries if detail else [entry['name'] for entry in entries]

  def info(self, path, **unused):
    found = self._store.read(_name(path)).result()
    kind = 'file' if found.state == 'value' else 'directory'
    if kind == 'directory' and not self._below(path):
      raise FileNotFoundError(path)
    name = self._strip_protocol(path)
    return {'name': name, 'type': kind, 'size': len(found.value)}

  def mkdir(self, path, create_parents=True, **unused):
    pass  # there are no folders

  makedirs = mkdir

  def rm_file(self, path):
    self.info(path)
    self._store.write(_name(path), None).result()

  def rm(self, path, recursive=False, maxdepth=None):
    for found in self.find(path) if recursive else [path]:
      self.rm_file(found)

  def mv(self, path1, path2, recursive=False, maxdepth=None, **unused):
    for found in self.find(path1):
      below = found.removeprefix(self._strip_protocol(path1))
      self.pipe_file(path2 + below, self.cat_file(found))
      self.rm_file(found)

  def _open(self, path, mode='rb', **unused):
    if mode == 'wb':
      return _Upload(self._store, path)
    assert mode == 'rb', 'nothing can be appended to an object'
    found = self._store.read(_name(path)).result()
    if found.state == 'missing':
      raise FileNotFoundError(path)
    return io.BytesIO(found.value)


class _Upload(io.BytesIO):
  """A file that is in the bucket once it is closed."""

  def __init__(self, store, path):
    super().__init__()
    self._store, self._path = store, path

  def close(self):
    if not self.closed:
      self._store.write(_name(self._path), self.getvalue()).result()
    super().close()


def _name(path):
  return _FileSystem._strip_protocol(path).removeprefix(NAME).lstrip('/')


class _Client:
  """Of google-cloud-storage, which Orbax asks what kind a bucket is of."""

  def get_bucket(self, name):
    assert name == NAME
    return types.SimpleNamespace()  # one without folders


def register() -> None:
  """Makes `gs://bucket` the one that the environment tells of."""
  fsspec.register_implementation('gcs', _FileSystem, clobber=True)
  storage = types.ModuleType('google.cloud.storage')
  vars(storage)['Client'] = _Client
  sys.modules[storage.__name__] = storage
