"""Sweeps: lists of overrides, and the script that runs them."""

import csv
import functools
import json
import os
import re
import shlex
import signal
import subprocess
import time

from etils import epath
import numpy as np
import pytest

from flax_enn import sweep as sweeps
from flax_enn.training import load_config
from tests import commands, tiny

SCRIPT = tiny.ROOT / 'launch' / 'sweep.py'
CONFIG = '''
from tests import tiny
from flax_enn.sweep import product

def get_config(arg=''):
  return tiny.epinet(num_steps=2)

def sweep():
  return {sweep}
'''
TWO = "product({'network.prior_scale': (0.5, 2.0)})"


def write_config(folder, sweep=TWO, name='config.py'):
  path = folder / name
  path.write_text(CONFIG.format(sweep=sweep))
  return path


def run(config, workdir, *flags, **options):
  flags = [f'--config={config}', f'--workdir={workdir}', *flags]
  process = tiny.python(SCRIPT, *flags, **options)
  said, _ = process.communicate()
  return process.returncode, said


def test_product_and_zip_():
  assert sweeps.product({'a.b': (1, 2), 'c': 'xy'}) == [
      {'a.b': 1, 'c': 'x'},
      {'a.b': 1, 'c': 'y'},
      {'a.b': 2, 'c': 'x'},
      {'a.b': 2, 'c': 'y'},
  ]
  assert sweeps.zip_({'a': (1, 2), 'b': 'xy'}) == [
      {'a': 1, 'b': 'x'},
      {'a': 2, 'b': 'y'},
  ]
  with pytest.raises(ValueError, match=r"unequal.*'a': 1.*'b': 2"):
    sweeps.zip_({'a': (1,), 'b': (1, 2)})
  # Configs take no numbers of numpy.
  seeds = sweeps.product({'seed': np.arange(2)}) + sweeps.zip_(
      {'seed': np.arange(2)}
  )
  assert [sweeps.apply(tiny.epinet(), o).seed for o in seeds] == [0, 1, 0, 1]


@pytest.mark.parametrize(
    'override, name',
    [
        ({'network.prior_scale': 0.5, 'seed': 1}, 'prior_scale=0.5,seed=1'),
        ({'a.scale': 1, 'b.scale': 2}, 'a.scale=1,b.scale=2'),
        ({'network.hiddens': (5, 5)}, 'hiddens=(5,5)'),
        ({'network.base.name': 'a.b:C'}, 'name=a.b:C'),
        ({'a.rate': 1e-05, 'init': None}, 'rate=1e-05,init=None'),
        ({'seed': np.int64(1), 'a': (np.float64(0.5),)}, 'seed=1,a=(0.5,)'),
        ({}, 'unchanged'),
        # What does not say exactly what it stands for ends with a digest.
        ({'init.workdir': '../base'}, 'workdir=..-base,677096c9c6b3'),
        ({'note': 'ä\nb'}, 'note=--b,7bfdafd5ef97'),
    ],
)
def test_names_of_runs(override, name):
  assert sweeps.name(override) == name


# Each is another override than all others.
APART = [
    {'a': 'b c'}, {'a': 'bc'}, {'a': 'b-c'}, {'a': 'b/c'}, {'a': 'b\nc'},
    {'a': 'b  c'}, {'a': ' b c'}, {'a': 'b\tc'}, {'a': 'b\0c'}, {'a': 'bäc'},
    {'a': '\ud800'}, {'a': '日本' * 99}, {'a': 'x' * 253}, {'a': 'x' * 254},
    {'a': 'x' * 253 + 'y'}, {'a': '日本' * 98}, {'a': ''}, {'a': '-'},
    {'a': 1}, {'a': '1'}, {'a': 1.0}, {'a': True}, {'a': 'True'}, {'a': None},
    {'a': 'None'}, {'a': (1, 2)}, {'a': [1, 2]}, {'a': '(1, 2)'}, {'a': ()},
    {'a': '(1,2)'}, {'a': ('b c',)}, {'a': ('bc',)}, {'a': {'b': 1}},
    {'a': 'x,b=2'}, {'a': 'x', 'b': 2}, {'a': 'x', 'b': '2'}, {},
    {'a': tuple(range(99))}, {'a': tuple(range(98))},
]  # fmt: skip


