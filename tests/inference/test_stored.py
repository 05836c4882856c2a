"""Predictors of runs: on any mesh, without optimizer, data or TensorFlow."""

import json
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
import tensorstore as ts

from flax_enn import sharding
from flax_enn.checkpoints import DamagedCheckpointError, layout
from flax_enn.inference import Predictor
from flax_enn.training import train_and_evaluate
from tests import processes, tiny

CONFIG = tiny.epinet(**{
    'mesh': {'data': 4, 'index': 2, 'fsdp': 1},
    'eval.temperature': 1.5,
    'eval.every': 2,
})


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """The folder of a run on eight devices."""
  folder = tmp_path_factory.mktemp('run')
  tiny.untrained(CONFIG, folder, {2: {'nll': 0.5}, 4: {'nll': 0.6}})
  return folder


@pytest.fixture
def copy(run, tmp_path):
  return shutil.copytree(run, tmp_path / 'run')


@pytest.mark.slow
def test_numbers_of_the_evaluation(tmp_path):
  """The run's own indices, on one device: nll, accuracy and the joint."""
  from flax_enn.data.two_moons import TwoMoons

  folder, results = tmp_path, train_and_evaluate(CONFIG, tmp_path)
  one = sharding.create_mesh({}, jax.devices()[:1])
  p = Predictor.load(folder, step='latest', mesh=one)
  assert p.num_indices == 8 and p.model.likelihood.temperature == 1.5
  test = TwoMoons(n_train=64, n_test=24).load('test')
  x, y = np.asarray(test.x), np.asarray(test.y)
  probs = p.probs(x)
  enn = results['test']['enn']
  nll = -np.log(probs[np.arange(24), y]).mean()
  assert nll == pytest.approx(enn['nll'], abs=1e-6)
  assert (probs.argmax(-1) == y).mean() == pytest.approx(enn['accuracy'])
  eight = Predictor.load(folder, step='latest')
  np.testing.assert_allclose(eight.probs(x), probs, rtol=1e-5)
  assert eight.log_joint(x, y) == pytest.approx(p.log_joint(x, y), rel=1e-5)


def bytes_read():
  found = ts.experimental_collect_matching_metrics('/tensorstore/kvstore')
  return sum(
      m['values'][0]['value'] for m in found if m['name'].endswith('bytes_read')
  )


@pytest.mark.slow
def test_the_optimizer_is_not_read(tmp_path):
  """Counted, for a network whose arrays are larger than all else."""
  config = tiny.epinet(**{
      'network.base.hiddens': (512, 512),
      'num_steps': 1,
      'eval.num_indices': 2,
  })
  train_and_evaluate(config, tmp_path)
  before = bytes_read()
  p = Predictor.load(tmp_path)
  read = bytes_read() - before
  own = sum(leaf.nbytes for leaf in jax.tree.leaves(p.variables))
  assert 0.8 * own < read < 1.5 * own


def test_which_step_and_indices(run):
  folder = run
  assert layout.steps(folder) == [2, 4]
  best = Predictor.load(folder)
  by_name = {s: Predictor.load(folder, step=s) for s in (2, 'latest')}
  jax.tree.map(
      np.testing.assert_array_equal, best.variables, by_name[2].variables
  )
  kernels = (
      p.variables['params']['base']['layer_0']['kernel']
      for p in (best, by_name['latest'])
  )
  assert np.all(np.not_equal(*kernels))
  more = Predictor.load(folder, num_indices=20)
  np.testing.assert_array_equal(more.indices[:8], best.indices)
  other = Predictor.load(folder, seed=3, num_indices=8)
  assert not np.array_equal(other.indices, best.indices)


@pytest.mark.slow
def test_no_tensorflow(run):
  program = (
      'import sys\nfrom flax_enn.inference import Predictor\n'
      f'Predictor.load({str(run)!r})\n'
      "print({'tensorflow', 'clu', 'grain'} & {*sys.modules})"
  )
  said = subprocess.run(
      [sys.executable, '-c', program],
      env=tiny.environment(1), cwd=tiny.ROOT, capture_output=True, text=True,
      check=False,
  )  # fmt: skip
  assert said.stdout.strip() == 'set()', said.stdout + said.stderr


def no_config(folder):
  (folder / 'config.json').unlink()


def other_network(folder):
  path = folder / 'config.json'
  path.write_text(path.read_text().replace('"index_dim": 3', '"index_dim": 4'))


def other_version(folder):
  path = folder / 'config.json'
  config = json.loads(path.read_text())
  del config['sharding'], config['eval']
  path.write_text(json.dumps(config))


def unknown_field(folder):
  path = folder / 'config.json'
  path.write_text(path.read_text().replace('"index_dim"', '"index_dims"'))


