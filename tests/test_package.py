"""What importing and installing flax_enn costs and brings."""

import ast
import configparser
from importlib import metadata
import os
import re
import shutil
import subprocess
import sys
import zipfile

from packaging.requirements import Requirement
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


def setup():
  config = configparser.ConfigParser()
  config.read(ROOT / 'setup.cfg')
  return config


def on(python, lines):
  """Name -> versions, of the requirements that a Python version has."""
  found, machine = {}, {
      'python_version': python,
      'platform_system': 'Linux',
      'platform_machine': 'x86_64',
  }
  for line in lines:
    if line and not line.startswith(('#', 'flax_enn')):
      wanted = Requirement(line)
      if not wanted.marker or wanted.marker.evaluate(machine):
        assert normal(wanted.name) not in found, line
        found[normal(wanted.name)] = wanted.specifier
  return found


PYTHONS = ['3.11', '3.12', '3.13']


@pytest.mark.parametrize('python', PYTHONS)
def test_tested_versions_are_allowed_ones(python):
  tested = on(python, (ROOT / 'constraints.txt').read_text().splitlines())
  config = setup()
  lines = config['options']['install_requires'].splitlines()
  for extra in ('train', 'test'):
    lines += config['options.extras_require'][extra].splitlines()
  for name, allowed in on(python, lines).items():
    (version,) = tested[name]  # pinned: one `==`
    assert version.operator == '==' and version.version in allowed, name


# jax, flax: one of these fails with the other.
BROKEN = [('0.11.2', '0.12.9'), ('0.11.0', '0.12.8'), ('0.12.0', '0.12.8')]


@pytest.mark.parametrize('python', PYTHONS)
def test_broken_pairs_cannot_be_installed(python):
  lines = setup()['options']['install_requires'].splitlines()
  allowed = on(python, lines)
  for jax, flax in BROKEN:
    assert jax not in allowed['jax'] or flax not in allowed['flax']


def test_pythons_are_found_beyond_path(tmp_path):
  """A version manager's shims, which fail, and where it keeps the real ones."""
  pytest.importorskip('ensurepip')  # or this Python is none of them
  versions, shims = tmp_path / '.pyenv' / 'versions', tmp_path / 'shims'
  real = sys._base_executable
  for path, text in {
      shims / 'python3': 'exit 127',
      shims / 'python3.13': 'exit 127',
      versions / 'a b' / 'bin' / 'python3': f'exec {real} "$@"',
      versions / '2.7' / 'bin' / 'python3': 'exit 1',
  }.items():
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'#!/bin/sh\n{text}\n')
    path.chmod(0o755)
  env = {'HOME': str(tmp_path), 'PATH': f'{shims}:{os.defpath}'}

  def found(*asked):
    command = [ROOT / '.ci' / 'pythons', *asked]
    said = subprocess.check_output(command, env=env, text=True)
    return said.splitlines()

  number = '.'.join(map(str, sys.version_info[:3]))
  assert f'{number} {real}' in found()
  assert f'{number} {real}' in found('3.11', f'3.{sys.version_info.minor}')
  assert not found('3.98', '3.99')


def test_every_import_is_declared():
  """What another package happens to bring today may be gone tomorrow."""
  config = setup()
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
