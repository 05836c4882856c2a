"""Time and memory of importing a file of DeepMind's catalogue.

  python -m benchmarks.catalogue --entry=resnet50_epinet_imagenet

The files are made up, of the right names, shapes and form. The command runs in
a process of its own: its seconds and its peak of memory are those that a person
sees, with Python, the imports and the compiler.

Expected on two CPU cores, with other work on them: 31 to 38 seconds and 0.98 GB
(932 MiB) for ResNet-50, a minute and 1.8 GB for ResNet-200.
"""

import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

from absl import app, flags

from benchmarks import timing
from flax_enn.checkpoints import catalogue
from tests.checkpoints import catalogue_files

_ENTRY = flags.DEFINE_string(
    'entry', 'resnet50_epinet_imagenet', 'Name in the catalogue.'
)


def main(argv: list[str]) -> None:
  """Makes files, imports them and prints a row."""
  if argv[1:]:
    raise app.UsageError(f'expected flags only, found {argv[1:]}')
  timing.print_machine()
  entry = catalogue.entry(_ENTRY.value)
  with tempfile.TemporaryDirectory() as name:
    folder, size = pathlib.Path(name), 0
    trees = {entry.base.name: catalogue_files.base(entry.depth, entry.classes)}
    if entry.epinet:
      fc = trees[entry.base.name]['params']['res_net/~/final_fc']['w']
      trees[entry.name] = catalogue_files.epinet(
          fc.shape[1], entry.classes, entry.index_dim
      )
    for of, tree in trees.items():
      size += (folder / f'{of}.npzs').write_bytes(catalogue_files.dump(tree))
    del trees
    start = time.perf_counter()
    command = [
        sys.executable, '-m', 'flax_enn.checkpoints.deepmind', entry.name,
        f'--files={folder}', f'--out={folder / "run"}',
    ]  # fmt: skip
    # A compilation cache would hide what the first import takes.
    cold = {**os.environ, 'JAX_COMPILATION_CACHE_DIR': str(folder / 'cache')}
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=cold)
    took = time.perf_counter() - start
  units = 2**20 if sys.platform == 'darwin' else 2**10
  peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / units
  timing.print_row(
      entry.name, files_mib=size / 2**20, seconds=took, peak_mib=peak
  )


if __name__ == '__main__':
  app.run(main)
