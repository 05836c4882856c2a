"""A bucket in this process, and the way to it for others.

It knows the part of Cloud Storage's JSON API that a run uses: TensorStore by
its own driver, all else through epath and a file system of fsspec. As there, a
name is the whole path of an object, there are no folders, each write gives an
object a new generation, to which requests may be bound, and lists have pages.
"""

import bisect
from collections.abc import Mapping
from http import server
import io
import itertools
import json
import os
import re
import sys
import threading
import types
from typing import NamedTuple
from urllib import error, parse, request

import fsspec

NAME = 'bucket'
_URL = 'FLAX_ENN_TEST_BUCKET'  # variable that says where the bucket is
_PAGE = 5  # entries, of the 1000 there, so that most lists have many
_OBJECTS = f'/storage/v1/b/{NAME}/o'
_PATH = re.compile(
    f'(?:/upload)?{_OBJECTS}(?:/([^/]+))?(?:/rewriteTo/b/{NAME}/o/([^/]+))?'
)
Query = Mapping[str, str]


class _Object(NamedTuple):
  content: bytes
  generation: int


class Refused(Exception):
  """A status that is the whole answer."""


class Bucket:
  """Objects by name, served as long as this is used as a context manager.

  Attributes:
    objects: what is there.
    environment: what leads a process that calls `register` here.
    before_write: called with each name before it is written; it may wait, or
      raise `Refused`.
  """

  def __init__(self):
    self.objects: dict[str, _Object] = {}
    self.before_write = lambda name: None
    self._lock = threading.RLock()
    self._generations = itertools.count(1)
    handler = type('Handler', (_Handler,), {'bucket': self})
    self._server = server.ThreadingHTTPServer(('127.0.0.1', 0), handler)
    url = f'http://127.0.0.1:{self._server.server_port}'
    self.environment = {
        _URL: url,
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
      return {
          name: found.content
          for name, found in self.objects.items()
          if name.startswith(f'{folder}/')
      }

  def read(self, name: str, query: Query) -> _Object:
    with self._lock:
      self._check(name, query)
      if name not in self.objects:
        raise Refused(404)
      return self.objects[name]

  def write(self, name: str, content: bytes, query: Query) -> dict:
    self.before_write(name)
    with self._lock:
      self._check(name, query)
      self.objects[name] = _Object(content, next(self._generations))
      return self._describe(name)

  def remove(self, name: str, query: Query) -> None:
    with self._lock:
      self.read(name, query)
      del self.objects[name]

  def list(self, query: Query) -> dict:
    """A page of names and, with a delimiter, of their beginnings up to it."""
    prefix, delimiter = query.get('prefix', ''), query.get('delimiter')
    first, last = query.get('startOffset', ''), query.get('endOffset')
    found = set()
    with self._lock:
      for name in self.objects:
        if name.startswith(prefix) and first <= name < (last or '\U0010ffff'):
          end = name.find(delimiter, len(prefix)) if delimiter else -1
          found.add(name if end < 0 else name[: end + 1])
      found = sorted(found)
      begin = bisect.bisect(found, query.get('pageToken', ''))
      page = found[begin : begin + _PAGE]
      names = [name for name in page if name in self.objects]
      answer = {
          'items': [self._describe(name) for name in names],
          'prefixes': [name for name in page if name not in names],
      }
      if begin + _PAGE < len(found):
        answer['nextPageToken'] = page[-1]
      return answer

  def _check(self, name: str, query: Query) -> None:
    """Raises where a condition does not hold; 0 stands for no object."""
    found = self.objects.get(name)
    generation = str(found.generation if found else 0)
    if query.get('ifGenerationMatch', generation) != generation:
      raise Refused(412)
    if query.get('ifGenerationNotMatch') == generation:
      raise Refused(304)

  def _describe(self, name: str) -> dict:
    content, generation = self.objects[name]
    size = str(len(content))
    return {'name': name, 'size': size, 'generation': str(generation)}


class _Handler(server.BaseHTTPRequestHandler):
  bucket: Bucket
  protocol_version = 'HTTP/1.1'

  def log_message(self, *unused):
    pass

  def do_GET(self):
    body = self.rfile.read(int(self.headers.get('Content-Length') or 0))
    headers = {}
    try:
      status, content, headers = self._answer(body)
    except Refused as e:
      status, content = e.args[0], b''
    if isinstance(content, dict):
      content = json.dumps(content).encode()
    self.send_response(status)
    for name, value in headers.items():
      self.send_header(name, value)
    self.send_header('Content-Length', str(len(content)))
    self.end_headers()
    self.wfile.write(content)

  do_POST = do_DELETE = do_GET

  def _answer(self, body: bytes) -> tuple[int, bytes | dict, Query]:
    """Status, content and headers."""
    url = parse.urlsplit(self.path)
    query = dict(parse.parse_qsl(url.query))
    if not (match := _PATH.fullmatch(url.path)):
      raise Refused(404)
    name, copy = (part and parse.unquote(part) for part in match.groups())
    bucket = self.bucket
    if self.command == 'DELETE':
      bucket.remove(name, query)
      return 204, b'', {}
    if copy:
      written = bucket.write(copy, bucket.read(name, {}).content, query)
      return 200, {'done': True, 'resource': written}, {}
    if self.command == 'POST':
      return 200, bucket.write(query['name'], body, query), {}
    if name is None:
      return 200, bucket.list(query), {}
    content, generation = bucket.read(name, query)
    headers = {'x-goog-generation': str(generation)}
    asked = re.fullmatch(r'bytes=(\d*)-(\d*)', self.headers.get('Range') or '')
    if not asked:
      return 200, content, headers
    size, (first, last) = len(content), asked.groups()
    begin = int(first) if first else max(0, size - int(last))
    end = min(int(last) + 1, size) if first and last else size
    if begin >= size:
      raise Refused(416)
    headers['Content-Range'] = f'bytes {begin}-{end - 1}/{size}'
    return 206, content[begin:end], headers


class _FileSystem(fsspec.AbstractFileSystem):
  """Does for epath what gcsfs does, which has many dependencies."""

  protocol = ('gs', 'gcs')

  def ls(self, path, detail=True, **unused):
    found = self._list(f'{self._strip_protocol(path)}/') or [self.info(path)]
    return found if detail else [entry['name'] for entry in found]

  def info(self, path, **unused):
    path = self._strip_protocol(path)
    for entry in [_entry('', 'directory'), *self._list(path)]:
      if entry['name'] == path:
        return entry
    raise FileNotFoundError(path)

  def _list(self, path):
    """The files whose paths begin so, and the folders."""
    found, page = [], {'pageToken': ''}
    while page:
      asked = {'prefix': _name(path), 'delimiter': '/', **page}
      answer = json.loads(_ask('GET', **asked))
      for item in answer['items']:
        found.append(_entry(item['name'], 'file', int(item['size'])))
      for prefix in answer['prefixes']:
        found.append(_entry(prefix, 'directory'))
      token = answer.get('nextPageToken')
      page = token and {'pageToken': token}
    return found

  def mkdir(self, path, create_parents=True, **unused):
    pass  # there are no folders

  makedirs = mkdir

  def cp_file(self, path1, path2, **unused):
    _ask('POST', f'/{_quoted(path1)}/rewriteTo/b/{NAME}/o/{_quoted(path2)}')

  def rm_file(self, path):
    _ask('DELETE', f'/{_quoted(path)}')

  def rm(self, path, recursive=False, maxdepth=None):
    path = self._strip_protocol(path)
    for found in self.find(path) if recursive else [path]:
      self.rm_file(found)

  def mv(self, path1, path2, recursive=False, maxdepth=None, **unused):
    path1, path2 = map(self._strip_protocol, (path1, path2))
    for found in self.find(path1):
      self.cp_file(found, path2 + found.removeprefix(path1))
      self.rm_file(found)

  def _open(self, path, mode='rb', **unused):
    if mode == 'wb':
      return _Upload(path)
    assert mode == 'rb', 'nothing can be appended to an object'
    return io.BytesIO(_ask('GET', f'/{_quoted(path)}', alt='media'))


class _Upload(io.BytesIO):
  """A file that is in the bucket once it is closed."""

  def __init__(self, path: str):
    super().__init__()
    self._path = path

  def close(self):
    if not self.closed:
      _ask('POST', body=self.getvalue(), name=_name(self._path))
    super().close()


def _entry(name: str, kind: str, size: int = 0) -> dict:
  path = f'{NAME}/{name}'.rstrip('/')
  return {'name': path, 'type': kind, 'size': size}


def _name(path: str) -> str:
  return path.removeprefix(f'{NAME}/')


def _quoted(path: str) -> str:
  return parse.quote(_name(path), safe='')


def _ask(method, path='', body=None, **query) -> bytes:
  """What the bucket answers; raises an OSError where it refuses."""
  kind = '' if body is None else '/upload'
  url = f'{os.environ[_URL]}{kind}{_OBJECTS}{path}?{parse.urlencode(query)}'
  try:
    with request.urlopen(request.Request(url, body, method=method)) as answer:
      return answer.read()
  except error.HTTPError as e:
    if e.code == 404:
      raise FileNotFoundError(path) from e
    raise


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
