"""Studies: on predictions whose numbers are known, and in a run."""

import itertools

import numpy as np
import pytest

from flax_enn.evaluation.studies import (
    Conformal,
    OutOfDistribution,
    Predictions,
    Selective,
)
from flax_enn.evaluation.studies.selective import risk
from flax_enn.training import train_and_evaluate
from tests import tiny


def certain(confidences, y=0):
  """Binary predictions of class 0 with these probabilities."""
  p = np.asarray(confidences, float)
  return Predictions(np.full(len(p), y), np.stack([p, 1 - p], -1), 1 - p)


def test_other_data_are_told_apart():
  own, other = certain([0.9, 0.8, 0.95]), certain([0.6, 0.55])
  found = OutOfDistribution().metrics(other, own)
  for name in ('msp', 'entropy', 'mutual_information'):
    assert found[f'auroc_{name}'] == found[f'aupr_{name}'] == 1
    assert found[f'fpr95_{name}'] == 0
  swapped = OutOfDistribution().metrics(own, other)
  assert swapped['auroc_msp'] == 0 and swapped['fpr95_msp'] == 1


def test_auroc_is_the_share_of_pairs_in_order():
  rng = np.random.default_rng(0)
  own, other = certain(rng.uniform(0.5, 1, 40)), certain(rng.uniform(0.5, 1, 9))
  pairs = itertools.product(own.probs.max(-1), other.probs.max(-1))
  expected = np.mean([a > b for a, b in pairs])
  found = OutOfDistribution().metrics(other, own)
  assert found['auroc_msp'] == pytest.approx(expected)
  # 95 % of 40 own examples are 38: what is as certain as the 39th passes.
  threshold = np.sort(own.probs.max(-1))[1]
  passing = np.mean(other.probs.max(-1) >= threshold)
  assert found['fpr95_msp'] == pytest.approx(passing)


def test_risk_is_the_error_rate_of_the_most_certain():
  wrong = np.array([True, False, False, True])
  found = risk(np.array([0.9, 0.1, 0.5, 0.3]), wrong)
  np.testing.assert_allclose(found, [0, 1 / 2, 1 / 3, 2 / 4])
  # In which order equally certain ones are found is of no influence.
  same = risk(np.zeros(4), wrong)
  np.testing.assert_allclose(same, 0.5)


def test_selective():
  found = Selective(coverages=(0.5, 1.0)).metrics(
      Predictions(np.array([0, 0, 0, 0]), certain([0.9, 0.8, 0.4, 0.7]).probs),
      None,
  )
  assert found['risk_at_0.5_msp'] == 0 and found['risk_at_1_msp'] == 0.25
  assert found['aurc_msp'] == pytest.approx((0 + 0 + 0 + 1 / 4) / 4)
  assert not [name for name in found if 'mutual' in name]


@pytest.mark.parametrize('sharpness', [1.0, 4.0])
@pytest.mark.parametrize('level', [0.8, 0.95])
def test_conformal_sets_hold_the_label_as_often_as_promised(sharpness, level):
  """Whether the probabilities are right, or far too sharp."""
  rng = np.random.default_rng(1)
  n, classes = 20_000, 6
  logits = rng.normal(size=(n, classes))
  probs, told = (
      np.exp(s * logits) / np.exp(s * logits).sum(-1, keepdims=True)
      for s in (1.0, sharpness)
  )
  y = (probs.cumsum(-1) < rng.uniform(size=(n, 1))).sum(-1)
  found = Conformal(level=level).metrics(Predictions(y, told), None)
  for name in ('lac', 'aps', 'raps'):
    assert found[f'coverage_{name}'] == pytest.approx(level, abs=0.012)
    assert 1 < found[f'size_{name}'] < classes
  if sharpness == 1:  # no sets that are right on average are smaller than LAC's
    assert found['size_lac'] <= found['size_aps'] + 0.01


@pytest.mark.parametrize(
    'make, message',
    [
        (lambda: Conformal(level=1.0), r'level is 1.0'),
        (lambda: Conformal(penalty=-1.0), r'penalty is -1.0'),
        (lambda: Selective(coverages=(0.0,)), r'coverages are \(0.0,\)'),
        (
            lambda: Conformal(level=0.99).metrics(certain([0.9] * 20), None),
            r'level 0.99 needs 198 examples.*there are 20',
        ),
    ],
)
def test_bad_fields(make, message):
  with pytest.raises(ValueError, match=message):
    make()


@pytest.mark.slow
def test_in_a_run(tmp_path):
  far = {'name': 'two_moons', 'n_train': 64, 'n_test': 40, 'noise': 5.0}
  config = tiny.epinet(
      num_steps=2,
      evals={
          'answers': {'study': {'name': 'selective', 'coverages': (0.5,)}},
          'sets': {'study': {'name': 'conformal', 'level': 0.8}},
          'far': {'study': {'name': 'out_of_distribution'}, 'dataset': far},
      },
  )
  found = train_and_evaluate(config, tmp_path)
  assert found.keys() == {'step', 'test', 'answers', 'sets', 'far'}
  assert found['far']['base'].keys() == {
      f'{m}_{u}'
      for m in ('auroc', 'aupr', 'fpr95')
      for u in ('msp', 'entropy')
  }
  assert 'auroc_mutual_information' in found['far']['enn']
  assert found['answers']['enn']['risk_at_0.5_msp'] <= 1
  assert (tmp_path / 'report-answers.png').exists()
  assert not (tmp_path / 'report-sets.png').exists()


def test_an_unknown_study_is_named(tmp_path):
  config = tiny.epinet(evals={'a': {'study': {'name': 'selectiv'}}})
  with pytest.raises(ValueError, match=r"evals.a.study.name.*'selective'"):
    tiny.built(config)
