"""Files of DeepMind's catalogue become the folders of runs."""

import functools
import hashlib
import importlib
import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from flax_enn.checkpoints import (
    catalogue,
    catalogue_import,
    enn_figures,
    haiku_resnet,
)
from flax_enn.inference import Predictor, export_bundle
from flax_enn.sampling import over_index
from flax_enn.training import train_and_evaluate
from tests import commands, slow, tiny
from tests.checkpoints import catalogue_files as files
from tests.golden.cases import assert_close

DEEPMIND = os.environ.get('FLAX_ENN_DEEPMIND')


def import_entry(name, where, out, **options):
  return catalogue_import.import_entry(
      catalogue.entry(name), where, out, **options
  )


def outputs(folder, x, indices):
  """What the network in a folder computes at indices `[N, D]`."""
  model, variables = loaded(folder)

  @jax.jit
  def compute(variables, x, indices):
    return over_index(lambda z: model.apply(variables, x, z), indices)

  return compute(variables, jnp.asarray(x), jnp.asarray(indices))


@functools.cache
def loaded(folder):
  predictor = Predictor.load(folder, num_indices=2)
  return predictor.model, predictor.variables


@pytest.fixture(scope='module')
def recorded():
  """What enn computes from the files that are beside it."""
  if not DEEPMIND:
    pytest.skip('FLAX_ENN_DEEPMIND names no folder with files in its format')

  def load(name):
    with np.load(Path(DEEPMIND) / name) as file:
      return dict(file)

  return load


def test_base_of_cifar(recorded, tmp_path):
  expected = recorded('expected_cifar10.npz')
  import_entry('resnet18_cifar10', DEEPMIND, tmp_path / 'run')
  found = outputs(tmp_path / 'run', expected['in::x'], np.ones((1, 1)))
  assert_close(jax.nn.log_softmax(found.preds[0]), expected['base::logits'])


@pytest.mark.parametrize(
    'kind, scale',
    [
        ('published', None),
        slow('with_conv_prior', 0.5),
    ],
)
def test_epinet_of_cifar(recorded, tmp_path, kind, scale):
  expected = recorded('expected_cifar10.npz')
  import_entry(
      'resnet18_epinet_cifar10',
      DEEPMIND,
      tmp_path / 'run',
      conv_prior_scale=scale,
  )
  x, indices = expected['in::x'], expected[f'{kind}::legacy::indices']
  found = outputs(tmp_path / 'run', x, indices)
  assert_close(found.preds, expected[f'{kind}::legacy::logits'])
  assert_close(jax.nn.log_softmax(found.base[0]), expected['base::logits'])


def test_conv_prior_of_cifar(recorded):
  expected = recorded('expected_cifar10.npz')
  x, z = expected['in::x'], expected['published::legacy::indices']
  prior = drawn_prior('resnet18_epinet_cifar10', x, z)
  assert_close(prior, expected['published::legacy::prior'])


def test_conv_prior_of_imagenet(recorded):
  expected = recorded('expected_imagenet_conv_prior.npz')
  draws = np.random.RandomState(int(expected['in::x_seed']))
  x = np.float32(draws.standard_normal((2, 224, 224, 3)))
  for kind, legacy in (('legacy', True), ('partitionable', False)):
    found = drawn_prior(
        'resnet50_epinet_imagenet', x, expected['in::z'], legacy=legacy
    )
    assert_close(found, expected[kind])


def drawn_prior(name, x, indices, **options):
  entry = catalogue.entry(name)
  of = entry.classes, entry.index_dim
  params = haiku_resnet.draw_conv_prior(entry.conv_prior, x, *of, **options)
  apply = jax.jit(entry.conv_prior.apply, static_argnums=(2, 3))
  basis = apply({'params': params}, jnp.asarray(x), *of)
  return jnp.einsum('bcd,nd->nbc', basis, indices)


