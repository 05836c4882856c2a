"""What importing and installing flax_enn costs and brings."""

import ast
import configparser
from importlib import metadata
import re
import shutil
import subprocess
import sys
import zipfile

import pytest

from tests.test_layering import LIBRARY, ROOT, imports

HEAVY = (
    'tensorflow',
    'tensorflow_datasets',
    'grain',
    'orbax',
    'matplotlib',
    'sklearn',
    'PIL',
)


def run(program):
  """Runs a Python program in a fresh process and returns what it prints."""
  return subprocess.run(
      [sys.executable, '-c', program],
      cwd=ROOT,
      capture_output=True,
      check=True,
      text=True,
  ).stdout


def test_import_loads_nothing_heavy():
  loaded = run('import sys, flax_enn; print(*sys.modules)').split()
  assert 'flax_enn' in loaded
  assert not set(HEAVY) & set(loaded)


def test_import_costs_little_more_than_jax_and_flax():
  program = """
import time
start = time.process_time()
import jax, flax.linen
base = time.process_time() - start
import flax_enn
print((time.process_time() - start) / base)
"""
  # One of three: a busy machine only ever makes it slower.
  assert any(float(run(program)) < 1.5 for _ in range(3))


def normal(name):
  return name.lower().replace('_', '-')


def test_every_import_is_declared():
  """What another package happens to bring today may be gone tomorrow."""
  config = configparser.ConfigParser()
  config.read(ROOT / 'setup.cfg')
  core = config['options']['install_requires']
  train = config['options.extras_require']['train']
  declared = re.findall(r'^([\w-]+)', core + train, re.MULTILINE)
  declared = {normal(name) for name in declared}
  owners = metadata.packages_distributions()
  missing = {
      f'{path.relative_to(ROOT)} imports {name}'
      for path in [*LIBRARY, *ROOT.glob('*.py')]
      for name in imports(ast.parse(path.read_text()))
      if (top := name.partition('.')[0]) not in sys.stdlib_module_names
      and top not in ('flax_enn', 'configs', 'launch', 'train')
      and declared.isdisjoint(map(normal, owners.get(top, ())))
  }
  assert not missing


@pytest.mark.slow
def test_wheel_holds_the_library_and_nothing_else(tmp_path):
  # Built from a copy: setuptools leaves folders behind, and packs what it finds
  # in them the next time.
  source = tmp_path / 'source'
  ignored = shutil.ignore_patterns('.*', 'runs', 'build', '*.egg-info')
  shutil.copytree(ROOT, source, ignore=ignored)
  pip = [sys.executable, '-m', 'pip', 'wheel', '--quiet', '--no-deps']
  subprocess.run([*pip, '--wheel-dir', tmp_path, source], check=True)
  (wheel,) = tmp_path.glob('*.whl')
  packed = {
      name
      for name in zipfile.ZipFile(wheel).namelist()
      if '.dist-info/' not in name
  }
  library = {str(path.relative_to(ROOT)) for path in LIBRARY}
  assert packed == library | {'flax_enn/py.typed'}
