"""An evaluation that is cut off goes on where it was, to the same bits."""

import json
import signal
import types

import jax
import numpy as np
import pytest
from tensorboard.backend.event_processing import event_accumulator
from tensorboard.util.tensor_util import make_ndarray

from flax_enn.data.fake import Fake
from flax_enn.data.loader import eval_batches
from flax_enn.evaluation import Evaluator, Progress, progress
from flax_enn.networks.backbones.mlp import MLP
from flax_enn.networks.epinet import Epinet
from flax_enn.training import train_and_evaluate
from tests import tiny
from tests.evaluation.test_evaluate import (
  CLASSIFY,
  KEY,
  TAU,
  Net,
  _batches,
  _examples,
  _variables,
)

IDENTITY = {'step': 3, 'indices': [1, 2]}


class Killed(Exception):
  """What an evaluation is cut off with."""


def evaluate(path, size=100, kill_after=None, identity=IDENTITY):
  """Evaluates from where the file says; returns results and batches read."""
  kept = Progress(path, identity, every=0)
  batches = list(_batches(*_examples(size, CLASSIFY)))[kept.done :]

  def read():
    for done, batch in enumerate(batches):
      if done == kill_after:
        raise Killed
      yield batch

  evaluator = Evaluator(
      network=Net(), dataset=CLASSIFY, num_indices=8, tau=TAU, chunk=4
  )
  results = evaluator(_variables(Net()), read(), KEY, progress=kept)
  kept.remove()
  return results, len(batches)


def bits(results):
  leaves = jax.tree.leaves(vars(results), is_leaf=lambda x: x is None)
  return [np.asarray(leaf).tobytes() for leaf in leaves if leaf is not None]


@pytest.mark.parametrize('kills', [[5], [4, 5]])
def test_goes_on_to_the_same_bits(kills, tmp_path):
  path = tmp_path / 'evaluation.npz'
  whole, batches = evaluate(tmp_path / 'other.npz')
  assert batches == 7
  for after in kills:
    with pytest.raises(Killed):
      evaluate(path, kill_after=after)
  results, left = evaluate(path)
  # Up to two batches are on their way to the devices when it ends, and one is
  # worked on.
  assert 7 - left == sum(kills) - 3 * len(kills)
  assert bits(results) == bits(whole)
  assert not list(tmp_path.iterdir())


def test_cut_off_when_all_is_summed(tmp_path, monkeypatch):
  path = tmp_path / 'evaluation.npz'
  with monkeypatch.context() as patch, pytest.raises(Killed):
    patch.setattr(Evaluator, '_results', raise_killed)
    evaluate(path)
  results, left = evaluate(path)
  assert left == 1
  assert bits(results) == bits(evaluate(tmp_path / 'other.npz')[0])


def raise_killed(*_):
  raise Killed


@pytest.mark.parametrize('hosts', [1, 2])
def test_batches_after_the_first(hosts):
  dataset = Fake(shape=(3,), n_test=30)

  def ids(**options):
    stream = eval_batches(dataset, 'test', batch_size=8, hosts=hosts, **options)
    return [batch.id.tolist() for batch in stream]

  for host in range(hosts):
    for start in range(5):
      assert ids(host=host, start=start) == ids(host=host)[start:]


