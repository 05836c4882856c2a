"""The table, the file and the picture of hand-made results."""

import json
import types

import jax
import matplotlib.image
import numpy as np
import pytest

from flax_enn.evaluation import Results, table, write_results
from flax_enn.evaluation.report import draw
from flax_enn.likelihoods import Categorical, Gaussian, TwoHot
from flax_enn.model import Model
from tests import slow

BASE = {'accuracy': 0.5, 'nll': 0.7, 'joint_nll': 7.0, 'ece': 0.0}
ENN = {'accuracy': 2 / 3, 'nll': 0.7, 'joint_nll': 3.5, 'ece': 0.1}


CLASSES = Categorical(3)


def _results(likelihood=CLASSES, with_base=True, shape=(8, 8, 1)):
  rng, classes = np.random.default_rng(0), likelihood.outputs
  classifies = isinstance(likelihood, Categorical)
  examples = {
      'x': rng.normal(size=(5, *shape)),
      'y': rng.integers(0, classes, 5),
      'id': np.arange(5),
      'disagreement': np.linspace(1, 0, 5),
      'enn': rng.dirichlet(np.ones(classes), 5),
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
  return Results(
      metrics=values,
      tau=10,
      calibration=dict.fromkeys(values, bins) if classifies else {},
      disagreement=rng.poisson(2, (2, 30)) if classifies else None,
      examples=examples,
  )


def test_table_has_rows_and_ratios():
  lines = table(_results().metrics).splitlines()
  assert [line.split() for line in lines] == [
      ['accuracy', 'nll', 'joint_nll', 'ece'],
      ['base', '0.5000', '0.7000', '7.0000', '0.0000'],
      ['enn', '0.6667', '0.7000', '3.5000', '0.1000'],
      ['enn/base', '1.333', '1.000', '0.500', '-'],
  ]
  assert len({len(line) for line in lines}) == 1


def test_table_without_a_base():
  lines = table(_results(with_base=False).metrics).splitlines()
  assert [line.split()[0] for line in lines] == ['accuracy', 'enn']


def test_file_holds_full_precision_in_a_fixed_order(tmp_path):
  returned = write_results(tmp_path, 300, {'test': _results()})
  path = tmp_path / 'results.json'
  expected = {'step': 300, 'test': {'base': BASE, 'enn': ENN}}
  assert json.loads(path.read_text()) == returned == expected
  first = path.read_bytes()
  write_results(tmp_path, 300, {'test': _results()})
  assert path.read_bytes() == first
  assert [p.name for p in tmp_path.iterdir()] == ['results.json']


def test_file_is_json_where_a_value_is_not_finite(tmp_path):
  results = _results(with_base=False)
  results.metrics['enn'] = {'nll': float('inf'), 'joint_nll': float('nan')}
  write_results(tmp_path, 1, {'test': results})
  content = json.loads((tmp_path / 'results.json').read_text())
  assert content['test'] == {'enn': {'nll': None, 'joint_nll': None}}


def test_file_holds_several_evaluations_by_name(tmp_path):
  found = {'test': _results(), 'shifted': _results(with_base=False)}
  assert write_results(tmp_path, 2, found) == {
      'step': 2,
      'test': {'base': BASE, 'enn': ENN},
      'shifted': {'enn': ENN},
  }


@pytest.mark.parametrize(
    'likelihood, shape, with_base',
    [
        (Categorical(3), (8, 8, 1), True),
        slow(Categorical(12), (8, 8, 3), False),
        (Categorical(3), (2,), True),
        slow(Categorical(3), (7,), False),
        slow(Gaussian(1), (1,), True),
        (Gaussian(1, scale=None), (1,), False),
        slow(TwoHot(-1.0, 1.0, 5), (1,), True),
        (Gaussian(2), (4,), False),
    ],
)
def test_picture(tmp_path, likelihood, shape, with_base):
  """It is drawn for whatever the data are, and it is not blank."""
  rng = np.random.default_rng(0)
  asked = []

  def points():
    y = rng.normal(size=(20, *likelihood.target.shape))
    if likelihood.target.shape == ():
      y = rng.integers(0, likelihood.outputs, 20)
    return rng.normal(size=(20, *shape)).astype(np.float32), y

  def logits(x):
    asked.append(x)
    return rng.normal(size=(6, len(x), likelihood.outputs))

  model = Model(None, likelihood, jax.ShapeDtypeStruct(shape, np.float32))
  results = _results(likelihood, with_base, shape)
  predictor = types.SimpleNamespace(model=model, logits=logits)
  draw(tmp_path, results, predictor, points)
  _assert_drawn(tmp_path)
  if len(shape) == 3:
    np.testing.assert_array_equal(asked[0], results.examples['x'])
  assert all(x.shape[1:] == shape for x in asked)


@pytest.mark.parametrize('shape', [(2,), (8, 8, 1)])
def test_picture_of_trees(tmp_path, shape):
  """Inputs of several arrays, or of one with a name, are not drawn."""
  model = Model(
      None, Categorical(3), {'x': jax.ShapeDtypeStruct(shape, np.float32)}
  )
  predictor = types.SimpleNamespace(model=model)
  draw(tmp_path, _results(), predictor, points=None)
  _assert_drawn(tmp_path)


def _assert_drawn(folder):
  picture = matplotlib.image.imread(folder / 'report.png')
  assert picture.shape[0] > 400 and picture.shape[1] > 500
  assert 0.01 < (picture[..., :3].min(-1) < 0.9).mean() < 0.9