def test_the_catalogue():
  assert len(catalogue.ENTRIES) == 28
  assert catalogue.entry('resnet110_cifar100.npzs').depth == 110
  with pytest.raises(ValueError, match=r"did you mean 'resnet50_imagenet'\?"):
    catalogue.entry('resnet_50_imagenet')


@pytest.mark.parametrize('name', catalogue.ENTRIES)
def test_configs_are_those_that_train(name):
  """The network, its scales and temperatures; but for our half precision."""
  entry = catalogue.entry(name)
  kind = 'epinet' if entry.epinet else 'resnet'
  module = importlib.import_module(f'configs.{entry.data}_{kind}')
  expected = module.get_config(str(entry.depth))
  found = entry.config(entry.temperatures(), entry.conv_prior_scale)
  for config in (expected, found):
    for field in ('dtype', 'bn_batch', 'bn_momentum', 'remat'):
      if field in config.network.base:
        del config.network.base[field]
  assert found.network == expected.network
  assert found.dataset.name == expected.dataset.name
  for field in ('temperature', 'base_temperature', 'num_indices'):
    assert found.eval[field] == expected.eval[field]


def test_temperatures_that_enn_has_dropped():
  entry = catalogue.entry('resnet18_epinet_cifar10')
  dropped = entry.temperatures('dropped')
  config = entry.config(dropped, 0.0)
  assert config.eval.temperature == 0.5
  assert config.eval.base_temperature == 1.1
  assert config.network.base_scale == 1 / 1.1
  assert '11eb695a' in dropped.source
  base = entry.base.config(dropped, 0.0).eval
  assert base.temperature == base.base_temperature == 1.1
  of_100 = catalogue.entry('resnet18_epinet_cifar100').temperatures('dropped')
  assert of_100[:2] == (1.0, 0.5)
  with pytest.raises(ValueError, match=r"there are \['enn'\]"):
    catalogue.entry('resnet50_imagenet').temperatures('dropped')


@pytest.fixture(scope='module')
def downloads(tmp_path_factory):
  """Made-up files: a base and its epinet."""
  folder = tmp_path_factory.mktemp('downloads')
  trees = {
      'resnet18_cifar100': files.base(18, 100),
      'resnet18_epinet_cifar100': files.epinet(64, 100, 20),
  }
  for name, tree in trees.items():
    (folder / f'{name}.npzs').write_bytes(files.dump(tree))
  return folder


@pytest.fixture(scope='module')
def epinet(downloads, tmp_path_factory):
  """The epinet as a run, and its card."""
  out = tmp_path_factory.mktemp('imports') / 'epinet'
  return out, import_entry('resnet18_epinet_cifar100', downloads, out)


def test_the_card(epinet, downloads):
  out, card = epinet
  assert json.loads((out / 'import.json').read_text()) == card
  assert [of['name'] for of in card['files']] == [
      'resnet18_cifar100.npzs', 'resnet18_epinet_cifar100.npzs',
  ]  # fmt: skip
  readme = (out / 'README.md').read_text()
  for of in card['files']:
    content = (downloads / of['name']).read_bytes()
    assert of['sha256'] == hashlib.sha256(content).hexdigest()
    assert of['sha256'] in readme
  assert card['conv_prior'] == {
      'scale': 0.5, 'seed': 23, 'jax_threefry_partitionable': False,
  }  # fmt: skip
  assert 'jax_threefry_partitionable=False' in readme
  assert not out.with_name('epinet.part').exists()


