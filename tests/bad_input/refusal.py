"""What is wrong is said at once, with the field to change; nothing is lost."""

import contextlib

import jax
import pytest

from flax_enn.training import train_and_evaluate
from tests import tiny

XENT, L2 = {'loss': {'name': 'xent'}}, {'loss': {'name': 'l2'}}
REGRESSION = {
    'dataset': {'name': 'regression', 'n_train': 64},
    'objectives.data': L2,
}


@contextlib.contextmanager
def compiled_programs():
  """A list that grows with each program that XLA compiles."""
  found = []

  def listen(event, duration, **_):
    if event == '/jax/core/compile/backend_compile_duration':
      found.append(duration)

  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    yield found
  finally:
    jax.monitoring.clear_event_listeners()


@contextlib.contextmanager
def no_compile():
  """Fails if XLA compiles anything, be it `jnp.zeros`."""
  jax.clear_caches()
  with compiled_programs() as found:
    yield
  assert not found


def check_refused(config, workdir, says):
  """A ValueError that says it all, before any compile; no other trace."""
  before = tiny.files(workdir)
  with no_compile(), pytest.raises(ValueError) as caught:
    train_and_evaluate(config, workdir)
  message = str(caught.value)
  assert [part for part in says if part not in message] == [], message
  assert tiny.files(workdir) == before
  assert workdir.exists() == bool(before)
