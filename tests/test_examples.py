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
def test_double_thompson(tmp_path):
  out = tmp_path / 'regret.png'
  said = run(
      'double_thompson.py', '--seeds=2', '--answers=40', f'--out={out}'
  )
  wins = re.findall(r'^(.+\w) +mean .* win rate (0\.\d+)', said, re.M)
  names = [name for name, _ in wins]
  assert names == ['at random', 'top two', 'double Thompson'], said
  # An item at random wins every other time.
  assert float(wins[2][1]) > 0.6, said
  assert out.exists()


@pytest.mark.slow
def test_which_label_next(tmp_path):
  out = tmp_path / 'labels.png'
  said = run('which_label_next.py', '--seeds=2', '--rounds=1', f'--out={out}')
  accuracy = re.findall(r'after 30 labels (0\.\d+)', said)
  # Of ten classes, from 30 labels.
  assert len(accuracy) == 3 and all(float(a) > 0.5 for a in accuracy), said
  assert out.exists()
