"""Read errors that pass, through the real storage: no checkpoint is set aside.

FLAX_ENN_READ_ERRORS is their number, FLAX_ENN_SEED says at which reads. They
are raised by a library in C that is loaded before libc, for Orbax reads the
arrays without Python.
"""

import os
from pathlib import Path
import shutil
import subprocess
import sys

import pytest

from flax_enn.training import train_and_evaluate
from tests import tiny

# Restores once to count the reads, and then with an error at one of them.
SCRIPT = """
import ctypes, os, random, sys
from pathlib import Path
from flax_enn import storage
from tests import tiny

faults, workdir = ctypes.CDLL(sys.argv[1]), Path(sys.argv[2])
config = tiny.epinet(**{'network.base.hiddens': (256, 256)})
folder, many = str(workdir / 'checkpoints').encode(), 10**9
storage.BACK_OFF = 0.0, 0.0
faults.fail_read(folder, ctypes.c_long(many))
newest = tiny.last_state(config, workdir)
reads = many - faults.reads_left()
kept = sorted(p.name for p in workdir.rglob('*') if p.is_dir())
rng = random.Random(int(os.environ.get('FLAX_ENN_SEED', 0)))
raised = 0
for _ in range(int(os.environ.get('FLAX_ENN_READ_ERRORS', 10))):
  at = rng.randrange(reads)
  faults.fail_read(folder, ctypes.c_long(at))
  assert tiny.last_state(config, workdir) == newest, at
  assert sorted(p.name for p in workdir.rglob('*') if p.is_dir()) == kept, at
  raised += faults.reads_left() < 0
print(reads, raised)
"""


@pytest.mark.slow
@pytest.mark.skipif(
    not (sys.platform == 'linux' and shutil.which('cc')),
    reason='needs Linux and a C compiler, cc',
)
def test_a_read_error_that_passes_costs_no_checkpoint(tmp_path):
  library = tmp_path / 'read_errors.so'
  source = Path(__file__).with_name('read_errors.c')
  subprocess.run(
      ['cc', '-shared', '-fPIC', '-o', library, source, '-ldl'], check=True
  )
  config = tiny.epinet(**{'network.base.hiddens': (256, 256)})
  train_and_evaluate(config, tmp_path / 'run')
  ended = subprocess.run(
      [sys.executable, '-c', SCRIPT, library, tmp_path / 'run'],
      env=os.environ | {'LD_PRELOAD': str(library)},
      cwd=tiny.ROOT,
      capture_output=True,
      text=True,
  )
  assert ended.returncode == 0, ended.stderr
  reads, raised = map(int, ended.stdout.split())
  assert reads > 10
  assert raised  # an error at a read that is not made again changes nothing
