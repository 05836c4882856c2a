"""docs/migrating.md has every name of enn, and what it names here is there."""

import importlib
import re

from tests.test_layering import ROOT

PAGE = (ROOT / 'docs' / 'migrating.md').read_text()
TABLES, REST = PAGE.split('\n## Left out\n')
LEFT_OUT = REST.split('\n## ')[0]
NAMES = ROOT / 'tests' / 'enn_names.txt'
ROOMS = (
    'active_learning', 'checkpoints', 'core', 'data', 'evaluation',
    'experiment', 'extras', 'indexers', 'inference', 'likelihoods', 'loggers',
    'losses', 'metrics', 'networks', 'sampling', 'training',
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


def rows(text=PAGE):
  """`(enn's names, ours, tests)` of every table."""
  for line in text.splitlines():
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
  assert paths and not [p for p in paths if not (ROOT / p).is_file()]


def enn_names():
  """enn's modules, each with its public names."""
  found, module = {}, ''
  for line in NAMES.read_text().splitlines():
    for word in () if line.startswith('#') else line.split():
      if word.endswith(':'):
        module = word[:-1]
        found[module] = set()
      else:
        found[module].add(word)
  return found


def quoted(text):
  """The last part `c` of each name `a.b.c` in backquotes."""
  return {
      name.split('.')[-1] for name in re.findall(r'`([A-Za-z_][\w.]*)`', text)
  }


def enn_rows():
  """The rows of the tables of enn's names, without the first of each."""
  return [cells for cells in rows(TABLES) if cells[0] != 'enn']


TABLED = {name for enn, *_ in enn_rows() for name in quoted(enn)}


def test_every_name_of_enn_is_on_the_page():
  expected = enn_names()
  assert len(expected) > 70 and sum(map(len, expected.values())) > 600
  missing = {
      f'{module}.{name}'
      for module, names in expected.items()
      for name in names - TABLED - quoted(LEFT_OUT)
  }
  assert not missing, sorted(missing)


def test_the_tables_name_nothing_that_enn_has_not():
  modules = enn_names()
  parts = {part for module in modules for part in module.split('.')}
  unknown = TABLED - parts.union(*modules.values())
  assert not unknown, sorted(unknown)


def test_every_counterpart_has_a_test():
  for enn, ours, test in enn_rows():
    dash = ours.startswith('—')
    assert dash or re.search(r'`tests[/\w.]*`|^the same', test), enn
