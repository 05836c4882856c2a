"""The coordinator of a run: process 0, where it listens and is found."""

import socket
import time

from absl import logging


def _host_and_port(address: str) -> tuple[str, int]:
  host, _, port = address.rpartition(':')
  if not host or not port.isdecimal():
    raise ValueError(
        f'--coordinator_address is {address!r}; expected HOST:PORT'
    )
  return host.strip('[]'), int(port)  # [::1]:1234


def check_can_listen(address: str) -> None:
  """Checks that this host has the address, and that its port is free.

  (JAX says of neither what is wrong, and shares a port with another run.)
  """
  host, port = _host_and_port(address)
  try:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    # (A name may have an IPv6 address too, which is not in use.)
    family, kind, protocol, _, place = min(found)
    with socket.socket(family, kind, protocol) as s:
      s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
      s.bind(place)
  except OSError as e:
    raise ConnectionError(
        f'process 0 cannot listen at {address} ({e}); set --coordinator_address'
        ' to an address of its host and a free port, or, where others reach it'
        ' at another one, JAX_COORDINATOR_BIND_ADDRESS to its own'
    ) from e
  logging.info('Listening at %s, that is %s', address, place[0])


def wait_for(address: str, timeout: int) -> None:
  """Waits until something listens at HOST:PORT.

  (JAX would end the process with a trace of its own inside.)
  """
  host, port = _host_and_port(address)
  end = time.monotonic() + timeout
  while True:
    try:
      socket.create_connection((host, port), timeout=5).close()
    except OSError as e:
      if time.monotonic() > end:
        raise ConnectionError(
            f'no process 0 at --coordinator_address={address} within'
            f' {timeout} seconds ({e}); check the address and that process is'
            ' started, or raise --start_timeout'
        ) from e
      time.sleep(0.2)
    else:
      return
