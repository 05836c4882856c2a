"""What docs/migrating.md names is there."""

import importlib
import re

from tests.test_layering import ROOT

PAGE = (ROOT / 'docs' / 'migrating.md').read_text()
ROOMS = (
    'active_learning', 'checkpoints', 'core', 'data', 'experiment', 'extras',
    'indexers', 'inference', 'likelihoods', 'loggers', 'losses', 'metrics',
    'networks', 'sampling', 'training',
)  # fmt: skip


def found(name):
  """Imports `a.b.C` from the longest module that its name begins with."""
  parts = name.split('.')
  for end in range(len(parts), 0, -1):
    try:
      value = importlib.import_module('.'.join(['flax_enn', *parts[:end]]))
    except ModuleNotFoundError:
      continue
    for attribute in parts[end:]:
      value = getattr(value, attribute)
    return value
  raise ModuleNotFoundError(name)


def rows():
  """`(enn's names, ours, tests)` of every table."""
  for line in PAGE.splitlines():
    cells = [cell.strip() for cell in line.strip('|').split(' | ')]
    if line.startswith('| ') and len(cells) >= 2 and '---' not in line:
      yield cells


def test_the_counterparts_exist():
  names = {
      name
      for _, ours, *_ in rows()
      for name in re.findall(
          rf'(?<![\w.])((?:{"|".join(ROOMS)})(?:\.\w+)+)', ours
      )
  }
  assert len(names) > 60
  missing = []
  for name in sorted(names):
    try:
      found(name)
    except (ImportError, AttributeError) as e:
      missing.append(f'{name}: {e}')
  assert not missing, '\n'.join(missing)


def test_the_tests_exist():
  paths = set(re.findall(r'`(tests/[\w/.]+)`', PAGE))
  assert paths and not [p for p in paths if not (ROOT / p).exists()]
