"""A model needs no data: from a config, or from the folder of a run."""

import contextlib
import dataclasses
import json

from etils import epath
from flax import linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from flax_enn import build, kinds, run_folder
from flax_enn.checkpoints import Checkpointer
from flax_enn.data import (
    ArraySource,
    Dataset,
    DataSpec,
    Identity,
    Pixels,
    Standardize,
)
from flax_enn.data.imagenet2012 import CentralCrop
from flax_enn.likelihoods import Categorical, Gaussian, TwoHot
from flax_enn.model import Model
from flax_enn.training import train_and_evaluate
from tests import tiny
from tests.data import fake_tfds
from tests.test_run import CONFIGS, get_config


@pytest.mark.parametrize('name', CONFIGS)
def test_from_a_config_alone(name, tmp_path):
  """Its data are nowhere; where they say the shapes, that is said."""
  config = get_config(name)
  for field in ('data_dir', 'path'):
    if field in config.dataset:
      config.dataset[field] = str(tmp_path / 'nowhere')
  of_files = ('arrays', 'cola', 'features', 'jpeg_pack', 'tfds_images')
  if config.dataset.name in of_files:
    with pytest.raises(ValueError, match=r'Model\.from_run\(workdir\)') as e:
      Model.from_config(config)
    assert f"config.dataset.name is '{config.dataset.name}'" in str(e.value)
    return
  model = Model.from_config(config)
  index = model.network.indexer.sample(jax.random.key(0), 1)[0]
  x, key = model.dummy_input(2), jax.random.key(1)
  rngs = {'params': key, 'frozen': key}
  out, _ = jax.eval_shape(model.network.init_with_output, rngs, x, index)
  assert out.train.shape == (2, model.likelihood.outputs)
  assert not list(tmp_path.iterdir())


def test_what_the_config_says_of_the_likelihood():
  config = tiny.epinet(
      dataset={'name': 'regression'},
      likelihood={'name': 'two_hot', 'low': -2.0, 'high': 2.0, 'atoms': 7},
  )
  model = Model.from_config(config)
  assert model.likelihood == TwoHot(-2.0, 2.0, 7)
  assert model.network.base.classes == 7
  config = tiny.epinet(**{'eval.temperature': 2.0})
  assert Model.from_config(config).likelihood == Categorical(2, 2.0)


@dataclasses.dataclass(frozen=True)
class Halved:
  """A preprocessing of the user's own."""

  parts: tuple[str, ...]
  by: float = 2.0

  def __call__(self, x):
    return {name: x[name] / self.by for name in self.parts}


# Numbers that have no short decimal form.
ODD = tuple(np.random.RandomState(0).rand(3).astype(np.float32).tolist())
LEAF = jax.ShapeDtypeStruct((4, 5, 3), np.float32)
SPECS = [
    DataSpec(LEAF, Categorical(3)),
    DataSpec(LEAF, Categorical(3), Identity(), ('a', 'b', 'ü')),
    DataSpec(LEAF, Gaussian(2, scale=None), Standardize(ODD, (1 / 3,) * 3)),
    DataSpec(LEAF, Gaussian(2, scale=ODD[0]), Pixels((4, 5, 3))),
    DataSpec(LEAF, TwoHot(0.1, 0.7, 9), Pixels((4, 5, 3), True, ODD, ODD)),
    DataSpec(LEAF, Categorical(3), CentralCrop(5, 1)),
    DataSpec(
        {
            'tokens': jax.ShapeDtypeStruct((16,), np.int32),
            'mask': jax.ShapeDtypeStruct((16,), np.bool_),
            'pair': (LEAF, jax.ShapeDtypeStruct((), jnp.bfloat16)),
        },
        Categorical(2),
        Halved(('tokens', 'mask')),
    ),
]


@pytest.mark.parametrize('spec', SPECS)
def test_what_data_taught_is_kept_bit_for_bit(spec, tmp_path):
  config = tiny.epinet()
  content = Model.from_config(config, spec).describe()
  run_folder.write_json(epath.Path(tmp_path) / 'model.json', content)
  (tmp_path / 'config.json').write_text(config.to_json())
  found = Model.from_run(tmp_path).spec
  assert found == spec and hash(found.preprocess) == hash(spec.preprocess)
  for field in ('likelihood', 'preprocess'):
    assert repr(getattr(found, field)) == repr(getattr(spec, field))


def test_preprocessing_is_that_of_a_file(tmp_path):
  rng = np.random.RandomState(0)
  images = rng.randint(256, size=(5, 4, 5, 3), dtype=np.uint8)
  png = fake_tfds.encoded(images[0], 'PNG').getvalue()
  before = Pixels((4, 5, 3), mean=ODD, std=ODD)
  text = json.dumps(build.describe(before))
  after = build.build(json.loads(text), kinds.PREPROCESS, 'model.json')
  for x in (*images, png):
    np.testing.assert_array_equal(after(x), before(x))
  np.testing.assert_array_equal(after(png), before(images[0]))


