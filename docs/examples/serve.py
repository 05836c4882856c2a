"""Serves a bundle of a classifier: python docs/examples/serve.py BUNDLE [PORT].

A request is one input in JSON; those that come together are one batch.
"""

from concurrent import futures
from http import server
import json
from pathlib import Path
import queue
import sys
import threading
import time

import jax
from jax import export
import numpy as np
from safetensors.numpy import load_file

SECONDS, ROWS = 0.005, 32  # how long a batch is waited for, and its size


def load(bundle):
  """A function of x `[B, ...]`, and the form of x."""
  files = [bundle / f'{name}.safetensors' for name in ('model', 'indices')]
  arrays = jax.device_put([load_file(path) for path in files])
  files = [bundle / f'{name}.stablehlo' for name in ('probs', 'uncertainty')]
  a, b = (export.deserialize(bytearray(path.read_bytes())) for path in files)
  both = jax.jit(lambda *args: {'probs': a.call(*args), **b.call(*args)})
  return lambda x: jax.device_get(both(*arrays, x)), a.in_avals[-1]


def answer(requests, predict, spec):
  """Computes what is asked, for as long as the program runs."""
  x = np.zeros((ROWS, *spec.shape[1:]), spec.dtype)  # one size to compile
  while True:
    batch = [requests.get()]
    time.sleep(SECONDS)
    batch += [requests.get() for _ in range(min(requests.qsize(), ROWS - 1))]
    try:
      x[: len(batch)] = [one for one, _ in batch]
      found = predict(x)
      for i, (_, future) in enumerate(batch):
        future.set_result({k: v[i].tolist() for k, v in found.items()})
    except Exception as e:  # all who wait are told
      for _, future in batch:
        future.set_exception(e)


def create(bundle, port):
  """A server on this machine, for `serve_forever`."""
  (predict, spec), requests = load(Path(bundle)), queue.SimpleQueue()

  class Handler(server.BaseHTTPRequestHandler):
    def do_POST(self):
      try:
        text = self.rfile.read(int(self.headers['Content-Length']))
        x = np.array(json.loads(text), spec.dtype)
        if x.shape != spec.shape[1:]:
          raise ValueError(f'x is {x.shape}; expected {spec.shape[1:]}')
        requests.put((x, future := futures.Future()))
        code, found = 200, future.result()
      except Exception as e:
        mistake = isinstance(e, (TypeError, ValueError))
        code, found = 400 if mistake else 500, {'error': str(e)}
      self.send_response(code)
      self.end_headers()
      self.wfile.write(json.dumps(found).encode())

  args = requests, predict, spec
  threading.Thread(target=answer, args=args, daemon=True).start()
  return server.ThreadingHTTPServer(('127.0.0.1', port), Handler)


if __name__ == '__main__':
  create(sys.argv[1], int(*sys.argv[2:] or [8000])).serve_forever()
