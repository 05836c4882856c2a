"""What a report draws of a regression."""

import types

import jax
import jax.numpy as jnp
from matplotlib.figure import Figure
import numpy as np
import pytest

from flax_enn.evaluation import report
from flax_enn.inference import Predictor
from flax_enn.likelihoods import Gaussian
from flax_enn.model import Model
from flax_enn.networks.backbones.mlp import MLP
from flax_enn.networks.deterministic import Deterministic

RESULTS = types.SimpleNamespace(
    metrics={'enn': {'nll': 1.0, 'joint_nll': 9.0}}, tau=10
)


@pytest.mark.parametrize(
    ('constant', 'titles'), [(True, 2), (False, 1)], ids=['ones', 'a plane']
)
def test_inputs_that_are_constant_are_no_axis(constant, titles):
  """The functions are drawn over the one input that is not."""
  x = np.random.default_rng(0).normal(size=(9, 2)).astype(np.float32)
  if constant:
    x[:, 0] = 1.0
  network = Deterministic(MLP((), 1))
  spec = jax.ShapeDtypeStruct((2,), np.float32)
  variables = network.init(jax.random.key(0), x, jnp.ones(1))
  predictor = Predictor.create(
      Model(network, Gaussian(1), spec), variables, jnp.ones((1, 1))
  )
  figure = Figure()
  report._regression(figure, RESULTS, predictor, lambda: (x, x[:, :1]))
  assert len(figure.axes) == titles
  if constant:
    lines = [line.get_xdata() for line in figure.axes[0].lines]
    low, high = x[:, 1].min(), x[:, 1].max()
    assert any(len(a) > 9 and a[0] < low < high < a[-1] for a in lines)