def restored(config, workdir):
  """The trainer and the variables of the last checkpoint of a run."""
  trainer = tiny.built(config)
  with (
      trainer.use_mesh(),
      contextlib.closing(Checkpointer(workdir)) as checkpointer,
  ):
    state, _ = checkpointer.restore_latest(trainer.abstract_state)
  return trainer, jax.device_get(state.variables)


@pytest.mark.slow
def test_a_run_is_complete_without_its_data(tmp_path):
  rng, path = np.random.RandomState(0), tmp_path / 'data.npz'
  images = rng.randint(256, size=(40, 4, 4), dtype=np.uint8)
  labels = np.arange(40) % 3
  np.savez(
      path,
      x_train=images[:32], y_train=labels[:32],
      x_test=images[32:], y_test=labels[32:],
  )  # fmt: skip
  dataset = {'name': 'arrays', 'path': str(path), 'standardize': True}
  config = tiny.ensemble(
      dataset=dataset, num_steps=2, **{'eval.temperature': 3.0}
  )
  workdir = tmp_path / 'run'
  train_and_evaluate(config, workdir)
  trainer, variables = restored(config, workdir)
  stored = trainer.dataset.load('test').x
  path.unlink()
  model = Model.from_run(workdir)
  assert model == trainer.model
  assert model.likelihood == Categorical(3, temperature=3.0)
  x = np.stack([model.preprocess(image) for image in stored])
  expected = np.stack([trainer.model.preprocess(image) for image in stored])
  np.testing.assert_array_equal(x, expected)
  assert abs(x.mean()) < 0.5 < x.std() < 2
  index = model.network.indexer.sample(jax.random.key(0), 1)[0]
  logits, again = (
      jax.jit(m.apply)(variables, x, index).preds
      for m in (model, trainer.model)
  )
  np.testing.assert_array_equal(logits, again)


def test_a_folder_that_holds_no_run(tmp_path):
  with pytest.raises(ValueError, match=r'config\.json does not exist: .* is'):
    Model.from_run(tmp_path)
  (tmp_path / 'config.json').write_text(tiny.epinet().to_json())
  with pytest.raises(ValueError, match=r'model\.json does not exist: .*older'):
    Model.from_run(tmp_path)
  (tmp_path / 'model.json').write_text('{"input_spec": ')
  with pytest.raises(ValueError, match=r'model\.json cannot be read as JSON'):
    Model.from_run(tmp_path)


@dataclasses.dataclass(frozen=True)
class Texts(Dataset):
  """Tokens, some of them masked; the label is whether a 0 is among the rest."""

  length: int = 6

  @property
  def input_spec(self):
    return {
        'tokens': jax.ShapeDtypeStruct((self.length,), np.int32),
        'mask': jax.ShapeDtypeStruct((self.length,), np.bool_),
    }

  @property
  def likelihood(self):
    return Categorical(2)

  def load(self, split):
    rng, n = np.random.RandomState(split == 'train'), 64
    if split == 'test':
      n = 20  # not a multiple of the batch
    tokens = rng.randint(8, size=(n, self.length)).astype(np.int32)
    mask = rng.rand(n, self.length) < 0.7
    y = ((tokens == 0) & mask).any(1).astype(np.int32)
    weight = np.where(np.arange(n) % 2, 0.5, 1.5)
    return ArraySource({'tokens': tokens, 'mask': mask}, y, weight)


class Bag(nn.Module):
  """A backbone: the mean embedding of the tokens that are not masked."""

  classes: int

  @nn.compact
  def __call__(self, x, *, train=False):
    mask = x['mask'][..., None].astype(jnp.float32)
    embedded = nn.Embed(8, 4)(x['tokens']) * mask
    mean = embedded.sum(1) / jnp.maximum(mask.sum(1), 1)
    return nn.Dense(self.classes)(mean), {'mean': mean}


@pytest.mark.slow
def test_14_tokens_and_masks_from_data_to_results(tmp_path):
  config = tiny.epinet(
      dataset={'name': f'{__name__}:Texts'},
      **{
          'network.base': {'name': f'{__name__}:Bag'},
          'network.features': ('mean',),
          'mesh.data': 4,
          'mesh.index': 2,
      },
  )
  results = train_and_evaluate(config, tmp_path)
  trainer, variables = restored(config, tmp_path)
  raw, model = trainer.dataset.load('test'), Model.from_run(tmp_path)
  assert model.spec == trainer.model.spec
  # The padding of the last batch is of no influence.
  index = model.network.indexer.sample(jax.random.key(0), 1)[0]
  base = jax.nn.softmax(model.apply(variables, raw.x, index).base)
  nll = -np.log(base[np.arange(20), raw.y]).mean()
  assert results['test']['base']['nll'] == pytest.approx(nll, rel=1e-5)


def test_config_dicts_are_taken_too(tmp_path):
  """As a run of another process is read: lists instead of tuples."""
  config = tiny.epinet()
  again = ml_collections.ConfigDict(json.loads(config.to_json()))
  assert Model.from_config(again) == Model.from_config(config)
