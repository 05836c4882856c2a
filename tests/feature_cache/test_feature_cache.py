"""Features of a frozen base: written, checked, read, and trained on."""

import functools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from flax_enn import build, kinds, sharding
from flax_enn.data import Loader, feature_shards
from flax_enn.data import features as data_features
from flax_enn.data.features import Features
from flax_enn.data.preprocess import IDENTITY
from flax_enn.data_section import create_dataset
from flax_enn.evaluation import create_evaluations
from flax_enn.feature_cache import Base, extract, extraction, store
from flax_enn.inference import Predictor
from flax_enn.likelihoods import Categorical
from flax_enn.model import Model, init_variables, run_keys, run_split
from flax_enn.networks.backbones.mlp import MLP
from flax_enn.networks.backbones.stored_features import StoredFeatures
from flax_enn.networks.epinet import Epinet
from flax_enn.networks.frozen import Frozen
from flax_enn.sampling import over_index
from flax_enn.training import load_config, on_features, train_and_evaluate
from tests import tiny
from tests.data.reading import everything, train_batches

NAMES = ('hidden_0',)
close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)


def config_of(**dataset):
  """An epinet on a frozen base, of which nothing is trained here."""
  config = tiny.epinet()
  config.dataset = {
      'name': 'fake', 'shape': (5,), 'classes': 3, 'n_train': 40, 'n_test': 24,
      **dataset,
  }  # fmt: skip
  config.batch_size = 8
  config.network.base.frozen = True
  config.network.base.hiddens = (6,)
  config.network.features = NAMES
  return config


@functools.cache
def base_of(seed=0):
  model = Model.from_config(config_of())
  variables = init_variables(model.network, run_keys(seed), model.dummy_input())
  own = jax.device_get(variables['frozen']['base'])
  return Base(model, model.network.base.net, own, NAMES)


@pytest.fixture(scope='module')
def written(tmp_path_factory):
  """A folder of features in shards of 16; tests copy it to change it."""
  folder = tmp_path_factory.mktemp('features') / 'all'
  extract(base_of(), config_of(), folder, shard_size=16)
  return folder


@pytest.fixture
def folder(written, tmp_path):
  return shutil.copytree(written, tmp_path / 'copy')


def flip(path, at=-3):
  content = bytearray(path.read_bytes())
  content[at] ^= 1
  path.write_bytes(content)


def edit(path, old, new):
  text = path.read_text()
  assert old in text
  path.write_text(text.replace(old, new))


def contents(folder):
  return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_features_are_those_of_the_base(written):
  images = create_dataset(config_of().dataset)
  for split, shards in (('train', 3), ('test', 2)):
    x, y, ids = everything(images, split)
    expected = base_of()(x)
    dataset = Features(str(written))
    source = Loader().source(dataset, split)
    found = [source[i] for i in range(len(source))]
    assert len(feature_shards.names_of(dataset.manifest, split)) == shards
    for name in ('logits', *NAMES):
      close(np.stack([e['x'][name] for e in found]), expected[name])
    np.testing.assert_array_equal([e['y'] for e in found], y)
    np.testing.assert_array_equal([e['id'] for e in found], ids)
  arrays = load_file(written / 'train-00000.safetensors')
  assert {k: v.shape for k, v in arrays.items()} == {
      'x/logits': (16, 3), 'x/hidden_0': (16, 6), 'y': (16,), 'weight': (16,),
  }  # fmt: skip


def test_an_epinet_has_the_same_outputs_on_features(written):
  """From inputs through the frozen base, and from what was stored."""
  x, *_ = everything(create_dataset(config_of().dataset), 'test')
  stored = Features(str(written)).load('test').x
  net = Epinet(Frozen(MLP((6,), 3)), NAMES, index_dim=4, hiddens=(5,))
  indices = net.indexer.sample(jax.random.key(0), 5)
  keys = {'params': jax.random.key(1), 'frozen': jax.random.key(2)}
  variables = net.init(keys, x, indices[0])
  of_base = {**variables['frozen'], 'base': base_of().variables}
  on_inputs = {**variables, 'frozen': of_base}
  without = {k: v for k, v in of_base.items() if k != 'base'}
  on_stored = {**variables, 'frozen': without}
  other = net.clone(base=StoredFeatures())
  found, expected = (
      over_index(lambda z, n=n, v=v, x=x: n.apply(v, x, z), indices)
      for n, v, x in ((other, on_stored, stored), (net, on_inputs, x))
  )
  for a, b in ((found.preds, expected.preds), (found.base, expected.base)):
    close(a, b)
  assert float(jnp.std(found.preds, axis=0).mean()) > 0.1


