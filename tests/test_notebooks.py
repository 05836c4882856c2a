"""The notebooks run from top to bottom."""

import json

import matplotlib as mpl
import pytest

from tests.test_layering import ROOT

NOTEBOOKS = sorted((ROOT / 'docs' / 'notebooks').glob('*.ipynb'))


def code(path):
  """The source of its code cells."""
  cells = json.loads(path.read_text())['cells']
  return [''.join(c['source']) for c in cells if c['cell_type'] == 'code']


def test_there_are_some():
  names = {path.stem for path in NOTEBOOKS}
  assert names >= {'demo', 'epinet_on_a_frozen_base'}
  assert all(code(path) for path in NOTEBOOKS)


@pytest.mark.slow
@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path, capsys):
  mpl.use('agg')
  names = {'__name__': '__main__'}
  for number, source in enumerate(code(path)):
    exec(compile(source, f'{path.name}[{number}]', 'exec'), names)
  assert 'joint_nll' in capsys.readouterr().out
