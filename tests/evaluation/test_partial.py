"""An evaluation that is cut off goes on where it was, to the same bits."""

import jax
import numpy as np
import pytest

from flax_enn.evaluation import EvalCheckpoint, Preempted
from tests.evaluation.test_scorer import (
    KEY,
    Net,
    _batches,
    _examples,
    _variables,
    make_scorer,
)

IDENTITY = {'step': 3, 'indices': [1, 2]}


class Killed(Exception):
  """What an evaluation is cut off with."""


def evaluate(path, size=100, kill_after=None, identity=IDENTITY, **options):
  """Evaluates from where the file says; returns results and batches read."""
  partial = EvalCheckpoint(path, identity, every=0, **options)
  batches = list(_batches(*_examples(size)))[partial.num_batches :]

  def read():
    for done, batch in enumerate(batches):
      if done == kill_after:
        raise Killed
      yield batch

  scorer = make_scorer(num_indices=8, chunk=4)
  results = scorer(_variables(Net()), read(), KEY, partial=partial)
  partial.delete()
  return results, len(batches)


def bits(results):
  leaves = jax.tree.leaves(vars(results), is_leaf=lambda x: x is None)
  return [np.asarray(leaf).tobytes() for leaf in leaves if leaf is not None]


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  results, batches = evaluate(tmp_path_factory.mktemp('whole') / 'eval.npz')
  assert batches == 7
  return bits(results)


@pytest.mark.parametrize('kills', [[5], [2, 3]])
def test_goes_on_to_the_same_bits(kills, whole, tmp_path):
  path = tmp_path / 'evaluation.npz'
  for after in kills:
    with pytest.raises(Killed):
      evaluate(path, kill_after=after)
  results, left = evaluate(path)
  assert 7 - left == sum(kills)  # what was on its way to the devices, too
  assert bits(results) == whole
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('asked', [1, 4, 7])
def test_stops_when_asked(asked, whole, tmp_path):
  """Also when all is summed and only the results are missing."""
  path = tmp_path / 'evaluation.npz'
  answers = iter([False] * (asked - 1) + [True])
  with pytest.raises(Preempted, match=f'{asked} batches .*evaluation.npz'):
    evaluate(path, stop=lambda: next(answers))
  results, left = evaluate(path)
  assert left == 7 - asked
  assert bits(results) == whole


def test_writes_now_and_then(tmp_path):
  partial = EvalCheckpoint(tmp_path / 'eval.npz', IDENTITY, every=1000)
  partial.maybe_save(1, {'sum': np.zeros(3)})
  assert not list(tmp_path.iterdir())
  partial.save(2, {'sum': np.zeros(3)})
  assert EvalCheckpoint(tmp_path / 'eval.npz', IDENTITY).num_batches == 2


@pytest.mark.parametrize('change', ['identity', 'cut', 'empty', 'text'])
def test_what_does_not_fit_is_passed_over(change, whole, tmp_path):
  path = tmp_path / 'evaluation.npz'
  with pytest.raises(Killed):
    evaluate(path, kill_after=5)
  assert EvalCheckpoint(path, IDENTITY).num_batches > 0
  identity, content = IDENTITY, path.read_bytes()
  if change == 'identity':
    identity = {**IDENTITY, 'step': 4}
  else:
    half = content[: len(content) // 2]
    path.write_bytes({'cut': half, 'empty': b'', 'text': b'no'}[change])
  results, read = evaluate(path, identity=identity)
  assert read == 7
  assert bits(results) == whole


def test_a_state_of_another_shape_is_an_error(tmp_path):
  path = tmp_path / 'evaluation.npz'
  EvalCheckpoint(path, IDENTITY, every=0).maybe_save(2, {'sum': np.zeros(3)})
  partial = EvalCheckpoint(path, IDENTITY)
  assert partial.num_batches == 2
  np.testing.assert_array_equal(partial.restore({'sum': np.ones(3)})['sum'], 0)
  with pytest.raises(ValueError, match=r'evaluation\.npz does not hold'):
    partial.restore({'sum': np.ones(4)})
