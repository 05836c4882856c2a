"""Bundles: a run without the run, found to be damaged where it is."""

from concurrent import futures
import hashlib
from http import client
import json
import queue
import re
import runpy
import shutil
import threading

import jax
import numpy as np
import pytest

from flax_enn import run_folder, sharding
from flax_enn.checkpoints import DamagedCheckpointError
from flax_enn.inference import Predictor, export_bundle
from tests import tiny
from tests.inference import models, test_stored

SCORES = {'nll': 0.512345, 'accuracy': 0.75}
X = models.inputs(7)[:, :2]
Y = models.labels(7) % 2
# Finds what a fresh environment with jax, safetensors and flatbuffers has.
BARE = """
from importlib import machinery
import sys

INSTALLED = {
    'flatbuffers', 'jax', 'jaxlib', 'ml_dtypes', 'numpy', 'opt_einsum',
    'safetensors', 'scipy',
}

class Bare(machinery.PathFinder):
  @classmethod
  def find_spec(cls, name, path=None, target=None):
    top = name.partition('.')[0]
    if top in INSTALLED | sys.stdlib_module_names or top[0] == '_':
      return super().find_spec(name, path, target)

sys.meta_path = [machinery.BuiltinImporter, machinery.FrozenImporter, Bare]
"""


def load(folder, **options):
  """On one device."""
  mesh = sharding.create_mesh({}, jax.devices()[:1])
  return Predictor.load(folder, mesh=mesh, **options)


@pytest.fixture(scope='module')
def made(tmp_path_factory):
  """A bundle whose run is gone: its folder, and what the run predicted.

  (A copy of the run is kept elsewhere.)
  """
  folder = tmp_path_factory.mktemp('made')
  run, out = folder / 'run', folder / 'bundle'
  tiny.untrained(tiny.epinet(**{'eval.temperature': 1.5}), run, {2: SCORES})
  p = load(run)
  expected = {
      'probs': p.probs(X),
      'joint': p.log_joint(X, Y),
      'more': np.asarray(load(run, num_indices=20).indices),
  }
  export_bundle(run, out, platforms=['cpu'])
  shutil.copytree(run, folder / 'runs' / 'two_moons')
  shutil.rmtree(run)
  return out, expected


@pytest.fixture
def copy(made, tmp_path):
  return shutil.copytree(made[0], tmp_path / 'copy')


def test_opens_after_its_run_is_deleted(made):
  out, expected = made
  p = load(out)
  np.testing.assert_array_equal(p.probs(X), expected['probs'])
  assert p.log_joint(X, Y) == expected['joint']
  assert p.model.likelihood.temperature == 1.5
  q = load(out, step=2, num_indices=20)
  np.testing.assert_array_equal(q.indices, expected['more'])
  q = load(out, step='latest', seed=3)
  assert q.num_indices == 8 and not np.array_equal(q.indices, p.indices)
  with pytest.raises(ValueError, match=r'step is 1; .* of step 2 alone'):
    load(out, step=1)


def test_the_card(made):
  out, _ = made
  card = json.loads((out / 'card.json').read_text())
  others = {p.name for p in out.iterdir()} - {'card.json', 'README.md'}
  assert card['files'] == {
      name: hashlib.sha256((out / name).read_bytes()).hexdigest()
      for name in others
  }
  assert card['data']['name'] == 'two_moons'
  assert card['metrics'] == {'scores': {'enn': SCORES}}
  assert card['stablehlo']['functions']['log_joint'] == {
      'inputs': {'x': 'float32[B, 2]', 'y': 'int32[B]'},
      'results': 'float32[]',
  }
  text = (out / 'README.md').read_text()
  for said in ('0.5123', card['created'], 'six\nmonths', *card['files']):
    assert said in text, said
  spec = json.loads((out / 'preprocessor.json').read_text())['input_spec']
  assert spec == {'dtype': 'float32', 'shape': [2]}


def test_from_a_bundle_to_another(made, tmp_path):
  """With indices of its own, by which the next is drawn, too."""
  out, _ = made
  card = export_bundle(
      out, tmp_path / 'new', num_indices=5, seed=4, platforms=['cpu']
  )
  assert card['metrics'] == {'scores': {'enn': SCORES}}
  p = load(tmp_path / 'new')
  q = load(out, num_indices=5, seed=4)
  np.testing.assert_array_equal(p.probs(X), q.probs(X))
  more = load(tmp_path / 'new', num_indices=9).indices
  np.testing.assert_array_equal(more[:5], p.indices)