def test_epinet_of_made_up_files(epinet, downloads):
  """As enn computes it, layer by layer, in numpy."""
  out, _ = epinet
  rng = np.random.default_rng(3)
  x = rng.standard_normal((3, 32, 32, 3), np.float32)
  z = rng.standard_normal((2, 20), np.float32)
  found = outputs(out, x, z)
  model, variables = loaded(out)
  params = files.epinet(64, 100, 20)['params']
  net = model.network.network.base.net
  logits, features = jax.jit(net.apply)(variables['frozen']['base'], x)
  phi = np.asarray(features['pooled'])
  last = files.base(18, 100)['params']['res_net/~/final_fc']
  assert_close(logits, phi @ last['w'][0] + last['b'][0])

  def head(name, z):
    first, second = (params[f'{name}/~/mlp/~/linear_{i}'] for i in (0, 1))
    h = np.concatenate([np.tile(z, (3, 1)), phi], -1) @ first['w'] + first['b']
    h = np.maximum(h, 0) @ second['w'] + second['b']
    return h.reshape(3, 100, 20) @ z

  conv = drawn_prior('resnet18_epinet_cifar100', x, z)
  for n in range(2):
    assert_close(found.train[n], logits + head('train_epinet', z[n]))
    prior = 0.5 * head('prior_epinet', z[n]) + 0.5 * conv[n]
    assert_close(found.prior[n], prior)


def test_the_draw_is_that_of_then_whatever_jax_is_set_to():
  entry = catalogue.entry('resnet18_epinet_cifar100')
  x = np.zeros((1, 32, 32, 3), np.float32)
  drawn = []
  for options in (
      {'jax_threefry_partitionable': True},
      {'jax_threefry_partitionable': False},
      {'jax_default_prng_impl': 'rbg'},
      {'jax_enable_x64': True},
  ):
    ((option, value),) = options.items()
    before = getattr(jax.config, option)
    jax.config.update(option, value)
    try:
      of = haiku_resnet.draw_conv_prior(entry.conv_prior, x, 7, 3)
      drawn.append(jax.tree.map(np.asarray, of))
    finally:
      jax.config.update(option, before)
  for of in drawn[1:]:
    jax.tree.map(np.testing.assert_array_equal, drawn[0], of)
    assert all(v.dtype == np.float32 for v in of.values())


def test_the_prior_is_stored(epinet):
  """Whatever JAX is set to when it is loaded."""
  with jax.threefry_partitionable(False):
    legacy = Predictor.load(epinet[0], num_indices=2).variables
  _, today = loaded(epinet[0])
  jax.tree.map(np.testing.assert_array_equal, legacy, today)


@pytest.mark.slow
def test_warm_start_and_evaluation(epinet, downloads, tmp_path):
  """Imports are runs: one is trained from, and evaluated."""
  from absl import flags
  from absl.testing import flagsaver

  from flax_enn import evaluate

  rng = np.random.default_rng(0)
  path = tmp_path / 'data.npz'
  x = rng.standard_normal((16, 32, 32, 3)).astype(np.float32)
  y = np.arange(16) % 2
  np.savez(path, x_train=x, y_train=y, x_test=x, y_test=y)
  data = {'name': 'arrays', 'path': str(path), 'num_classes': 100}
  config = tiny.epinet(num_steps=1, batch_size=16)
  config.dataset = data
  of = json.loads((epinet[0] / 'config.json').read_text())
  config.network = of['network']
  config.init = {
      'workdir': str(epinet[0]),
      'step': 'latest',
      'modules': {n: n for n in ('base', 'head', 'prior', 'prior_conv')},
  }
  config.checkpoint.every = 0
  config.optimizer.learning_rate = 0.0
  config.eval.tau = 10
  trained = train_and_evaluate(config, tmp_path / 'trained')
  if not flags.FLAGS.is_parsed():
    flags.FLAGS(['evaluate'])
  with flagsaver.flagsaver(
      workdir=str(epinet[0]), out=str(tmp_path / 'out'), dataset=str(data),
      num_indices=8, seed=None, step='latest',
  ):  # fmt: skip
    evaluate.run([])
  found = json.loads((tmp_path / 'out' / 'results.json').read_text())['test']
  for who in ('base', 'enn'):
    assert found[who] == pytest.approx(trained['test'][who], rel=1e-4)