def test_no_two_overrides_have_one_name(tmp_path):
  names = [sweeps.name(override) for override in APART]
  assert len(set(names)) == len(names)
  for name in names:
    (tmp_path / name).mkdir()  # the file system takes it
    assert len(name.encode()) <= 255 and name.isprintable() and ' ' not in name
  assert [sweeps.name(override) for override in APART] == names


def test_fields_of_other_overrides_are_told_apart(tmp_path):
  sweep = "[{'seed': 0}, {'init.seed': 0}, {'network.index_dim': 2}]"
  config = write_config(tmp_path, sweep)
  text = config.read_text().replace('epinet(', "epinet(init={'seed': 1}, ")
  config.write_text(text)
  runs = sweeps.load_runs(str(config), tmp_path / 'sweep')
  names = [run.workdir.name for run in runs]
  assert names == ['seed=0', 'init.seed=0', 'index_dim=2']


@pytest.mark.parametrize(
    'sweep',
    [
        "[{'seed': s} for s in np.arange(2)]",
        "product({'seed': np.arange(2)})",
        "({'network.hiddens': h} for h in np.arange(1, 5).reshape(2, 2))",
        "[{'network.hiddens': (h, np.int32(3))} for h in np.arange(1, 3)]",
        "product({'network.prior_scale': np.linspace(0.5, 1, 2)})",
        "np.array([{'seed': 1}, {'seed': 2}])",
    ],
)
def test_values_of_numpy(sweep, tmp_path):
  config = prior_scale(tmp_path, sweep)
  config.write_text('import numpy as np\n' + config.read_text())
  for run in sweeps.load_runs(str(config), tmp_path / 'sweep'):
    (value,) = run.override.values()
    assert type(value) in (int, float, tuple)
    assert 'int' not in repr(value) and run.config.to_json()


def test_overrides_change_a_copy():
  config = tiny.epinet()
  changed = sweeps.apply(config, {'seed': 3, 'network.hiddens': (4,)})
  assert (changed.seed, changed.network.hiddens) == (3, (4,))
  assert (config.seed, config.network.hiddens) == (0, (5,))


@pytest.mark.parametrize(
    'override, says',
    [
        ({'sed': 1}, r"config\.sed is not a field.*did you mean 'seed'"),
        ({'eval.tua': 1}, r"config\.eval\.tua.*did you mean 'tau'"),
        ({'seed.x': 1}, r'config\.seed\.x is not a field'),
        ({'seed': 'one'}, r"config\.seed to 'one', but its value is 0, a int"),
    ],
)
def test_overrides_that_do_not_fit(override, says):
  with pytest.raises(ValueError, match=says):
    sweeps.apply(tiny.epinet(), override)


def prior_scale(folder, sweep=TWO):
  """A config whose network has the field that is swept."""
  text = CONFIG.format(sweep=sweep).replace(
      'tiny.epinet(num_steps=2)',
      "tiny.epinet(num_steps=2, **{'network.prior_scale': 1.0})",
  )
  path = folder / 'config.py'
  path.write_text(text)
  return path