def test_holdout_keeps_out_the_same_examples(written):
  images = create_dataset(config_of().dataset)
  for split in ('train', 'validation'):
    x, y, ids = everything(images, split, holdout=0.2)
    source = Loader(holdout=0.2).source(Features(str(written)), split)
    logits = np.stack([source[i]['x']['logits'] for i in range(len(source))])
    close(logits, base_of()(x)['logits'])
    assert len(y) == len(source) and [*ids] == [*range(len(ids))]


def test_mapped_shards_are_read_like_arrays(written, monkeypatch):
  dataset = Features(str(written))
  whole = next(train_batches(dataset, 8))
  monkeypatch.setattr(data_features, '_MOST_BYTES', 10)
  mapped = next(train_batches(Features(str(written)), 8))
  jax.tree.map(np.testing.assert_array_equal, mapped, whole)


def test_a_model_refuses_the_features_of_another_base(written, folder):
  manifest = feature_shards.read_manifest(folder)
  feature_shards.write_manifest(folder, {**manifest, 'id': base_of(1).id})
  learned = Features(str(written)).preprocess
  assert learned.id == base_of().id
  data_features.check_base(learned, Features(str(written)))
  data_features.check_base(IDENTITY, Features(str(folder)))
  with pytest.raises(ValueError, match='take the features of its own base'):
    data_features.check_base(learned, Features(str(folder)))
  assert Features(str(written), id=learned.id[:8]).input_spec
  with pytest.raises(ValueError, match='they are of another base'):
    Features(str(folder), id=learned.id[:8]).load('train')
  x = Features(str(written)).load('test')[0]['x']
  assert learned(x) is x
  for other in ({'logits': 0}, np.zeros(5), 'image.png'):
    with pytest.raises(ValueError, match=r'stored features of its base .*Base'):
      learned(other)


class Killed(BaseException):
  pass


def test_goes_on_where_it_was_killed(written, tmp_path, monkeypatch):
  folder, calls = tmp_path / 'features', []
  write = feature_shards.write_shard

  def die_later(path, *args, **kwargs):
    calls.append(path.name)
    if len(calls) == 3:
      path.with_name(f'{path.name}.part').write_bytes(b'half')
      raise Killed
    return write(path, *args, **kwargs)

  monkeypatch.setattr(extraction.feature_shards, 'write_shard', die_later)
  with pytest.raises(Killed):
    extract(base_of(), config_of(), folder, shard_size=16)
  with pytest.raises(ValueError, match=r'lacks 1 of the 3 shards .*goes on'):
    Features(str(folder)).load('train')
  extract(base_of(), config_of(), folder, shard_size=16)
  assert calls == [
      'train-00000.safetensors', 'train-00001.safetensors',
      *['train-00002.safetensors'] * 2,
      'test-00000.safetensors', 'test-00001.safetensors',
  ]  # fmt: skip
  assert contents(folder) == contents(written)


@pytest.mark.parametrize('at', [0, 20, 200, -3])
def test_a_flipped_bit_is_found_and_mended(folder, written, at):
  path = folder / 'train-00001.safetensors'
  flip(path, at)
  with pytest.raises(ValueError, match=r'train-00001.* is damaged: its SHA'):
    Features(str(folder)).load('train')
  Features(str(folder)).load('test')
  extract(base_of(), config_of(), folder, shard_size=16)
  assert contents(folder) == contents(written)


