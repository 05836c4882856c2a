"""Writes the table of docs/networks.md from the docstrings of the networks.

  python docs/network_table.py

Each network says in its docstring what it is (the first line), and in four
entries when to use it (`Use:`), what another index costs (`Cost:`), a section
of a config (`Config:`) and where it comes from (`Source:`). One without any of
them is left out.
"""

import importlib
import inspect
from pathlib import Path
import pkgutil
import re

from flax_enn import kinds, networks

PAGE = Path(__file__).with_name('networks.md')
START, END = '<!-- the table begins -->', '<!-- the table ends -->'
FIELDS = ('Use', 'Cost', 'Config', 'Source')


def entries() -> dict[str, dict[str, str]]:
  """What each network says of itself, by the name of its file."""
  found = {}
  for info in pkgutil.iter_modules(networks.__path__):
    module = importlib.import_module(f'{networks.__name__}.{info.name}')
    for name, cls in vars(module).items():
      own = isinstance(cls, type) and cls.__module__ == module.__name__
      doc = inspect.getdoc(cls) or '' if own and name[0] != '_' else ''
      told = re.search(rf'^({"|".join(FIELDS)}): ', doc, re.MULTILINE)
      if told and kinds.NETWORK.accepts(cls):
        found[info.name] = parsed(doc)
  return found


def parsed(doc: str) -> dict[str, str]:
  """First line and entries of a docstring, each on one line.

  Raises:
    ValueError: an entry is missing.
  """
  fields = {'what': doc.partition('\n\n')[0]}
  for field in FIELDS:
    entry = re.search(rf'^{field}: (.*(?:\n  .*)*)', doc, re.MULTILINE)
    if not entry:
      raise ValueError(f'no `{field}:` in a docstring that begins {doc[:60]!r}')
    fields[field] = entry[1]
  return {k: ' '.join(v.split()) for k, v in fields.items()}


def table() -> str:
  """The table in Markdown."""
  rows = [
      ['file', 'what it computes', 'when to use it', 'cost', 'config', 'source']
  ]
  rows.append(['---'] * len(rows[0]))
  for name, fields in entries().items():
    link = f'[{name}](../flax_enn/networks/{name}.py)'
    config = f'`{fields["Config"]}`'
    of = (fields[k] for k in ('what', 'Use', 'Cost'))
    rows.append([link, *of, config, fields['Source']])
  escaped = (
      ' | '.join(cell.replace('|', r'\|') for cell in row) for row in rows
  )
  return '\n'.join(f'| {row} |' for row in escaped)


def page(old: str) -> str:
  """The page with the table as it is now; all else stays."""
  before, rest = old.split(START)
  after = rest.split(END)[1]
  return f'{before}{START}\n\n{table()}\n\n{END}{after}'


if __name__ == '__main__':
  PAGE.write_text(page(PAGE.read_text()))