@pytest.mark.slow
def test_a_sweep_from_start_to_end(tmp_path):
  config, workdir = prior_scale(tmp_path), tmp_path / 'sweep'
  show = [SCRIPT, f'--config={config}', f'--workdir={workdir}', '--print']
  cache = f'--compilation_cache={tmp_path}/a b'
  (code, plain), (code_with_cache, with_cache) = commands.answers(
      (tiny.ROOT, words) for words in (show, [*show, cache])
  )
  assert code == 0 and 'compilation_cache' not in plain, plain
  assert code_with_cache == 0 and with_cache.count(f"'{cache}'") == 2
  printed = [line for line in with_cache.splitlines() if 'train.py' in line]
  assert len(printed) == 2 and not workdir.exists()
  # One of them is run by hand, the other is left.
  subprocess.run(
      shlex.split(printed[0]), check=True, cwd=tiny.ROOT,
      env=tiny.environment(), capture_output=True,
  )  # fmt: skip
  assert list((tmp_path / 'a b').rglob('*-cache'))
  before = tiny.files(workdir / 'prior_scale=0.5')
  code, said = run(config, workdir, '--parallel=2', cache)
  assert code == 0, said
  assert '1 of 2 runs are finished' in said
  assert 'Finished prior_scale=2.0; 1 of 1 done' in said
  # What is finished is not run again.
  assert 'prior_scale=0.5;' not in said
  assert tiny.files(workdir / 'prior_scale=0.5') == before
  with (workdir / 'sweep.csv').open() as file:
    rows = list(csv.DictReader(file))
  assert [row['network.prior_scale'] for row in rows] == ['0.5', '2.0']
  assert rows[0]['enn_nll'] != rows[1]['enn_nll']
  assert all(float(row['base_joint_nll']) > 0 for row in rows)
  assert (workdir / 'sweep.png').read_bytes().startswith(b'\x89PNG')
  # Nothing is left.
  runs = sweeps.load_runs(str(config), epath.Path(workdir))
  assert [run.finished for run in runs] == [True, True]


@pytest.mark.slow
def test_a_run_that_fails_stops_no_other(tmp_path):
  sweep = "[{'batch_size': 7}, {'seed': 4}]"  # 7 splits a dyadic pair
  config = write_config(tmp_path, sweep)
  code, said = run(config, tmp_path / 'sweep')
  assert code == 1
  assert 'FAILED batch_size=7' in said and 'Finished seed=4' in said
  assert re.search(r'1 of 2 runs failed; see \S*size=7\S*/train\.log', said)
  log = (tmp_path / 'sweep' / 'batch_size=7' / 'train.log').read_text()
  assert 'batch_size 7' in log
  assert (tmp_path / 'sweep' / 'sweep.csv').exists()


# What sweep() returns -> what is said of it.
WRONG = {
    "[{'seed': 1}, {'sede': 2}]": "did you mean 'seed'",
    "[{'seed': 1}, {'seed': 1}]": 'twice',
    "[{'seed': 1}, {'batch_size': -1}]": 'config.batch_size is -1',
    "[{'seed': 1}, {'network.base.name': 'mpl'}]": "did you mean 'mlp'",
    '[]': 'is empty',
    'None': 'is empty',
    "['seed']": "has 'seed'; expected {field: value}",
}


def test_wrong_sweeps_start_nothing(tmp_path):
  configs = {
      tiny.ROOT / 'configs' / 'digits_base.py': 'defines no sweep()',
      tmp_path / 'nowhere.py': 'there is no such file',
  }
  for number, (sweep, says) in enumerate(WRONG.items()):
    configs[write_config(tmp_path, sweep, f'config_{number}.py')] = says
  workdir = tmp_path / 'sweep'
  answers = commands.answers(
      (tmp_path, [SCRIPT, f'--config={config}', f'--workdir={workdir}'])
      for config in configs
  )
  for says, (code, said) in zip(configs.values(), answers):
    assert code == 1 and says in said, said
    assert 'Traceback' not in said
  assert not workdir.exists()


@pytest.mark.slow
def test_other_steps_are_another_result(tmp_path):
  config, workdir = write_config(tmp_path, "[{'seed': 1}]"), tmp_path / 'sweep'
  assert run(config, workdir)[0] == 0
  # Without a variant, get_config need not take one.
  text = config.read_text().replace('num_steps=2', 'num_steps=4')
  config.write_text(text.replace("arg=''", ''))
  code, said = run(config, workdir, '--metric=nlll')
  assert '0 of 1 runs are finished' in said and 'Finished seed=1' in said
  # All is there but the plot, and the table says so.
  assert code == 1 and 'Traceback' not in said
  assert re.search(r"metric nlll: the results have \[.*'nll'", said), said
  with (workdir / 'sweep.csv').open() as file:
    assert [row['step'] for row in csv.DictReader(file)] == ['4']


