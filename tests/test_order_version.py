"""A run goes on with the order of examples that it began with."""

import json

import numpy as np
import pytest

from flax_enn import switches
from flax_enn.data.fake import Fake
from flax_enn.data.row_generators import RowGenerators
from flax_enn.training import train_and_evaluate
from tests import tiny
from tests.data.reading import train_batches


def test_another_version_is_refused(tmp_path):
  switches.write(tmp_path)
  path = tmp_path / 'switches.json'
  kept = json.loads(path.read_text())
  path.write_text(json.dumps({**kept, 'order_of_examples': 7}))
  with pytest.raises(ValueError) as caught:
    train_and_evaluate(tiny.epinet(), tmp_path)
  said = str(caught.value)
  assert str(path) in said and 'version 7' in said and '--workdir' in said
  assert not (tmp_path / 'checkpoints').exists()
  # Versions are counted since the first, which older runs have.
  del kept['order_of_examples']
  path.write_text(json.dumps(kept))
  switches.check(tmp_path)


def test_the_order_of_this_version():
  """Where this fails, `ORDER_VERSION` is to be counted up with the numbers."""
  batches = train_batches(Fake((3,), n_train=48), 8, seed=5, start=5)
  assert switches.ORDER_VERSION == 1
  assert next(batches).id.tolist() == [1, 22, 46, 6, 0, 11, 4, 43]
  rng = RowGenerators(5, np.arange(4))
  assert rng.integers(0, 1000).tolist() == [864, 504, 14, 642]
