"""Downloads files of DeepMind's catalogue, over TLS that is verified."""

from collections.abc import Sequence
import http.client
import ssl
import urllib.error
import urllib.request

from absl import logging
from etils import epath

from flax_enn import run_folder
from flax_enn.checkpoints import haiku_pickle

_TIMEOUT = 60  # seconds without a byte
_MOST_BYTES = 2**31  # the largest file has an eighth of it


def fetch_missing(
    names: Sequence[str], files: epath.Path, url: str
) -> dict[str, str]:
  """Downloads the files that are not in a folder yet.

  Args:
    names: of the files.
    files: the folder.
    url: of the folder there.

  Returns:
    Name of each file that was downloaded -> where from.

  Raises:
    ValueError: the server is not trusted, or has no such file of a catalogue.
    OSError: it cannot be reached now.
  """
  found = {}
  for name in names:
    if not (files / name).exists():
      found[name] = f'{url.rstrip("/")}/{name}'
      logging.info('Downloading %s', found[name])
      content = fetch(found[name])
      try:
        haiku_pickle.loads(content)
      except ValueError as e:
        raise ValueError(
            f'{found[name]} is no file of the catalogue: {e}. It was not kept'
        ) from e
      run_folder.atomic_write(files / name, content)
  return found


def fetch(url: str) -> bytes:
  """The content of a file at `https://…`.

  The system's certificate authorities are trusted, or those in the file that
  the environment variable SSL_CERT_FILE names; a redirection leads to another
  https:// alone.

  Raises:
    ValueError, OSError: as `fetch_missing`.
  """
  if not url.startswith('https://'):
    raise ValueError(f'{url} is no https://, which alone is verified')
  opener = urllib.request.OpenerDirector()
  # No handler for anything but https.
  for handler in (
      urllib.request.ProxyHandler(),
      urllib.request.HTTPSHandler(context=ssl.create_default_context()),
      urllib.request.HTTPDefaultErrorHandler(),
      urllib.request.HTTPRedirectHandler(),
      urllib.request.HTTPErrorProcessor(),
      urllib.request.UnknownHandler(),
  ):
    opener.add_handler(handler)
  try:
    with opener.open(url, timeout=_TIMEOUT) as response:
      content = bytearray()
      while len(content) <= _MOST_BYTES and (part := response.read(2**20)):
        content += part
      # Read in parts, it does not say that one is missing.
      length = response.headers.get('Content-Length', '')
      expected = int(length) if length.isdecimal() else len(content)
  except urllib.error.HTTPError as e:
    what = f'{url} cannot be had: HTTP {e.code} {e.reason}'
    raise (ValueError if e.code < 500 else OSError)(what) from e
  except urllib.error.URLError as e:
    if isinstance(e.reason, ssl.SSLCertVerificationError):
      raise ValueError(
          f'{url} is not trusted ({e.reason.verify_message}): nothing was'
          ' downloaded. Where your network has a certificate authority of its'
          ' own, name its file in SSL_CERT_FILE'
      ) from e
    if not isinstance(e.reason, OSError):  # leads to what is not https
      raise ValueError(f'{url} cannot be had: {e.reason}') from e
    raise OSError(f'{url} cannot be reached: {e.reason}') from e
  except (http.client.HTTPException, OSError) as e:
    raise OSError(f'{url} was cut off ({type(e).__name__}: {e})') from e
  if len(content) > _MOST_BYTES:
    raise ValueError(f'{url} has more than {_MOST_BYTES} bytes')
  if len(content) != expected:
    raise OSError(
        f'{url} was cut off: {len(content)} bytes came, expected {expected}'
    )
  return bytes(content)
