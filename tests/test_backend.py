"""What a program is compiled for, and the memory of its process."""

import subprocess
import sys

CHILD = """
import numpy as np
from flax_enn import backend

def kept():
  def pages():
    with open('/proc/self/statm') as file:
      return int(file.read().split()[1])
  before = pages()
  block = np.ones(2**25, np.uint8)
  filled = pages() - before
  del block
  return (pages() - before) / filled

print(kept() < 0.5)
backend.keep_freed_memory()
print(kept() > 0.5)
"""


def test_freed_memory_is_kept(monkeypatch):
  found = subprocess.run(
      [sys.executable, '-c', CHILD], capture_output=True, text=True, check=True
  )
  assert found.stdout.split() == ['True', 'True']
  # Whoever has set it otherwise has it so.
  monkeypatch.setenv('MALLOC_TOP_PAD_', '131072')
  found = subprocess.run(
      [sys.executable, '-c', CHILD], capture_output=True, text=True, check=True
  )
  assert found.stdout.split() == ['True', 'False']
