"""A posterior of a frozen base is fitted by a run like any other."""

import json

import numpy as np
import pytest

from flax_enn.inference import Predictor
from flax_enn.training import train_and_evaluate
from tests import tiny


@pytest.mark.slow
def test_one_epoch_is_the_fit(tmp_path):
  base = {'name': 'mlp', 'hiddens': (8,)}
  config = tiny.epinet(network={'name': 'deterministic', 'base': base})
  train_and_evaluate(config, tmp_path / 'base')
  config = tiny.epinet(
      network={
          'name': 'laplace',
          'features': ('hidden_0',),
          'form': 'full',
          'base': {**base, 'frozen': True},
      },
      init={
          'workdir': '../base', 'step': 'latest', 'modules': {'base': 'base'}
      },
      num_indices=1,
  )
  results = train_and_evaluate(config, tmp_path / 'run')['test']
  first = json.loads((tmp_path / 'base' / 'results.json').read_text())['test']
  assert results['base']['nll'] == pytest.approx(first['enn']['nll'], rel=1e-4)
  assert results['enn']['nll'] != results['base']['nll']
  predictor = Predictor.load(tmp_path / 'run', step='latest')
  x = np.float32([[0.0, 1.0], [30.0, 30.0]])
  near, far = predictor.uncertainty(x)['epistemic']
  assert 0 < near < far