def foreign(folder):
  path = folder / 'config.json'
  path.write_text(path.read_text().replace('"epinet"', '"os.path:Evil"'))


def foreign_model(folder):
  path = folder / 'model.json'
  path.write_text(
      path.read_text().replace('flax_enn.likelihoods', 'evil.likelihoods')
  )


def no_checkpoints(folder):
  shutil.rmtree(folder / 'checkpoints')


@pytest.mark.parametrize(
    'change, message',
    [
        (no_config, r'config.json does not exist: .* is not the folder of a'),
        (other_network, r'does not fit the network of its config.json'),
        (other_version, r'not a run of this version of flax_enn'),
        (unknown_field, r'config.network.index_dims is not a field.*did you'),
        (foreign, r"'os.path:Evil'.*allow_imports=True"),
        (foreign_model, r'evil.likelihoods.*allow_imports=True'),
        (no_checkpoints, r'has no checkpoint yet; train the run first'),
    ],
)
def test_what_is_not_a_run(copy, change, message):
  change(copy)
  with pytest.raises(ValueError, match=message):
    Predictor.load(copy)


def test_bad_arguments(run):
  folder = run
  with pytest.raises(ValueError, match=r"step is 3; .* has the steps \[2, 4\]"):
    Predictor.load(folder, step=3)
  with pytest.raises(ValueError, match='num_indices is 0; it must be at least'):
    Predictor.load(folder, num_indices=0)
  with pytest.raises(ValueError, match='/no/run does not exist'):
    Predictor.load('/no/run')
  with pytest.raises(ValueError, match=r'config\.json does not exist'):
    Predictor.load(tiny.ROOT)


def test_damage_is_found(copy):
  """A bit of an array that is read is never passed on."""
  data = max(
      (copy / 'checkpoints' / '4').rglob('d/*'), key=lambda p: p.stat().st_size
  )
  content = bytearray(data.read_bytes())
  content[len(content) // 2] ^= 4
  data.write_bytes(content)
  try:
    p = Predictor.load(copy, step=4)
  except DamagedCheckpointError as e:
    assert 'checkpoints/4' in str(e)
  else:  # it was the optimizer's
    assert p.num_indices == 8


def test_imports_where_they_are_allowed(copy, monkeypatch, tmp_path):
  (tmp_path / 'my_epinet.py').write_text(
      'from flax_enn import Epinet\nclass Mine(Epinet):\n  pass\n'
  )
  monkeypatch.syspath_prepend(tmp_path)
  path = copy / 'config.json'
  path.write_text(path.read_text().replace('"epinet"', '"my_epinet:Mine"'))
  with pytest.raises(ValueError, match='my_epinet:Mine'):
    Predictor.load(copy)
  assert 'my_epinet' not in sys.modules
  assert Predictor.load(copy, allow_imports=True).num_indices == 8


_PROCESS = """
import json, sys
import numpy as np
from flax_enn import distributed
folder, address, number = sys.argv[1:]
distributed.initialize(address, 2, int(number))
from flax_enn.inference import Predictor
x = np.random.default_rng(0).normal(size=(11, 2)).astype(np.float32)
y = np.arange(11) % 2
p = Predictor.load(folder, step='latest')
assert p.programs.mesh.size == 4
q = p.condition(x[:5], y[:5])
print(json.dumps([
    p.probs(x).tolist(), p.log_joint(x, y), q.probs(x).tolist(),
    p.information_gain(x[:3], x[3:5]).tolist(),
]))
"""


@pytest.mark.slow
def test_two_processes_are_one(run):
  address = f'localhost:{processes.free_port()}'
  started = [
      subprocess.Popen(
          [sys.executable, '-c', _PROCESS, run, address, str(i)],
          env=tiny.environment(2), cwd=tiny.ROOT, text=True,
          stdout=subprocess.PIPE, stderr=subprocess.PIPE,
      )
      for i in range(2)
  ]  # fmt: skip
  said = [process.communicate(timeout=200) for process in started]
  assert not any(process.returncode for process in started), said
  found = [json.loads(out.splitlines()[-1]) for out, _ in said]
  assert found[0] == found[1]
  x = np.random.default_rng(0).normal(size=(11, 2)).astype(np.float32)
  y = np.arange(11) % 2
  p = Predictor.load(run, step='latest')
  expected = (
      p.probs(x),
      p.log_joint(x, y),
      p.condition(x[:5], y[:5]).probs(x),
      p.information_gain(x[:3], x[3:5]),
  )
  for values, one in zip(found[0], expected):
    np.testing.assert_allclose(values, one, rtol=1e-4, atol=1e-6)
