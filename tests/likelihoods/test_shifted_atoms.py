"""A two-hot likelihood whose atoms the network shifts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_enn.likelihoods import TwoHot

PLAIN = TwoHot(-1.0, 2.0, 6)
SHIFTED = TwoHot(-1.0, 2.0, 6, shift=True)
LOGITS = jax.random.normal(jax.random.key(0), (5, 6))
SHIFT = jnp.array([0.0, 0.3, -0.7, 5.0, -20.0])
OUTPUTS = jnp.concatenate([LOGITS, SHIFT[:, None]], axis=-1)


def test_the_network_emits_one_more_output():
  assert (PLAIN.outputs, SHIFTED.outputs) == (6, 7)


def test_a_shift_moves_the_density():
  y = jnp.linspace(-0.9, 1.9, 5)[:, None]
  np.testing.assert_allclose(
      SHIFTED.log_prob(OUTPUTS, y + SHIFT[:, None]),
      PLAIN.log_prob(LOGITS, y),
      rtol=1e-5,
  )


def test_a_shift_moves_the_mean_alone():
  mean, variance = SHIFTED.moments(OUTPUTS)
  plain, same = PLAIN.moments(LOGITS)
  np.testing.assert_allclose(mean, plain + SHIFT[:, None], rtol=1e-5)
  np.testing.assert_allclose(variance, same)


@pytest.mark.parametrize(('y', 'end'), [(-3.0, -1.0), (9.0, 2.0)])
def test_what_lies_outside_is_taken_to_the_last_atom(y, end):
  """A shift may take any target there: it is no reason for a loss of NaN."""
  outputs = OUTPUTS.at[:, -1].set(0.0)
  found = SHIFTED.log_prob(outputs, jnp.full((5, 1), y))
  expected = PLAIN.log_prob(LOGITS, jnp.full((5, 1), end))
  np.testing.assert_allclose(found, expected)
  bad, _ = SHIFTED.check_targets(np.full((5, 1), y))
  assert not bad.any()
