"""The table, the file and the picture of hand-made results."""

import json
import types

import matplotlib.image
import numpy as np
import pytest

from flax_enn.evaluation import Results, table, write_results
from flax_enn.evaluation.report import draw

BASE = {'accuracy': 0.5, 'nll': 0.7, 'joint_nll': 7.0, 'ece': 0.0}
ENN = {'accuracy': 2 / 3, 'nll': 0.7, 'joint_nll': 3.5, 'ece': 0.1}


def _results(task='classification', with_base=True, shape=(8, 8, 1), classes=3):
  rng = np.random.default_rng(0)
  examples = {
      'x': rng.normal(size=(5, *shape)),
      'y': rng.integers(0, classes, 5),
      'id': np.arange(5),
      'disagreement': np.linspace(1, 0, 5),
      'preds': rng.dirichlet(np.ones(classes), 5),
  }
  values = {'enn': ENN}
  if with_base:
    values = {'base': BASE, 'enn': ENN}
    examples['base'] = rng.dirichlet(np.ones(classes), 5)
  bins = {
      'count': np.array([0, 4, 6]),
      'confidence': np.array([0, 2, 5]),
      'correct': np.array([0, 3, 5]),
  }
  classifies = task == 'classification'
  return Results(
      metrics=values,
      task=task,
      tau=10,
      calibration=dict.fromkeys(values, bins) if classifies else {},
      disagreement=rng.poisson(2, (2, 30)) if classifies else None,
      examples=examples,
  )


def test_table_has_rows_and_ratios():
  lines = table(_results()).splitlines()
  assert [line.split() for line in lines] == [
      ['accuracy', 'nll', 'joint_nll', 'ece'],
      ['base', '0.5000', '0.7000', '7.0000', '0.0000'],
      ['enn', '0.6667', '0.7000', '3.5000', '0.1000'],
      ['enn/base', '1.333', '1.000', '0.500', '-'],
  ]
  assert len({len(line) for line in lines}) == 1


def test_table_without_a_base():
  lines = table(_results(with_base=False)).splitlines()
  assert [line.split()[0] for line in lines] == ['accuracy', 'enn']


def test_file_holds_full_precision_in_a_fixed_order(tmp_path):
  returned = write_results(tmp_path, 300, 'test', _results())
  path = tmp_path / 'results.json'
  expected = {'step': 300, 'test': {'base': BASE, 'enn': ENN}}
  assert json.loads(path.read_text()) == returned == expected
  first = path.read_bytes()
  write_results(tmp_path, 300, 'test', _results())
  assert path.read_bytes() == first
  assert [p.name for p in tmp_path.iterdir()] == ['results.json']


def test_file_is_json_where_a_value_is_not_finite(tmp_path):
  results = _results(with_base=False)
  results.metrics['enn'] = {'nll': float('inf'), 'joint_nll': float('nan')}
  write_results(tmp_path, 1, 'test', results)
  content = json.loads((tmp_path / 'results.json').read_text())
  assert content['test'] == {'enn': {'nll': None, 'joint_nll': None}}


@pytest.mark.parametrize('with_base', [True, False])
@pytest.mark.parametrize(
    'task, shape, classes',
    [
        ('classification', (8, 8, 1), 3),
        ('classification', (8, 8, 3), 12),
        ('classification', (2,), 3),
        ('classification', (7,), 3),
        ('regression', (1,), 1),
        ('regression', (4,), 2),
    ],
)
def test_picture(tmp_path, task, shape, classes, with_base):
  """It is drawn for whatever the data are, and it is not blank."""
  rng = np.random.default_rng(0)
  asked = []

  def source(split):
    assert split == 'train'
    labels = rng.integers(0, classes, 20)
    y = labels if task == 'classification' else rng.normal(size=(20, classes))
    x = rng.normal(size=(20, *shape)).astype(np.float32)
    return [{'x': a, 'y': b} for a, b in zip(x, y)]

  def predict(x):
    asked.append(x)
    return rng.dirichlet(np.ones(classes), (6, len(x)))

  dataset = types.SimpleNamespace(
      task=task, shape=shape, classes=classes, noise_std=0.1, source=source
  )
  results = _results(task, with_base, shape, classes)
  draw(tmp_path, results, dataset, predict)
  picture = matplotlib.image.imread(tmp_path / 'report.png')
  assert picture.shape[0] > 400 and picture.shape[1] > 500
  assert 0.01 < (picture[..., :3].min(-1) < 0.9).mean() < 0.9
  if len(shape) == 3:
    np.testing.assert_array_equal(asked[0], results.examples['x'])
  assert all(x.shape[1:] == shape for x in asked)
