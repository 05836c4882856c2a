"""Downloads from servers on this machine, trusted and not."""

import contextlib
from http import server
import json
import shutil
import ssl
import subprocess
import threading

import numpy as np
import pytest

from flax_enn.checkpoints import download
from tests import commands, tiny
from tests.checkpoints import catalogue_files as files

CONTENT = files.dump({'params': {'net': {'w': np.zeros(3, np.float32)}}})


@pytest.fixture(scope='module')
def certificates(tmp_path_factory):
  """Signed by themselves: of this machine, and of another name."""
  if not shutil.which('openssl'):
    pytest.skip('openssl is not there to make certificates with')
  folder = tmp_path_factory.mktemp('certificates')
  for name, subject in (('own', 'IP:127.0.0.1'), ('other', 'DNS:example.org')):
    subprocess.run(
        ['openssl', 'req', '-x509', '-newkey', 'rsa:2048', '-nodes',
         '-keyout', folder / f'{name}.key', '-out', folder / f'{name}.crt',
         '-days', '2', '-subj', f'/CN={name}', '-addext',
         f'subjectAltName={subject}'],
        check=True, capture_output=True,
    )  # fmt: skip
  return folder


class Handler(server.BaseHTTPRequestHandler):
  """Serves made-up files, and what may go wrong with one."""

  def do_GET(self):
    self.server.asked.append(self.path)
    content = self.server.files.get(self.path.rsplit('/')[-1])
    if self.path == '/away/a.npzs':
      self.send_response(302)
      self.send_header('Location', self.server.away)
      self.end_headers()
      return
    if content is None:
      self.send_error(503 if 'busy' in self.path else 404)
      return
    self.send_response(200)
    more = 7 if 'short' in self.path else 0
    self.send_header('Content-Length', str(len(content) + more))
    self.end_headers()
    self.wfile.write(content)

  def log_message(self, *args):
    pass


@contextlib.contextmanager
def serving(folder=None, name=None, **contents):
  """A server of files, over TLS where a certificate is named."""
  found = server.HTTPServer(('127.0.0.1', 0), Handler)
  found.files = {f'{k}.npzs': v for k, v in contents.items()}
  found.asked, found.away = [], ''
  if name:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / f'{name}.crt', folder / f'{name}.key')
    found.socket = context.wrap_socket(found.socket, server_side=True)
  thread = threading.Thread(target=found.serve_forever, daemon=True)
  thread.start()
  found.url = f'http{"s" * bool(name)}://127.0.0.1:{found.server_port}'
  try:
    yield found
  finally:
    found.shutdown()
    thread.join()
    found.server_close()


@pytest.fixture
def trusted(certificates, monkeypatch):
  """Our own certificate is trusted, and no proxy is in between."""
  monkeypatch.setenv('SSL_CERT_FILE', str(certificates / 'own.crt'))
  monkeypatch.setenv('no_proxy', '*')
  return certificates


def test_what_is_missing_is_downloaded(trusted, tmp_path):
  (tmp_path / 'b.npzs').write_bytes(b'mine')
  with serving(trusted, 'own', a=CONTENT, b=CONTENT) as of:
    found = download.fetch_missing(
        ['a.npzs', 'b.npzs'], tmp_path, f'{of.url}/dm-enn/'
    )
    assert found == {'a.npzs': f'{of.url}/dm-enn/a.npzs'}
    assert of.asked == ['/dm-enn/a.npzs']
  assert (tmp_path / 'a.npzs').read_bytes() == CONTENT
  assert (tmp_path / 'b.npzs').read_bytes() == b'mine'


def fails(kind, message, tmp_path, url):
  with pytest.raises(kind, match=message) as found:
    download.fetch_missing(['a.npzs'], tmp_path, url)
  assert type(found.value) is kind and not list(tmp_path.iterdir())


def test_untrusted(certificates, monkeypatch, tmp_path):
  monkeypatch.setenv('no_proxy', '*')
  monkeypatch.delenv('SSL_CERT_FILE', raising=False)
  with serving(certificates, 'own', a=CONTENT) as of:
    fails(ValueError, 'is not trusted .*self.signed', tmp_path, of.url)
    assert not of.asked
    # Another authority.
    monkeypatch.setenv('SSL_CERT_FILE', str(certificates / 'other.crt'))
    fails(ValueError, 'is not trusted', tmp_path, of.url)
    assert not of.asked


def test_certificate_of_another_name(certificates, monkeypatch, tmp_path):
  monkeypatch.setenv('no_proxy', '*')
  monkeypatch.setenv('SSL_CERT_FILE', str(certificates / 'other.crt'))
  with serving(certificates, 'other', a=CONTENT) as of:
    fails(ValueError, 'is not trusted .*127.0.0.1', tmp_path, of.url)
    assert not of.asked


def test_nothing_but_https(trusted, tmp_path):
  secret = tmp_path.with_name('secret.npzs')
  secret.write_bytes(CONTENT)
  with serving(a=CONTENT) as plain, serving(trusted, 'own', a=CONTENT) as of:
    for url in (plain.url, f'file://{secret.parent}', 'ftp://127.0.0.1'):
      fails(ValueError, 'is no https://', tmp_path, url)
    for away in (f'{plain.url}/a.npzs', f'file://{secret}'):
      of.away = away
      fails(ValueError, 'cannot be had', tmp_path, f'{of.url}/away')
    assert not plain.asked
    of.away = f'{of.url}/a.npzs'
    assert download.fetch(f'{of.url}/away/a.npzs') == CONTENT


def test_faults(trusted, tmp_path):
  page = b'<html>Log in to this network'
  with serving(trusted, 'own', a=CONTENT) as of:
    fails(OSError, 'was cut off', tmp_path, f'{of.url}/short')
    of.files = {}
    fails(ValueError, 'HTTP 404', tmp_path, of.url)
    fails(OSError, 'HTTP 503', tmp_path, f'{of.url}/busy')
    of.files = {'a.npzs': page}
    fails(ValueError, 'is no pickle.*It was not kept', tmp_path, of.url)
  fails(OSError, 'cannot be reached', tmp_path, of.url)


def test_too_much(trusted, monkeypatch):
  monkeypatch.setattr(download, '_MOST_BYTES', 10)
  with (
      serving(trusted, 'own', a=CONTENT) as of,
      pytest.raises(ValueError, match='has more than 10 bytes'),
  ):
    download.fetch(f'{of.url}/a.npzs')


@pytest.mark.slow
def test_command_line(certificates, tmp_path):
  """The card has where from; an untrusted server is one sentence."""
  script = tiny.ROOT / 'flax_enn' / 'checkpoints' / 'deepmind.py'
  content = files.dump(files.base(18, 10))
  with (
      serving(certificates, 'own', resnet18_cifar10=content) as of,
      commands.interpreter(('jax', 'flax_enn.checkpoints')) as run,
  ):
    given = (
        script, 'resnet18_cifar10', '--files=files', '--out=run', '--download',
        f'--url={of.url}',
    )  # fmt: skip
    code, said = run(tmp_path, given, no_proxy='*', SSL_CERT_FILE='')
    assert code == 2 and 'is not trusted' in said and 'Trace' not in said, said
    assert not list(tmp_path.iterdir())
    own = str(certificates / 'own.crt')
    code, said = run(tmp_path, given, no_proxy='*', SSL_CERT_FILE=own)
    assert code == 0, said
  (record,) = json.loads((tmp_path / 'run' / 'import.json').read_text())[
      'files'
  ]
  assert record['url'] == f'{of.url}/resnet18_cifar10.npzs'
  assert (tmp_path / 'files' / record['name']).read_bytes() == content