STARTED = '''
from pathlib import Path
import sys
from absl import app
sys.path.insert(0, {launch!r})
import sweep

sweep.TRAIN = Path({script!r})
app.run(sweep.main)
'''
TRAINS = '''
import signal, sys, time

def stop(*_):
  print('saved', flush=True)
  sys.exit()

signal.signal(signal.SIGTERM, stop)
print('started', flush=True)
time.sleep(300)
'''


def stopped(start, workdir, number, begun):
  """What a sweep of seeds 1 and 2 says that got a signal; and its log."""
  with start() as process:
    log, end = workdir / 'seed=1' / 'train.log', time.monotonic() + 120
    while not log.exists() or begun not in log.read_text():
      assert process.poll() is None and time.monotonic() < end
      time.sleep(0.1)
    os.killpg(process.pid, number)  # as a terminal does it
    said, _ = process.communicate(timeout=60)
  assert process.returncode == 1 and 'Stopped; the same command' in said, said
  assert 'FAILED' not in said and 'Traceback' not in said
  assert not (workdir / 'seed=2').exists()
  return log.read_text()


SEEDS = "[{'seed': 1}, {'seed': 2}]"


def test_a_sweep_that_is_stopped_asks_its_runs_to_save(tmp_path):
  config, workdir = write_config(tmp_path, SEEDS), tmp_path / 'sweep'
  script = tmp_path / 'trains.py'
  script.write_text(TRAINS)
  program = STARTED.format(launch=str(SCRIPT.parent), script=str(script))
  flags = ['-c', program, f'--config={config}', f'--workdir={workdir}']
  start = functools.partial(tiny.python, *flags, start_new_session=True)
  log = stopped(start, workdir, signal.SIGINT, 'started')
  assert log.split() == ['started', 'saved']


SBATCH = """#!/bin/sh
for arg; do case $arg in --wrap=*) wrap=${arg#--wrap=} ;; esac; done
for i in 0 1; do SLURM_ARRAY_TASK_ID=$i sh -c "$wrap"; done
"""


@pytest.mark.slow
def test_an_array_of_slurm_gets_the_values_as_they_are(tmp_path, monkeypatch):
  """With an sbatch of our own, which runs the array at once."""
  (tmp_path / 'sbatch').write_text(SBATCH)
  (tmp_path / 'sbatch').chmod(0o755)
  monkeypatch.setenv('PATH', f'{tmp_path}:{os.environ["PATH"]}')
  script = tmp_path / 'trains.py'
  script.write_text('import sys\nprint(sys.argv[-1:])\n')
  values = ["a'b\n $HOME \n", 'a  "b"\\n']
  sweep = repr([{'init.workdir': value} for value in values])
  config = write_config(tmp_path, sweep)
  text = config.read_text().replace('epinet(', "epinet(init={'workdir': ''}, ")
  config.write_text(text)
  program = STARTED.format(launch=str(SCRIPT.parent), script=str(script))
  process = tiny.python(
      '-c', program, f'--config={config}', f'--workdir={tmp_path}/a b',
      '--slurm',
  )  # fmt: skip
  said, _ = process.communicate()
  assert process.returncode == 0, said
  for value in values:
    assert repr([f'--config.init.workdir={value}']) in said, said


@pytest.mark.slow
@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_sweep_that_is_stopped_saves(number, tmp_path):
  config, workdir = write_config(tmp_path, SEEDS), tmp_path / 'sweep'
  text = config.read_text().replace('num_steps=2', 'num_steps=20000')
  config.write_text(text)
  flags = [SCRIPT, f'--config={config}', f'--workdir={workdir}']
  start = functools.partial(tiny.python, *flags, start_new_session=True)
  log = stopped(start, workdir, number, '[3] ')
  step = re.search(r'Asked to stop after step (\d+)', log)[1]
  assert (workdir / 'seed=1' / 'checkpoints' / step).is_dir()