def recipe(path):
  """The Python in a page."""
  text = path.read_text()
  (source,) = re.findall(r'^```python\n(.*?)^```$', text, re.M | re.S)
  return source


def test_the_recipe(made, monkeypatch, capsys):
  out, expected = made
  monkeypatch.chdir(out)
  names = {}
  exec(recipe(out / 'README.md'), names)  # as it is
  assert len(capsys.readouterr().out.splitlines()) == 8  # rows, joint
  of_files = names['weights'], names['indices']
  found = names['functions']['probs'](*of_files, X)
  np.testing.assert_allclose(found, expected['probs'], rtol=1e-5)


@pytest.mark.slow
def test_in_a_bare_environment(tmp_path):
  """Where nothing of flax_enn, flax, optax or Orbax can be imported."""
  tiny.untrained(tiny.ensemble(), tmp_path / 'run', {2: SCORES})
  results = {'step': 2, 'test': {'enn': {'nll': 0.25, 'ece': None}}}
  run_folder.write_json(tmp_path / 'run' / 'results.json', results)
  out = tmp_path / 'bundle'
  process = tiny.python(
      *('-m', 'flax_enn.export', '--workdir', tmp_path / 'run', '--out', out)
  )
  said, _ = process.communicate()
  assert process.returncode == 0 and 'ensemble at step 2 with 2' in said
  assert '| enn |  | 0.2500 |' in (out / 'README.md').read_text()
  # Where it was exported is nobody's business.
  assert str(tiny.ROOT).encode() not in (out / 'probs.stablehlo').read_bytes()
  p = load(out)
  rng = np.random.default_rng(0)
  x = rng.normal(size=(128, 4, 4, 1)).astype(np.float32)
  y = rng.integers(0, 3, 128).astype(np.int32)
  np.savez(out / 'inputs.npz', x=x, y=y)
  program = tmp_path / 'bare.py'
  program.write_text(f'''{BARE}
{recipe(out / 'README.md')}
given = np.load('inputs.npz')
for rows in (1, 7, 128):
  x, y = given['x'][:rows], given['y'][:rows]
  found = {{k: f(weights, indices, x, *([y] if k == 'log_joint' else []))
            for k, f in functions.items()}}
  found |= found.pop('uncertainty')
  np.savez(f'{{rows}}.npz', **found)
''')
  process = tiny.python(program, cwd=out)
  said, _ = process.communicate()
  assert process.returncode == 0, said
  for rows in (1, 7, 128):
    found = dict(np.load(out / f'{rows}.npz'))
    expected = {
        'logits': p.logits(x[:rows]),
        'probs': p.probs(x[:rows]),
        'log_joint': p.log_joint(x[:rows], y[:rows]),
        **p.uncertainty(x[:rows]),
    }
    assert found.keys() == expected.keys()
    for name, value in expected.items():
      np.testing.assert_allclose(
          found[name], value, rtol=1e-5, atol=1e-6, err_msg=name
      )


def test_the_server(made):
  """Requests that come together are one batch; a wrong one is told so."""
  out, expected = made
  serve = runpy.run_path(str(tiny.ROOT / 'docs' / 'examples' / 'serve.py'))
  predict, spec = serve['load'](out)
  requests, sizes = queue.SimpleQueue(), []

  def counted(x):
    sizes.append(len(x))
    return predict(x)

  waiting = [futures.Future() for _ in X]
  for x, future in zip(X, waiting):
    requests.put((x, future))
  args = requests, counted, spec
  threading.Thread(target=serve['answer'], args=args, daemon=True).start()
  found = [future.result()['probs'] for future in waiting]
  np.testing.assert_allclose(found, expected['probs'], rtol=1e-5)
  assert sizes == [32]


def test_the_server_answers(made):
  out, expected = made
  serve = runpy.run_path(str(tiny.ROOT / 'docs' / 'examples' / 'serve.py'))
  with serve['create'](out, 0) as server:
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def ask(x):
      connection = client.HTTPConnection(*server.server_address, timeout=60)
      connection.request('POST', '/', json.dumps(x))
      answer = connection.getresponse()
      return answer.status, json.loads(answer.read())

    with futures.ThreadPoolExecutor(len(X)) as pool:
      found = list(pool.map(ask, X.tolist()))
    assert ask([1.0]) == (400, {'error': 'x is (1,); expected (2,)'})
    assert ask('x')[0] == 400
    server.shutdown()
  assert [code for code, _ in found] == [200] * len(X)
  probs = [answer['probs'] for _, answer in found]
  np.testing.assert_allclose(probs, expected['probs'], rtol=1e-5)
  assert {'total', 'epistemic', 'variation_ratio'} <= found[0][1].keys()


