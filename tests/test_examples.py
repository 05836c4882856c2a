"""The examples in docs/examples run, in a small form (one: test_bundle.py)."""

import re

import pytest

from tests import tiny


def run(script, *args):
  process = tiny.python(tiny.ROOT / 'docs' / 'examples' / script, *args)
  said, _ = process.communicate(timeout=300)
  assert process.returncode == 0, said
  return said


@pytest.mark.slow
def test_bandit(tmp_path):
  out = tmp_path / 'bandit.png'
  said = run('bandit.py', '--seeds=2', '--pulls=40', f'--out={out}')
  regret = re.findall(r'(\S+) +regret (\d+\.\d+) \+- (\d+\.\d+)', said)
  assert [name for name, *_ in regret] == ['estimate', 'sampling']
  assert out.exists()


@pytest.mark.slow
def test_which_label_next(tmp_path):
  out = tmp_path / 'labels.png'
  said = run('which_label_next.py', '--seeds=2', '--rounds=1', f'--out={out}')
  accuracy = re.findall(r'after 30 labels (0\.\d+)', said)
  # Of ten classes, from 30 labels.
  assert len(accuracy) == 3 and all(float(a) > 0.5 for a in accuracy), said
  assert out.exists()