FILE = 'from tests import tiny\n'


@pytest.mark.parametrize(
    'name, text, variant, says',
    [
        ('none.py', None, '', 'there is no such file'),
        ('text.txt', FILE, '', 'is not a Python file'),
        ('broken.py', 'def get_config(:', '', r'is not Python: .*line 1'),
        ('empty.py', FILE, '', r'defines no get_config\(\)'),
        ('c.py', 'def get_config():\n  pass', ':a', r'takes no variant.*'),
        ('c.py', 'def get_config(arg):\n  pass', '', 'takes a variant'),
        ('c.py', 'def get_config():\n  pass', '', 'returns None; .*ConfigDict'),
        ('c.py', 'import nowhere_at_all', '', 'nowhere_at_all'),
    ],
)
def test_config_files_that_are_none(name, text, variant, says, tmp_path):
  path = tmp_path / name
  if text is not None:
    path.write_text(text)
  error = ModuleNotFoundError if 'nowhere' in says else ValueError
  with pytest.raises(error, match=says):
    load_config(f'{path}{variant}')


def test_config_files_take_variants(tmp_path):
  path = tmp_path / 'config.py'
  path.write_text(f'{FILE}def get_config(arg="1"):\n  return tiny.epinet('
                  'seed=int(arg))\n')
  assert load_config(str(path)).seed == 1
  assert load_config(f'{path}:23').seed == 23


@pytest.mark.parametrize('holdout, own', [(0.0, 'test'), (0.2, 'validation')])
def test_rows_of_several_evaluations(holdout, own, tmp_path):
  config = tiny.epinet(**{'dataset.holdout': holdout})
  runs = []
  for seed in range(3):
    changed = tiny.changed(config, {'seed': seed})
    workdir = epath.Path(tmp_path / f'seed={seed}')
    runs.append(sweeps.Run({'seed': seed}, changed, workdir))
    if seed == 2:
      continue  # is not finished
    workdir.mkdir()
    (workdir / 'config.json').write_text(changed.to_json())
    models = {'base': {'nll': 2.0 + seed}, 'enn': {'nll': 1.0 + seed}}
    results = {'step': 4, own: models, 'far_away': {'enn': {'nll': 7.0}}}
    (workdir / 'results.json').write_text(json.dumps(results))
  rows = sweeps.read_rows(runs)
  assert rows == [
      {'seed': seed, 'step': 4, 'split': own, 'base_nll': 2.0 + seed,
       'enn_nll': 1.0 + seed, 'far_away_enn_nll': 7.0}
      for seed in range(2)
  ]  # fmt: skip
  for metric in ('nll', 'far_away.nll'):
    path = tmp_path / f'{metric}.png'
    sweeps.plot(rows, ['seed'], metric, path)
    assert path.read_bytes().startswith(b'\x89PNG')
  with pytest.raises(ValueError, match=r"\['far_away\.nll', 'nll'\]"):
    sweeps.plot(rows, ['seed'], 'far.nll', tmp_path / 'no.png')


def test_plot(tmp_path):
  rows = [
      {'a.scale': a, 'kind': kind, 'seed': seed, 'enn_nll': a + seed}
      for a in (0.1, 1.0, 10.0)
      for kind in ('x', 'y')
      for seed in (0, 1)
  ]
  sweeps.plot(rows, ['a.scale', 'kind', 'seed'], 'nll', tmp_path / 'plot.png')
  assert (tmp_path / 'plot.png').read_bytes().startswith(b'\x89PNG')
  with pytest.raises(ValueError, match=r"metric nl: .*\['nll'\]"):
    sweeps.plot(rows, ['a.scale'], 'nl', tmp_path / 'plot.png')
