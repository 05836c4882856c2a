"""Steps by the call: how many one makes changes no bit."""

import jax
import numpy as np
import pytest

from flax_enn.training import stepper
from flax_enn.training.stepper import MultiStepper, SingleStepper
from tests import tiny


def bits(state):
  """The bytes of each leaf of a state."""
  data = jax.tree.map(
      lambda a: jax.random.key_data(a)
      if jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key)
      else a,
      state,
  )
  return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(data)]


def trained(trainer, calls):
  """The bits of the state after calls of at most so many steps."""
  with trainer.use_mesh():
    state, step = trainer.create_state(), 0
    steps = trainer.stepper()
    assert isinstance(steps, MultiStepper)
    for most in calls:
      stop = step + most
      while step < stop:
        state, logs, number = steps(state, stop - step)
        assert 0 < number <= stop - step
        step += number
    assert int(state.step) == step
    return bits(state), bits(logs)


# 48 of 64 examples: most batches begin in one epoch and end in the next.
@pytest.fixture(scope='module')
def trainer():
  return tiny.built(tiny.epinet(batch_size=48))


def test_how_many_steps_a_call_makes_changes_no_bit(trainer):
  singly = trained(trainer, [1] * 21)
  for calls in ([21], [3, 13, 5], [2] * 10 + [1]):
    assert trained(trainer, calls) == singly


def test_nor_does_how_long_one_may_take(trainer, monkeypatch):
  few = trained(trainer, [21])
  monkeypatch.setattr(stepper, '_LONGEST_CALL', 0)  # then each makes one step
  assert trained(trainer, [21]) == few


@pytest.mark.slow
def test_a_stepper_goes_on_from_any_step(trainer):
  with trainer.use_mesh():
    whole, half = trainer.create_state(), trainer.create_state()
    steps = trainer.stepper()
    for start in range(7):
      whole, *_ = steps(whole, 1)
      if start < 3:
        half = jax.tree.map(lambda a: a.copy(), whole)
    steps, done = trainer.stepper(start=3), 3
    while done < 7:
      half, _, number = steps(half, 7 - done)
      done += number
    assert bits(half) == bits(whole)


def test_it_is_the_step_on_the_batches_of_the_loader(trainer):
  """To rounding: XLA fuses another program in its own way."""
  with trainer.use_mesh():
    state = trainer.create_state()
    steps = SingleStepper(trainer.jit_step(), trainer.placed_batches())
    for _ in range(4):
      state, expected, number = steps(state, 4)
      assert number == 1
    steps, other, done = trainer.stepper(), trainer.create_state(), 0
    while done < 4:
      other, logs, number = steps(other, 4 - done)
      done += number
  for found, one in ((other.params, state.params), (logs, expected)):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        found,
        one,
    )


def test_convolutions_on_cpus_are_not_put_into_a_loop():
  trainer = tiny.built(tiny.ensemble())
  with trainer.use_mesh():
    assert isinstance(trainer.stepper(), SingleStepper)
