"""A folder, a disk or a run that cannot be gone on with."""

import contextlib
import errno
import shutil
import subprocess

from etils import epath
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_enn import run_folder, storage
from flax_enn.checkpoints import Checkpointer
from flax_enn.training import train_and_evaluate
from tests import slow, tiny
from tests.bad_input.refusal import (
  L2,
  check_refused,
)

WORKDIRS = {
    'of another config': (
        {'network.hiddens': (7, 7), 'seed': 3},
        [
            'config.network.hiddens is [5] there and [7, 7] here',
            'config.seed is 0 there and 3 here',
            '--workdir',
        ],
    ),
    'of a config without a field': (
        {'network.prior_scale': 2.0},
        ["config.network.prior_scale is 'absent' there and 2.0 here"],
    ),
    'that is beyond the end': (
        {'num_steps': 3},
        ['config.num_steps is 3', 'has done 4 steps'],
    ),
}


@pytest.mark.parametrize('case', WORKDIRS)
def test_workdir(case, run):
  change, says = WORKDIRS[case]
  check_refused(tiny.epinet(**change), run, [str(run), *says])


def test_switches_that_change_the_numbers(run, monkeypatch):
  flags = '--xla_dump_to=x --xla_cpu_enable_fast_math=true'
  monkeypatch.setenv('XLA_FLAGS', flags)
  says = [
      str(run / 'switches.json'),
      'JAX_ENABLE_X64 was False and is True;',
      "XLA_FLAGS was None and is '--xla_cpu_enable_fast_math=true'. Set",
  ]
  with jax.enable_x64():
    check_refused(tiny.epinet(), run, says)


def test_only_what_differs_is_listed(run):
  with pytest.raises(ValueError) as caught:
    train_and_evaluate(
        tiny.epinet(seed=3, **{'eval.tau': 5}), run
    )
  assert str(caught.value).count(' there and ') == 1


def test_how_data_are_read_may_change(run):
  fields = {'dataset.workers': 2, 'dataset.read_ahead': 1}
  run_folder.check_resumable(tiny.epinet(**fields), epath.Path(run))


@pytest.fixture
def small_disk(tmp_path):
  """A folder on a disk of its own, of 200 kB."""
  disk = tmp_path / 'disk'
  disk.mkdir()
  mount = ['mount', '-t', 'tmpfs', '-o', 'size=200k', 'tmpfs', str(disk)]
  if not shutil.which('mount') or subprocess.run(mount, check=False).returncode:
    pytest.skip('nothing can be mounted here')
  yield disk
  subprocess.run(['umount', '--lazy', str(disk)], check=True)


@pytest.mark.parametrize('free', [0, slow(200)])
def test_a_full_disk(free, small_disk):
  """At the start, and in the middle; another try goes on once there is room."""
  fill, workdir = small_disk / 'fill', small_disk / 'run'
  with contextlib.suppress(OSError), fill.open('wb', buffering=0) as file:
    for _ in range(200 - free):
      file.write(bytes(1024))
  config = tiny.epinet(num_steps=200, **{'checkpoint.keep': 100})
  with pytest.raises(OSError, match=r'--workdir') as caught:
    train_and_evaluate(config, workdir)
  for part in (str(workdir), 'ake room'):
    assert part in str(caught.value)
  assert workdir.exists() == bool(free)
  assert not list(small_disk.glob('run/lock.json*'))


class UnavailableError(Exception):
  """As TensorFlow's, by which epath writes to a bucket."""

  error_code = 14


@pytest.mark.parametrize(
    'error, named',
    [
        (OSError(errno.ENOSPC, 'No space left on device'), True),
        (OSError(errno.EACCES, 'Permission denied', '/runs/a/x.json'), True),
        (OSError(errno.EACCES, 'Permission denied', '/data/x.npz'), False),
        (ValueError('RESOURCE_EXHAUSTED: Error writing "/runs/a/x"'), True),
        (ValueError('RESOURCE_EXHAUSTED: Error writing "/data/x"'), False),
        (UnavailableError('503 when uploading /runs/a/x'), True),
        (UnavailableError('503 when reading /data/x'), False),
        (ValueError('/runs/a belongs to another config'), False),
        (RuntimeError('cannot read 3 bytes'), False),
    ],
    ids=str,
)
def test_errors_of_the_disk_name_the_workdir(error, named):
  kind = OSError if named else type(error)
  named_here = storage.disk_errors_named(epath.Path('/runs/a'))
  with pytest.raises(kind) as caught, named_here:
    raise error
  assert ('--workdir=/runs/a' in str(caught.value)) == named


