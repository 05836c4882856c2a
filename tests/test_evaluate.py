"""The command line that evaluates a checkpoint."""

import json

from absl import flags
from absl.testing import flagsaver
import numpy as np
import pytest

from flax_enn import evaluate
from flax_enn.training import train_and_evaluate
from tests import tiny


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  folder = tmp_path_factory.mktemp('evaluate')
  return folder, train_and_evaluate(tiny.epinet(), folder)


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
  folder = tmp_path_factory.mktemp('saved')
  tiny.untrained(tiny.epinet(), folder, {2: {'nll': 0.7}, 4: {'nll': 0.6}})
  return folder


@pytest.fixture
def command(tmp_path, capsys):
  """Runs the command line; what it prints, and what results.json holds."""

  def call(workdir, **given):
    if not flags.FLAGS.is_parsed():
      flags.FLAGS(['evaluate'])
    out = tmp_path / 'out'
    with flagsaver.flagsaver(workdir=str(workdir), out=str(out), **given):
      evaluate.run([])
    written = json.loads((out / 'results.json').read_text())
    return capsys.readouterr().out, written, out

  return call


@pytest.mark.slow
def test_the_numbers_of_the_run(run, command):
  said, written, out = command(run[0], step='latest')
  assert written['step'] == run[1]['step']
  for model, values in run[1]['test'].items():
    assert written['test'][model] == pytest.approx(values, rel=1e-5, abs=1e-6)
  assert said.startswith('test, step 4:\n') and 'enn/base' in said
  assert (out / 'report.png').exists()
  assert not (run[0] / 'evaluation-4').exists()


@pytest.mark.slow
def test_other_data_and_studies(run, command, tmp_path):
  path = tmp_path / 'other.npz'
  rng = np.random.default_rng(0)
  x, y = rng.normal(size=(60, 2)).astype(np.float32), np.arange(60) % 2
  np.savez(path, x_train=x, y_train=y, x_test=x[:30], y_test=y[:30])
  data = json.dumps({'name': 'arrays', 'path': str(path)})
  said, written, out = command(
      run[0],
      dataset=data, split='train', selective=True, conformal=0.8, ood=[
          json.dumps({'name': 'two_moons', 'n_test': 40}),
      ],
      num_indices=3,
  )  # fmt: skip
  assert written.keys() == {
      'step', 'train', 'selective', 'conformal', 'ood_two_moons',
  }  # fmt: skip
  assert sorted(p.name for p in out.glob('*.png')) == [
      'report-selective.png', 'report.png',
  ]  # fmt: skip
  assert 'auroc_mutual_information' in said


@pytest.mark.parametrize(
    'given, message',
    [
        ({'dataset': 'moons'}, r"config.eval.dataset.name is 'moons'"),
        ({'dataset': '{"path": 1}'}, r'neither a name nor a section'),
        ({'ood': ['{oops']}, r"--ood is '\{oops'"),
        ({'dataset': 'digits'}, r'choose another data set'),
        ({'conformal': 2.0}, r'config.evals.conformal.study: level is 2.0'),
        ({'step': '7'}, r'has the steps \[2, 4\]'),
    ],
)
def test_bad_flags(saved, command, given, message):
  with pytest.raises(ValueError, match=message):
    command(saved, **given)
