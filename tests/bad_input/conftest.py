"""The run that most bad input is tried on."""

import pytest

from flax_enn.training import train_and_evaluate
from tests import tiny
from tests.bad_input.refusal import compiled_programs


@pytest.fixture(scope='session')
def run(tmp_path_factory):
  """The workdir of a good, finished run of `tiny.epinet()`."""
  workdir = tmp_path_factory.mktemp('run')
  with compiled_programs() as found:
    train_and_evaluate(tiny.epinet(), workdir)
  assert found, 'the listener hears nothing'
  return workdir