INITS = {
    'no such run': (
        {'workdir': '../nowhere', 'modules': {'base': 'base'}},
        ['config.init: workdir is', '../nowhere', 'no such folder'],
    ),
    'a run without that module': (
        {'workdir': '../run', 'modules': {'base': 'bass'}},
        ['config.init: modules', "'bass'", 'base'],
    ),
    'a module this network does not have': (
        {'workdir': '../run', 'modules': {'bass': 'base'}},
        ['config.init: modules', "'bass'", 'base'],
    ),
    'a run without that step': (
        {'workdir': '../run', 'step': 3, 'modules': {'base': 'base'}},
        ['config.init: step is 3', '[2, 4]'],
    ),
    'misspelt': (
        {'workdir': '../run', 'module': {'base': 'base'}},
        ['config.init', "'module'", "'modules'"],
    ),
    'of another shape': (
        {'workdir': '../run', 'modules': {'base': 'base'}},
        [
            'config.init: modules.base',
            'params/layer_0/kernel',
            'found float32[2, 6], expected float32[2, 9]',
        ],
    ),
}


@pytest.mark.parametrize('case', INITS)
def test_init(case, run, tmp_path):
  init, says = INITS[case]
  shutil.copytree(run, tmp_path / 'run')
  width = 9 if case == 'of another shape' else 6
  config = tiny.epinet(init=init, **{'network.base.hiddens': (width,)})
  check_refused(config, tmp_path / 'new', says)


def _largest(folder):
  return max(folder.rglob('*'), key=lambda path: path.stat().st_size)


@pytest.mark.slow
def test_a_truncated_checkpoint_is_passed_over(run, tmp_path, caplog):
  workdir = tmp_path / 'run'
  shutil.copytree(run, workdir)
  (workdir / 'results.json').unlink()
  damaged = _largest(workdir / 'checkpoints' / '4' / 'state' / 'd')
  damaged.write_bytes(damaged.read_bytes()[:10])
  train_and_evaluate(tiny.epinet(), workdir)
  said = [r.getMessage() for r in caplog.records if r.levelname == 'WARNING']
  assert any(
      'step 4 is damaged' in m and 'going on from step 2' in m for m in said
  ), said
  assert (workdir / 'checkpoints' / 'damaged-4').exists()
  name = 'results.json'
  assert (workdir / name).read_bytes() == (run / name).read_bytes()
  config = tiny.epinet()
  assert tiny.last_state(config, workdir) == tiny.last_state(config, run)


def test_a_run_that_diverges_stops_and_keeps_what_was_good(tmp_path):
  config = tiny.epinet(
      num_steps=50,
      log_every=50,  # the flag is read before every save too
      objectives={'data': L2},
      dataset={'name': 'regression', 'n_train': 64, 'n_test': 16},
      optimizer={'name': 'sgd', 'learning_rate': 1e3, 'momentum': 0.9},
      **{'checkpoint.every': 1},
  )
  with pytest.raises(FloatingPointError) as caught:
    train_and_evaluate(config, tmp_path)
  trainer = tiny.built(config)
  with (
      trainer.use_mesh(),
      contextlib.closing(Checkpointer(tmp_path)) as checkpointer,
  ):
    state, good = checkpointer.restore_latest(trainer.abstract_state)
    # One more step is the one that was not finite.
    batch = next(trainer.train_batches(good))
    after, logs = jax.jit(trainer.bound_step(64))(state, batch)
  assert all(np.isfinite(leaf).all() for leaf in _numbers(state))
  assert not all(
      np.isfinite(leaf).all() for leaf in _numbers((after.params, logs))
  )
  message = str(caught.value)
  assert f'not finite in step {good + 1};' in message
  assert f' is {good}. In a new' in message
  assert str(tmp_path) in message
  assert 'config.optimizer.learning_rate' in message
  assert not (tmp_path / 'results.json').exists()


def test_a_first_update_that_overflows_is_not_kept(tmp_path):
  config = tiny.epinet(
      **{'optimizer.learning_rate': 3e38, 'checkpoint.every': 1}
  )
  with pytest.raises(FloatingPointError) as caught:
    train_and_evaluate(config, tmp_path)
  for part in ('not finite in step 1;', 'is none yet'):
    assert part in str(caught.value)
  assert not list((tmp_path / 'checkpoints').iterdir())


def _numbers(tree):
  leaves = jax.tree.leaves(tree)
  return [np.asarray(a) for a in leaves if jnp.issubdtype(a.dtype, jnp.number)]


def test_a_run_without_tensorboard_says_what_to_install(tmp_path):
  workdir = tmp_path / 'run'
  code = f'''
import sys
sys.modules['tensorboard'] = None  # as if it were not installed
from flax_enn.training import train_and_evaluate
from tests import tiny
train_and_evaluate(tiny.epinet(), {str(workdir)!r})
'''
  with tiny.python('-c', code) as process:
    said, _ = process.communicate()
  assert process.returncode == 1
  last = said.strip().splitlines()[-1]
  assert last.startswith('ModuleNotFoundError: ')
  assert 'tensorboard is not installed' in last
  assert "pip install 'flax_enn[train]'" in last
  assert not workdir.exists()