def test_an_import_is_not_trained_on(epinet):
  """Neither with its own config nor with another one."""
  before = tiny.files(epinet[0])
  own = ml_collections.ConfigDict(
      json.loads((epinet[0] / 'config.json').read_text())
  )
  for config in (own, tiny.epinet()):
    with pytest.raises(ValueError, match=r'is an import.*config\.init = \{'):
      train_and_evaluate(config, epinet[0])
  assert tiny.files(epinet[0]) == before


@pytest.mark.slow
def test_a_bundle_says_where_it_is_from(epinet, tmp_path):
  for source, out in ((epinet[0], 'a'), (tmp_path / 'a', 'b')):
    card = export_bundle(
        source, tmp_path / out, num_indices=2, platforms=['cpu']
    )
    assert card['imported'] == epinet[1]


def changed(name, collection, module, leaf):
  """A change of one array of a file."""

  def change(downloads, where):
    tree = files.base(18, 100)
    if name == 'extra':
      tree[collection][module][leaf] = np.zeros(3, np.float32)
    elif name == 'missing':
      del tree[collection][module][leaf]
    elif name == 'transposed':
      tree[collection][module][leaf] = tree[collection][module][leaf].T
    elif name == 'double':
      tree[collection][module][leaf] = tree[collection][module][leaf] * 1.0
      values = tree[collection][module][leaf]
      tree[collection][module][leaf] = values.astype(np.float64)
    elif name == 'nan':
      tree[collection][module][leaf][..., 0] = np.nan
    (where / 'resnet18_cifar100.npzs').write_bytes(files.dump(tree))

  return change


def cut_off(downloads, where):
  path = where / 'resnet18_epinet_cifar100.npzs'
  path.write_bytes(path.read_bytes()[:-1000])


def of_another(downloads, where):
  tree = files.dump(files.epinet(64, 10, 20))
  (where / 'resnet18_epinet_cifar100.npzs').write_bytes(tree)


def without_base(downloads, where):
  (where / 'resnet18_cifar100.npzs').unlink()


def without_state(downloads, where):
  tree = files.base(18, 100)
  del tree['state']
  (where / 'resnet18_cifar100.npzs').write_bytes(files.dump(tree))


def flat(downloads, where):
  tree = {'params': {'w': np.zeros(3)}, 'state': {}}
  (where / 'resnet18_cifar100.npzs').write_bytes(files.dump(tree))


def malicious(downloads, where):
  tree = files.base(18, 100)
  tree['params']['res_net/~/final_fc']['b'] = files.Call(
      os.system, f'touch {where / "ran"}'
  )
  (where / 'resnet18_cifar100.npzs').write_bytes(files.dump(tree))


def no_pickle(downloads, where):
  np.savez(where / 'a.npz', w=np.zeros(3))
  (where / 'a.npz').rename(where / 'resnet18_cifar100.npzs')


FC, NORM = 'res_net/~/final_fc', 'res_net/~/initial_batchnorm'
BAD = {
    'missing': (
        changed('missing', 'params', FC, 'b'),
        r'params/res_net/~/final_fc/b: found nothing, expected float32\[1, 100',
    ),
    'missing state': (
        changed('missing', 'state', f'{NORM}/~/mean_ema', 'average'),
        r'mean_ema/average: found nothing',
    ),
    'extra': (
        changed('extra', 'params', FC, 'c'),
        r'final_fc/c: found float32\[3\], expected nothing',
    ),
    'misshapen': (
        changed('transposed', 'params', FC, 'w'),
        r'final_fc/w: found float32\[100, 64, 1\], expected float32\[1, 64, 10',
    ),
    'misshapen norm': (
        changed('transposed', 'params', NORM, 'scale'),
        r'scale: found float32\[16, 1, 1, 1, 1\]',
    ),
    'double': (changed('double', 'params', FC, 'w'), r'w: found float64'),
    'not finite': (changed('nan', 'params', FC, 'w'), r'are not finite:\n .*w'),
    'cut off': (cut_off, r'epinet_cifar100.npzs is no file.*cut off'),
    'of another entry': (of_another, r'linear_1/w: found float32\[50, 200\]'),
    'without base': (without_base, r'resnet18_cifar100.npzs does not exist'),
    'without state': (without_state, r"holds \['params'\], expected"),
    'flat': (flat, r'params/w is an array, not a module'),
    'malicious': (malicious, r'posix.system.*Nothing was run'),
    'no pickle': (no_pickle, r"is no pickle: it begins with b'PK"),
}