@pytest.mark.parametrize(
    'spoil, message',
    [
        (lambda f: (f / 'test-00000.safetensors').unlink(), 'does not exist'),
        (
            lambda f: (f / 'test-00001.safetensors').write_bytes(b''),
            'is damaged',
        ),
        (lambda f: (f / 'manifest.json').unlink(), 'no folder of features'),
        (lambda f: (f / 'manifest.json').write_text('{'), 'cannot be read'),
        (
            lambda f: (f / 'manifest.json').write_text('{"format": 2}'),
            'format is 2',
        ),
        (
            lambda f: (f / 'manifest.json').write_text('{"format": 1}'),
            'is damaged',
        ),
        (
            lambda f: edit(f / 'manifest.json', 'ples": 24', 'ples": 2'),
            'is damaged',
        ),
    ],
)
def test_what_is_not_whole(folder, spoil, message):
  spoil(folder)
  with pytest.raises(ValueError, match=message):
    Features(str(folder)).load('test')


@pytest.mark.parametrize(
    'change, message',
    [
        ({'base': lambda: base_of(1)}, r'base, id differ'),
        ({'config': lambda: config_of(seed=1)}, r'dataset, splits.test'),
        ({'config': lambda: config_of(n_train=48)}, r'dataset, splits.train'),
        ({'shard_size': lambda: 24}, r'shard_size differ'),
    ],
)
def test_features_of_something_else_are_not_mixed(written, change, message):
  before = contents(written)
  given = {'base': base_of, 'config': config_of, 'shard_size': lambda: 16}
  made = {k: fn() for k, fn in (given | change).items()}
  with pytest.raises(ValueError, match=message):
    extract(made.pop('base'), made.pop('config'), written, **made)
  assert contents(written) == before


@pytest.mark.slow
def test_a_run_refuses_the_features_of_another_base(written, tmp_path):
  other = tmp_path / 'other'
  extract(base_of(1), config_of(), other, shard_size=16)
  config = config_of()
  on_features(config, str(written))
  config.eval.tau = 2
  run = tmp_path / 'run'
  results = train_and_evaluate(config, run)
  assert {*results['test']} == {'base', 'enn'}

  with pytest.raises(ValueError, match='they are of another base'):
    config.dataset.id = base_of(1).id
    create_dataset(config.dataset).load('train')
  config.dataset.id = None
  model = Model.from_run(run)
  shifted = {'name': 'features', 'path': str(other)}
  config.evals = {'shifted': {'dataset': shifted}}
  with pytest.raises(ValueError, match='trained on those of'):
    mesh = sharding.create_mesh({'data': -1})
    rules = sharding.create_rules(config.sharding)
    create_evaluations(config, model, Features(str(written)), mesh, rules)
  config.evals = {}
  config.dataset.path = str(other)
  config.num_steps += 1
  with pytest.raises(ValueError, match='the data were others'):
    train_and_evaluate(config, run)

  # The predictor takes features, of new inputs too, and says so.
  predictor = Predictor.load(run)
  x, *_ = everything(create_dataset(config_of().dataset), 'test')
  base_of().check_fits(predictor)
  found = predictor.probs(base_of()(x))
  np.testing.assert_allclose(
      found, predictor.probs(run_split(run, 'test').examples.x), rtol=1e-4
  )
  with pytest.raises(ValueError, match='but the predictor was trained on'):
    base_of(1).check_fits(predictor)
  with pytest.raises(ValueError, match=r'takes the stored features .*Base'):
    predictor.preprocess(x[0])
  with pytest.raises(ValueError, match=r'expected \{.hidden_0'):
    predictor.probs(x)


@pytest.mark.slow
def test_base_of_a_run_and_of_a_config(tmp_path):
  config = config_of()
  config.network = {'name': 'deterministic', 'base': config.network.base}
  config.network.base.frozen = False
  config.eval.tau = 2
  train_and_evaluate(config, tmp_path / 'base')
  with pytest.raises(ValueError, match=r"some of those .*\['hidden_0', "):
    Base.from_run(tmp_path / 'base')
  of_run = Base.from_run(tmp_path / 'base', NAMES)
  config = config_of()
  with pytest.raises(ValueError, match=r'config\.init is empty'):
    Base.from_config(config, tmp_path / 'epinet')
  config.init = {'workdir': '../base', 'modules': {'base': 'base'}}
  of_config = Base.from_config(config, tmp_path / 'epinet')
  assert of_run.id == of_config.id and of_config.names == NAMES
  config.network.base.frozen = False
  with pytest.raises(ValueError, match='is not frozen'):
    Base.from_config(config, tmp_path / 'epinet')
  config.network = {'name': 'mlp_dropout', 'hiddens': (3,)}
  with pytest.raises(ValueError, match='has no backbone'):
    Base.from_config(config, tmp_path / 'epinet')