def test_a_checkpoint_without_the_library(made, monkeypatch):
  """By the recipe of docs/serving.md; saved on eight devices, read on one."""
  out, _ = made
  monkeypatch.chdir(out.parent)
  source = recipe(tiny.ROOT / 'docs' / 'serving.md')
  names = {}
  exec(source.replace('checkpoints/2000', 'checkpoints/2'), names)
  found, expected = names['variables'], load(out).variables
  jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize(
    'name',
    ['config.json', 'model.json', 'model.safetensors', 'indices.safetensors'],
)
def test_damage_is_found(copy, name):
  content = bytearray((copy / name).read_bytes())
  content[-9] ^= 4
  (copy / name).write_bytes(content)
  with pytest.raises(DamagedCheckpointError, match=f'{name} is damaged: its'):
    load(copy)
  (copy / name).unlink()
  with pytest.raises(DamagedCheckpointError, match=f'cannot read .*{name}'):
    load(copy)


def changed_card(folder, **fields):
  card = json.loads((folder / 'card.json').read_text())
  (folder / 'card.json').write_text(json.dumps(card | fields))


def test_a_card_that_is_none(copy):
  changed_card(copy, format=2)
  with pytest.raises(ValueError, match=r'card.json: format is 2, but this'):
    load(copy)
  changed_card(copy, format=1, files=None)
  with pytest.raises(DamagedCheckpointError, match='damaged: files is None'):
    load(copy)
  (copy / 'card.json').write_text('{')
  with pytest.raises(DamagedCheckpointError, match=r'card.json cannot be read'):
    load(copy)
  (copy / 'card.json').unlink()
  with pytest.raises(DamagedCheckpointError, match=r'card.json does not exist'):
    load(copy)


def edited(folder, change):
  """The bundle of another config, its hashes right."""
  change(folder)
  card = json.loads((folder / 'card.json').read_text())
  for name in ('config.json', 'model.json'):
    content = (folder / name).read_bytes()
    card['files'][name] = hashlib.sha256(content).hexdigest()
  changed_card(folder, files=card['files'])


@pytest.mark.parametrize(
    'change, message',
    [
        (test_stored.foreign, r"'os.path:Evil'.*allow_imports=True"),
        (test_stored.foreign_model, r'evil.likelihoods.*allow_imports=True'),
        (test_stored.other_network, r'model.safetensors does not fit the netw'),
        (test_stored.other_version, r'not a run of this version of flax_enn'),
    ],
)
def test_what_does_not_fit(copy, change, message):
  edited(copy, change)
  with pytest.raises(ValueError, match=message):
    load(copy)


def test_nothing_is_written_over(made, tmp_path):
  (tmp_path / 'file').write_text('')
  for out in tmp_path, tmp_path / 'file':
    with pytest.raises(ValueError, match='is not an empty folder; choose anot'):
      export_bundle(made[0], out)
  (tmp_path / 'new.part').mkdir()
  with pytest.raises(ValueError, match=r'new\.part exists: another command'):
    export_bundle(made[0], tmp_path / 'new')


def test_nothing_partial_is_left(made, tmp_path, monkeypatch):
  written = []

  def full(path, content):
    written.append(path.name)
    if len(written) == 3:
      raise OSError('disk full')

  monkeypatch.setattr(run_folder, 'atomic_write', full)
  with pytest.raises(OSError, match='disk full'):
    export_bundle(made[0], tmp_path / 'new', platforms=['cpu'])
  assert len(written) == 3 and not list(tmp_path.iterdir())


def test_command_line(tmp_path):
  process = tiny.python(
      *('-m', 'flax_enn.export', f'--workdir={tmp_path}', '--out=new'),
      cwd=tmp_path,
  )
  said, _ = process.communicate()
  assert process.returncode == 2, said
  assert 'config.json does not exist' in said and 'Traceback' not in said
  assert not list(tmp_path.iterdir())