@pytest.mark.parametrize('case', BAD)
def test_nothing_is_left_of_bad_files(case, downloads, tmp_path):
  where, out = tmp_path / 'files', tmp_path / 'imports' / 'out'
  where.mkdir()
  for path in downloads.iterdir():
    (where / path.name).write_bytes(path.read_bytes())
  change, message = BAD[case]
  change(downloads, where)
  before = sorted(where.iterdir())
  with pytest.raises(ValueError, match=message):
    import_entry('resnet18_epinet_cifar100', where, out)
  assert sorted(where.iterdir()) == before and not (where / 'ran').exists()
  assert not (tmp_path / 'imports').exists()


def test_nothing_is_left_of_a_failed_save(downloads, tmp_path, monkeypatch):
  def full(model, variables, folder):
    (folder / 'half').write_text('')
    raise OSError('disk full')

  monkeypatch.setattr(catalogue_import, '_save', full)
  with pytest.raises(OSError, match='disk full'):
    import_entry('resnet18_epinet_cifar100', downloads, tmp_path / 'out')
  assert not list(tmp_path.iterdir())


def test_options_that_do_not_fit(downloads, tmp_path):
  with pytest.raises(ValueError, match='a base, which has no conv prior'):
    import_entry(
        'resnet18_cifar100', downloads, tmp_path / 'out', conv_prior_scale=1.0
    )
  (tmp_path / 'full').mkdir()
  (tmp_path / 'full' / 'file').write_text('')
  with pytest.raises(ValueError, match='is not an empty folder'):
    import_entry('resnet18_cifar100', downloads, tmp_path / 'full')


def batch(tmp_path, n=9):
  """A file like enn's processed_batch.npzs."""
  rng = np.random.default_rng(5)
  found = {
      'images': rng.standard_normal((n, 32, 32, 3)).astype(np.float32),
      'labels': rng.integers(100, size=n),
  }
  path = tmp_path / 'batch.npzs'
  path.write_bytes(files.dump(found))
  return path, found


@pytest.mark.slow
def test_scores_beside_those_of_enn(epinet, tmp_path):
  """By the formulas, from logits at the indices that enn draws."""
  path, found = batch(tmp_path)
  rows = enn_figures.compare(epinet[0], path, num_indices=7)
  with jax.threefry_partitionable(False):
    keys = jax.random.split(jax.random.PRNGKey(0), 7)
    z = np.stack([jax.random.normal(key, (20,)) for key in keys])
    y = found['labels']
    seed = int(np.sum(y * np.arange(9) * y.max() * 10, dtype=np.int32))
    keys = jax.random.split(jax.random.PRNGKey(seed), 4)
    draws = [np.asarray(jax.random.randint(k, (10,), 0, 2)) for k in keys]
  out = outputs(epinet[0], found['images'], z)
  for name, logits in {
      'base, logits / 1.0': np.asarray(out.base)[:1],
      'epinet': np.asarray(out.preds),
  }.items():
    probs = np.exp(np.float64(jax.nn.log_softmax(logits)))
    of_label = probs[:, np.arange(9), y]
    pairs = [of_label[:, 2 * j : 2 * j + 2][:, d] for j, d in enumerate(draws)]
    joint = -np.mean([np.log(p.prod(-1).mean()) for p in pairs])
    expected = {
        'accuracy': np.mean(probs.mean(0).argmax(-1) == y),
        'nll': -np.mean(np.log(of_label.mean(0))),
        'joint_nll': joint,
    }
    assert rows[name] == pytest.approx(expected, rel=1e-4)