def test_writes_now_and_then(tmp_path):
  kept = Progress(tmp_path / 'evaluation.npz', IDENTITY, every=1000)
  kept.keep(1, {'sum': np.zeros(3)})
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('change', ['identity', 'cut', 'empty', 'text'])
def test_what_does_not_fit_is_passed_over(change, tmp_path):
  path = tmp_path / 'evaluation.npz'
  with pytest.raises(Killed):
    evaluate(path, kill_after=5)
  assert Progress(path, IDENTITY).done > 0
  identity, content = IDENTITY, path.read_bytes()
  if change == 'identity':
    identity = {**IDENTITY, 'step': 4}
  else:
    half = content[: len(content) // 2]
    path.write_bytes({'cut': half, 'empty': b'', 'text': b'no'}[change])
  results, read = evaluate(path, identity=identity)
  assert read == 7
  assert bits(results) == bits(evaluate(tmp_path / 'other.npz')[0])


def test_totals_of_another_shape_are_an_error(tmp_path):
  path = tmp_path / 'evaluation.npz'
  Progress(path, IDENTITY, every=0).keep(2, {'sum': np.zeros(3)})
  kept = Progress(path, IDENTITY)
  assert kept.done == 2
  np.testing.assert_array_equal(kept.restore({'sum': np.ones(3)})['sum'], 0)
  with pytest.raises(ValueError, match=r'evaluation\.npz does not hold'):
    kept.restore({'sum': np.ones(4)})


@pytest.mark.parametrize(
    'seconds, text',
    [(7.6, '8 s'), (125, '2 min 05 s'), (3600 * 3 + 425, '3 h 07 min')],
)
def test_duration(seconds, text):
  assert progress.duration(seconds) == text


def test_log_counts_what_this_process_did(monkeypatch, caplog):
  now = [100.0]
  monkeypatch.setattr(
      progress, 'time', types.SimpleNamespace(monotonic=lambda: now[0])
  )
  log = progress.Log(done=400, total=1000)
  now[0] += 5
  log(450)
  assert not caplog.text
  now[0] += 15
  with caplog.at_level('INFO'):
    log(500)
  # 100 in 20 seconds, so that 500 more take 100.
  assert 'Evaluated 500 of 1000 batches (50.0 %), 5 batches/s' in caplog.text
  assert 'ETA: 1 min 40 s' in caplog.text


FIELDS = {'eval.every': 2, 'batch_size': 8, 'seed': 5}


@pytest.fixture(scope='module')
def judged(tmp_path_factory):
  """A run that is judged half way and at the end, and its workdir."""
  config = tiny.epinet(**FIELDS)
  workdir = tmp_path_factory.mktemp('judged')
  train_and_evaluate(config, workdir)
  return config, workdir


SCRIPT = """
import os, signal
import jax
from flax_enn.evaluation import Progress
from flax_enn.training import judge, train_and_evaluate
from tests import tiny

KILLS = {kills!r}

class Killing(Progress):
  def __init__(self, path, identity, stop):
    super().__init__(path, identity, every=0, stop=stop)
    self.step = identity['step']

  def keep(self, done, totals):
    super().keep(done, totals)
    print('kept', self.step, done, flush=True)
    if [self.step, done] in KILLS:
      os.kill(os.getpid(), signal.SIGKILL)

judge.Progress = Killing
train_and_evaluate(tiny.epinet(**{fields!r}), {workdir!r})
"""


def test_sigkill_while_it_is_judged(judged, tmp_path):
  """The trained steps are not lost, nor what was judged of them."""
  _, reference = judged
  workdir = tmp_path / 'run'
  said = []
  for kills in ([[2, 2]], [[4, 1]], []):
    script = tmp_path / 'script.py'
    script.write_text(
        SCRIPT.format(kills=kills, fields=FIELDS, workdir=str(workdir))
    )
    with tiny.python(script) as process:
      output, _ = process.communicate()
    assert process.returncode == (-signal.SIGKILL if kills else 0), output
    said.append(
        [line for line in output.splitlines() if line.startswith('kept')]
    )
  # 24 test examples are three batches; none is judged twice.
  assert said == [
      ['kept 2 1', 'kept 2 2'],
      ['kept 4 1'],
      ['kept 4 2'],
  ]
  assert curves(workdir) == {
      tag: {step: pytest.approx(value, rel=1e-4) for step, value in of.items()}
      for tag, of in curves(reference).items()
  }
  # On one device here, on eight there.
  results, expected = (
      json.loads((path / 'results.json').read_text())
      for path in (workdir, reference)
  )
  for who, values in expected['test'].items():
    assert results['test'][who] == pytest.approx(values, rel=1e-4)
  assert not (workdir / 'evaluation.npz').exists()
  scores = json.loads((workdir / 'checkpoints' / 'scores.json').read_text())
  assert set(scores) == {'2', '4'}


def curves(workdir):
  """Step -> value, of every curve but the times."""
  loaded = event_accumulator.EventAccumulator(str(workdir)).Reload()
  return {
      tag: {
          event.step: float(make_ndarray(event.tensor_proto))
          for event in loaded.Tensors(tag)
      }
      for tag in loaded.Tags()['tensors']
      if 'steps_per_sec' not in tag and 'uptime' not in tag
  }


@pytest.mark.parametrize('temperature', [0.5, 2.0])
def test_temperatures_divide_logits(temperature):
  net = Net()
  x, y = _examples(32, CLASSIFY)
  variables = _variables(net)
  options = {'network': net, 'dataset': CLASSIFY, 'num_indices': 6, 'tau': TAU}
  evaluator = Evaluator(
      **options, temperature=temperature, base_temperature=3 * temperature
  )
  results = evaluator(variables, _batches(x, y), KEY)
  indices = net.indexer.sample(KEY, 6)
  outputs = [net.apply(variables, x, z) for z in indices]
  probs = np.stack([jax.nn.softmax(o.preds / temperature) for o in outputs])
  np.testing.assert_allclose(
      results.metrics['enn']['nll'],
      -np.log(probs.mean(0)[np.arange(32), y]).mean(),
      rtol=1e-5,
  )
  base = jax.nn.softmax(outputs[0].extra['base'] / (3 * temperature))
  np.testing.assert_allclose(
      results.metrics['base']['nll'],
      -np.log(base[np.arange(32), y]).mean(),
      rtol=1e-5,
  )
  np.testing.assert_allclose(
      evaluator.predict(variables, x, KEY, 6), probs, rtol=1e-5
  )


def test_memory_does_not_grow_with_the_indices():
  """Of the compiled step, with an epinet head in realistic proportions."""
  net = Epinet(
      base=MLP(hiddens=(256,), classes=200),
      classes=200,
      features=('hidden_0',),
      index_dim=20,
  )
  x = jax.ShapeDtypeStruct((32, 64), np.float32)
  batch = tiny.abstract_batch(x)
  variables = jax.eval_shape(
      net.init, jax.random.key(0), x, jax.ShapeDtypeStruct((20,), np.float32)
  )
  used = {}
  for n in (10, 1000):
    evaluator = Evaluator(
        network=net, dataset=CLASSIFY, num_indices=n, chunk=10
    )
    indices = jax.ShapeDtypeStruct((n, 20), np.float32)
    compiled = evaluator._step.lower(variables, indices, batch).compile()
    memory = compiled.memory_analysis()
    used[n] = memory.temp_size_in_bytes + memory.output_size_in_bytes
  assert used[1000] < 1.5 * used[10]
  # It is no accident of small numbers: all indices at once would not fit.
  everything = 1000 * 32 * 200 * 4
  assert 5 * used[1000] < everything