def test_features_that_something_else_has_computed(tmp_path):
  rng = np.random.default_rng(0)
  x = {'logits': rng.random((7, 3)), 'pooled': rng.random((7, 2, 2))}
  y = np.arange(7) % 3
  likelihood = Categorical(3)
  splits = {'train': (x, y), 'test': (jax.tree.map(lambda a: a[:2], x), y[:2])}
  origin = {'base': 'elsewhere', 'preprocess': 'unknown', 'dataset': 'mine'}
  store(tmp_path / 'f', splits, origin, likelihood, 'abc', shard_size=3)
  dataset = Features(str(tmp_path / 'f'))
  assert dataset.class_names == ('a', 'b', 'c')
  assert dataset.likelihood == likelihood
  batch = next(train_batches(dataset, 7))
  order = np.asarray(batch.id)
  np.testing.assert_array_equal(batch.y, y[order])
  np.testing.assert_allclose(batch.x['pooled'], x['pooled'][order], rtol=1e-6)
  assert len(dataset.load('test')) == 2
  del x['logits']
  with pytest.raises(ValueError, match="needs the base's 'logits'"):
    store(tmp_path / 'g', {'train': (x, y)}, origin, likelihood)
  assert not (tmp_path / 'g').exists()


def test_stored_features_say_what_they_take():
  with pytest.raises(ValueError, match=r'float32\[2, 3\].*change config'):
    StoredFeatures().apply({}, jnp.zeros((2, 3)))
  x = {'logits': jnp.zeros((2, 3)), 'pooled': jnp.ones((2, 4))}
  logits, features = StoredFeatures().apply({}, x)
  assert logits is x['logits'] and {*features} == {*x}


def test_likelihoods_survive_the_manifest():
  for section in (
      {'name': 'categorical', 'classes': 3, 'temperature': 2.0},
      {'name': 'gaussian', 'dim': 2, 'scale': 0.5},
      {'name': 'two_hot', 'low': -1.0, 'high': 2.0, 'atoms': 3},
      {'name': 'two_hot', 'atoms': (-1.0, 0.0, 2.0)},
  ):
    made = build.build(section, kinds.LIKELIHOOD, 'likelihood')
    found = json.loads(json.dumps(feature_shards.describe_likelihood(made)))
    assert feature_shards.parse_likelihood(found) == made.tempered(1.0)
  with pytest.raises(ValueError, match='not one of'):
    feature_shards.parse_likelihood({'class': 'Likelihood2'})


@pytest.mark.slow
def test_command(tmp_path):
  """A base, its features, and an epinet on them, from the command line."""
  base, folder = tmp_path / 'digits_base', tmp_path / 'features'
  config = load_config(f'{tiny.ROOT}/configs/digits_base.py')
  config.num_steps = 10
  train_and_evaluate(config, base)
  command = [
      '-m', 'flax_enn.features', f'--out={folder}', '--shard_size=1000',
      f'--config={tiny.ROOT}/configs/digits_epinet.py',
      f'--workdir={tmp_path}/digits_epinet',
  ]  # fmt: skip
  said = [tiny.python(*command).communicate()[0] for _ in range(2)]
  first = Features(str(folder))
  assert len(first.load('train')) == 1437 and 'test: 360 examples' in said[0]
  assert said[0].splitlines()[-1] == said[1].splitlines()[-1]
  by_run = [
      '-m', 'flax_enn.features', f'--out={tmp_path / "again"}',
      '--names=hidden_1', f'--workdir={base}', '--split=test',
  ]  # fmt: skip
  tiny.python(*by_run).communicate()
  again = Features(str(tmp_path / 'again'))
  assert again.manifest['id'] == first.manifest['id']
  jax.tree.map(close, again.load('test').x, first.load('test').x)
  wrong = tiny.python(*by_run[:3], '--names=nowhere', f'--workdir={base}')
  said, _ = wrong.communicate()
  assert wrong.returncode == 2 and 'name some of those' in said