def test_agreement_with_figures():
  figures = enn_figures.FIGURES['resnet50_epinet_imagenet']
  assert figures['epinet, logits / 0.7']['joint_nll'] == 4.1280
  rows = {k: dict(v) for k, v in figures.items()}
  rows['epinet']['nll'] *= 1.01
  assert not enn_figures.differences(rows, figures)
  rows['epinet']['joint_nll'] = 9.0
  (wrong,) = enn_figures.differences(rows, figures)
  assert wrong == 'epinet: joint_nll is 9.0000, enn has 4.8734'
  assert len(enn_figures.differences({}, figures)) == 9


@pytest.mark.parametrize(
    'change, message',
    [
        ({'images': np.zeros((9, 8, 8, 3), np.float32)}, 'expected images'),
        ({'labels': np.zeros(3, int)}, 'expected images'),
        ({'labels': np.full(9, 100)}, 'are not integers below 100'),
    ],
)
def test_other_batches(epinet, tmp_path, change, message):
  path, found = batch(tmp_path)
  path.write_bytes(files.dump(found | change))
  with pytest.raises(ValueError, match=message):
    enn_figures.compare(epinet[0], path)


@pytest.fixture(scope='module')
def command():
  """Runs the command line."""
  script = tiny.ROOT / 'flax_enn' / 'checkpoints' / 'deepmind.py'
  with commands.interpreter(('jax', 'flax_enn.checkpoints')) as run:
    yield lambda folder, *args: run(folder, [script, *args])


@pytest.mark.slow
def test_command_line(command, downloads, epinet, tmp_path):
  name = 'resnet18_epinet_cifar100'
  given = (name, f'--files={downloads}', '--out=run')
  code, said = command(tmp_path, *given, '--temperatures=dropped')
  assert code == 0, said
  assert 'jax_threefry_partitionable=False' in said and 'SHA-256' in said
  config = json.loads((tmp_path / 'run' / 'config.json').read_text())
  assert config['eval']['temperature'] == 0.5
  path, _ = batch(tmp_path)
  code, said = command(tmp_path, name, '--out=run', f'--compare={path}')
  assert code == 0 and 'epinet, logits / 0.5' in said, said
  assert f'enn printed no figures of {name}' in said
  code, said = command(tmp_path, *given)
  assert code == 2 and 'is not an empty folder' in said


@pytest.mark.parametrize(
    'args, message',
    [
        (['resnet18_cifar', '--out=run'], "did you mean 'resnet18_cifar10'?"),
        (['--out=run'], 'expected one NAME, found []'),
        (['resnet18_cifar10'], '--out'),
        (['resnet18_cifar10', '--out=run'], '--files is not given'),
        (['resnet18_cifar10', '--out=run', '--files=.'], 'does not exist'),
        (
            ['resnet50_imagenet', '--out=run', '--temperatures=dropped',
             '--files=.'],
            "there are ['enn']",
        ),
        (
            ['resnet18_cifar10', '--out=run', '--files=.', '--download',
             '--url=http://localhost'],
            'is no https://',
        ),
        (
            ['resnet18_cifar10', '--out=run', '--files=.', '--compare=x'],
            'does not exist',
        ),
    ],
)  # fmt: skip
def test_wrong_commands(command, tmp_path, args, message):
  code, said = command(tmp_path, *args)
  assert code == 2 and message in said and 'Traceback' not in said, said
  assert not list(tmp_path.iterdir())


def test_help_names_the_catalogue(command, tmp_path):
  _, said = command(tmp_path, '--help')
  for text in ('resnet{50,101,152,200}{,_epinet}_imagenet', '--compare'):
    assert text in said
