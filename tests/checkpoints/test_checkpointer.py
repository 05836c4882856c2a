import errno
import json
import logging
import os
from pathlib import Path
import shutil
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from orbax.checkpoint._src.path import atomicity, atomicity_defaults
import pytest

from flax_enn import sharding, storage
from flax_enn.checkpoints import (
    Checkpointer,
    DamagedCheckpointError,
    StorageError,
    fingerprint,
    layout,
)
from tests import slow, tiny
from tests.checkpoints.conftest import (
    abstract,
    assert_same,
    create_state,
    draw_state,
)

# Where Orbax meets a damaged array, its other reads end in a closed loop.
pytestmark = pytest.mark.filterwarnings(
    'ignore::pytest.PytestUnraisableExceptionWarning'
)


def names(workdir):
  """What is in the folder of checkpoints beside their scores."""
  found = {p.name for p in (workdir / 'checkpoints').iterdir()}
  return sorted(found - {'scores.json'})


def open_and_restore(workdir, state):
  checkpointer = Checkpointer(workdir)
  try:
    return checkpointer.restore_latest(abstract(state))
  finally:
    checkpointer.close()


@pytest.fixture(scope='module')
def saved(tmp_path_factory, mesh):
  """A run with the checkpoints 1 and 2."""
  workdir = tmp_path_factory.mktemp('saved')
  checkpointer = Checkpointer(workdir)
  for step in (1, 2):
    state = draw_state(step, mesh)
    assert checkpointer.save(state, step)
    checkpointer.score(step, {'nll': step})
  checkpointer.close()
  return workdir


@pytest.fixture
def run(saved, tmp_path):
  """A copy of `saved` to damage."""
  return shutil.copytree(saved, tmp_path / 'run')


def test_a_new_run_has_nothing(tmp_path, mesh):
  checkpointer = Checkpointer(tmp_path)
  assert checkpointer.restore_latest(abstract(draw_state(0, mesh))) is None
  assert checkpointer.latest_step() is None
  assert checkpointer.best_step() is None
  checkpointer.close()


@pytest.mark.parametrize('sizes', [{}, {'data': 2}, {'index': 4, 'data': 2}])
def test_restores_the_same_bits_on_any_mesh(saved, mesh, sizes):
  count = 1
  for size in sizes.values():
    count *= size
  other = sharding.create_mesh(sizes, jax.devices()[:count])
  state = draw_state(0, other)
  restored, step = open_and_restore(saved, state)
  assert step == 2
  assert_same(restored, draw_state(2, mesh))
  for found, wanted in zip(jax.tree.leaves(restored), jax.tree.leaves(state)):
    assert found.sharding.is_equivalent_to(wanted.sharding, found.ndim)


def test_a_saved_state_may_be_donated_at_once(tmp_path, mesh):
  where = NamedSharding(mesh, P())
  state = draw_state(0, mesh).replace(
      params={'w': jax.device_put(jnp.zeros((512, 512)), where)}, opt_state=()
  )
  advance = jax.jit(
      lambda s: s.replace(params={'w': s.params['w'] + 1}), donate_argnums=0
  )
  checkpointer = Checkpointer(tmp_path, keep=9)
  for step in range(1, 6):
    state = advance(state)
    checkpointer.save(state, step)
    for _ in range(3):
      state = advance(state)
    restored, _ = checkpointer.restore_latest(abstract(state))
    assert (restored.params['w'] == 4 * step - 3).all()
  checkpointer.close()


# One column per saved step, the nll (None: saved without metrics); then the
# steps that must be left with keep = 2, and the best of them.
@pytest.mark.parametrize(
    ('nlls', 'left', 'best'),
    [
        ([None] * 5, [4, 5], None),
        ([0.1, 0.9, 0.8, 0.7, 0.6], [1, 4, 5], 1),
        ([0.9, 0.1, None, None, None], [2, 4, 5], 2),
        ([0.5, 0.4, 0.3, 0.2, 0.1], [4, 5], 5),
        ([None, 0.3, None, 0.2, float('nan')], [4, 5], 4),
        ([float('nan'), 0.3, float('nan'), 0.4, None], [2, 4, 5], 2),
        ([float('inf'), None, None, 0.4, None], [4, 5], 4),
        ([-1.0, 0.5, -2.0, 0.5, 0.5], [3, 4, 5], 3),
    ],
)
@pytest.mark.parametrize('reopen', [slow(False), True])
def test_keeps_latest_and_best(tmp_path, one_device, nlls, left, best, reopen):
  checkpointer = Checkpointer(tmp_path, keep=2)
  params = {'w': jnp.zeros(3)}
  state = create_state(params, {}, 0, one_device)
  for step, nll in enumerate(nlls, 1):
    assert checkpointer.save(state, step)
    if nll is not None:
      checkpointer.score(step, {'nll': nll, 'accuracy': 0.5})
    if reopen:
      checkpointer.close()
      checkpointer = Checkpointer(tmp_path, keep=2)
  assert checkpointer.best_step() == best
  assert checkpointer.latest_step() == 5
  checkpointer.close()
  assert names(tmp_path) == [str(step) for step in left]


def test_another_metric_may_rank(tmp_path, one_device):
  checkpointer = Checkpointer(tmp_path, keep=1, best='rmse')
  state = draw_state(0, one_device)
  for step, rmse in ((1, 0.1), (2, 0.2), (3, 0.3)):
    checkpointer.save(state, step)
    checkpointer.score(step, {'nll': -rmse, 'rmse': rmse})
  assert checkpointer.best_step() == 1
  with pytest.raises(ValueError, match=r"no 'rmse'.*'nll'"):
    checkpointer.score(3, {'nll': 0.1})
  checkpointer.close()
  assert names(tmp_path) == ['1', '3']


def test_keep_is_checked(tmp_path):
  with pytest.raises(ValueError, match='keep is 0'):
    Checkpointer(tmp_path, keep=0)


def test_a_step_is_saved_once(run, mesh):
  checkpointer = Checkpointer(run)
  state = draw_state(9, mesh)
  assert not checkpointer.save(state, 2)
  assert not checkpointer.save(state, 1)
  restored, step = checkpointer.restore_latest(abstract(state))
  assert step == 2
  assert_same(restored, draw_state(2, mesh))
  assert checkpointer.best_step() == 1
  checkpointer.close()


def test_fingerprints_and_scores_are_json(tmp_path, one_device):
  checkpointer = Checkpointer(tmp_path)
  checkpointer.save(draw_state(0, one_device), 3)
  checkpointer.score(3, {'nll': jnp.float32(0.5), 'accuracy': 1})
  checkpointer.close()
  folder = tmp_path / 'checkpoints'
  record = json.loads((folder / '3' / 'meta' / 'metadata').read_text())
  assert record.keys() == {'fingerprints'}
  saved = layout.tree_metadata(layout.checkpoint_dir(tmp_path) / '3')
  assert record['fingerprints'].keys() == saved.keys()
  scores = json.loads((folder / 'scores.json').read_text())
  metrics = {'nll': 0.5, 'accuracy': 1.0}
  assert scores == {'3': {'score': 0.5, 'metrics': metrics}}


def test_a_step_is_evaluated_after_it_is_saved(tmp_path, one_device):
  checkpointer = Checkpointer(tmp_path)
  checkpointer.save(draw_state(0, one_device), 3)
  assert not checkpointer.scored(3)
  assert checkpointer.best_step() is None
  checkpointer.score(3, {'nll': 0.5})
  checkpointer.close()
  again = Checkpointer(tmp_path)
  assert again.scored(3) and again.best_step() == 3
  again.close()


@pytest.mark.parametrize(
    'content', ['', '{"1": {"score": 0.5, "me', '[]', '{"1": 0.5}', '{"a": {}}']
)
def test_damaged_scores_stop_nothing(run, content, caplog):
  (run / 'checkpoints' / 'scores.json').write_text(content)
  checkpointer = Checkpointer(run)
  assert 'scores.json is damaged' in caplog.text
  assert checkpointer.best_step() is None
  assert checkpointer.latest_step() == 2
  checkpointer.score(2, {'nll': 0.1})
  checkpointer.close()
  assert layout.scores(run)[2]['score'] == 0.1


def damage(path, how):
  """Cuts a file short; of a folder, all the files in it."""
  if how == 'gone':
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    return
  for file in path.rglob('*') if path.is_dir() else [path]:
    if file.is_file():
      content = file.read_bytes()
      file.write_bytes(content[: len(content) // 2 if how == 'half' else 0])


@pytest.mark.parametrize('how', [slow('empty'), 'half', 'gone'])
@pytest.mark.parametrize(
    'item',
    [
        'meta',
        'meta/metadata',
        'state',
        'state/_METADATA',
        'state/manifest.ocdbt',
        'state/d',
        'state/ocdbt.process_0/d',
        'state/array_metadatas/process_0',
    ],
)
def test_falls_back_from_a_damaged_checkpoint(run, mesh, caplog, item, how):
  damage(run / 'checkpoints' / '2' / item, how)
  with caplog.at_level(logging.WARNING):
    checkpointer = Checkpointer(run)
    restored, step = checkpointer.restore_latest(abstract(draw_state(0, mesh)))
  assert step == 1
  assert_same(restored, draw_state(1, mesh))
  (warning,) = [
      m for m in caplog.messages if m.startswith('Checkpoint of step 2')
  ]
  for part in ('checkpoints/2', 'damaged-2', 'step 1', 'checkpoints/1'):
    assert part in warning

  assert checkpointer.latest_step() == 1
  assert checkpointer.save(draw_state(2, mesh), 2)
  again, step = checkpointer.restore_latest(abstract(restored))
  assert step == 2
  assert_same(again, draw_state(2, mesh))
  checkpointer.close()
  assert names(run) == ['1', '2', 'damaged-2']


@pytest.mark.slow
def test_any_cut_file_is_passed_over_or_harmless(saved, tmp_path, mesh):
  folder = saved / 'checkpoints' / '2'
  files = [p.relative_to(saved) for p in folder.rglob('*') if p.is_file()]
  state = draw_state(0, mesh)
  steps = set()
  for number, file in enumerate(files):
    run = shutil.copytree(saved, tmp_path / str(number))
    damage(run / file, 'half')
    restored, step = open_and_restore(run, state)
    assert_same(restored, draw_state(step, mesh))
    steps.add(step)
  assert steps == {1, 2}  # there are files of both sorts


def test_damaged_twice_loses_nothing(run, mesh):
  for number in (1, 2):
    damage(run / 'checkpoints' / '2' / 'meta' / 'metadata', 'half')
    checkpointer = Checkpointer(run)
    _, step = checkpointer.restore_latest(abstract(draw_state(0, mesh)))
    assert step == 1
    checkpointer.save(draw_state(2, mesh), 2)
    checkpointer.close()
    kept = ['damaged-2', 'damaged-2-2'][:number]
    assert names(run) == ['1', '2', *kept]


def test_none_is_good(run, mesh):
  for step in ('1', '2'):
    damage(run / 'checkpoints' / step / 'state' / '_METADATA', 'empty')
  with pytest.raises(DamagedCheckpointError) as error:
    open_and_restore(run, draw_state(0, mesh))
  for part in ('are damaged', 'step 1', 'step 2', str(run)):
    assert part in str(error.value)
  assert names(run) == ['1', '2']  # untouched: it may be our mistake


def test_an_array_that_is_not_what_was_saved_is_damage(run, mesh, caplog):
  """As a bit that flipped where no parser looks, in any of them."""
  path = run / 'checkpoints' / '2' / 'meta' / 'metadata'
  record = json.loads(path.read_text())
  for name in record['fingerprints']:
    changed = dict(record['fingerprints'])
    changed[name] ^= 1
    path.write_text(json.dumps({'fingerprints': changed}))
    with pytest.raises(DamagedCheckpointError, match=rf'/2 is dam.*\n.*{name}'):
      fingerprint.check(path.parents[1], draw_state(2, mesh), changed)
  state, step = open_and_restore(run, draw_state(0, mesh))
  assert step == 1 and 'fingerprints differ' in caplog.text
  assert_same(state, draw_state(1, mesh))
  assert names(run) == ['1', 'damaged-2']


def test_an_older_checkpoint_knows_its_frozen_variables_alone(run, mesh):
  path = run / 'checkpoints' / '2' / 'meta' / 'metadata'
  record = json.loads(path.read_text())['fingerprints']
  frozen = {
      name.removeprefix('collections/frozen/'): number
      for name, number in record.items()
      if name.startswith('collections/frozen/')
  }
  assert frozen
  path.write_text(json.dumps({'fingerprint': frozen}))
  assert open_and_restore(run, draw_state(0, mesh))[1] == 2
  path.write_text(json.dumps({'fingerprint': dict.fromkeys(frozen, 7)}))
  assert open_and_restore(run, draw_state(0, mesh))[1] == 1


class AbortedError(Exception):
  """As TensorFlow's, by which epath reads a bucket."""

  error_code = 10


FAULTS = [
    AbortedError('All 10 retry attempts failed'),
    OSError(errno.EIO, 'Input/output error'),
    PermissionError(errno.EACCES, 'Permission denied'),
    ValueError('UNAVAILABLE: error 503 of the bucket'),
    ValueError('Error reading "x": UNKNOWN: [OS error 5: EIO]'),
    ValueError('DEADLINE_EXCEEDED: no answer'),
    ValueError('RESOURCE_EXHAUSTED: too many requests'),
]


@pytest.fixture
def impatient(monkeypatch):
  monkeypatch.setattr(storage, 'BACK_OFF', (0.0, 0.0))


@pytest.mark.parametrize('fault', FAULTS, ids=repr)
@pytest.mark.parametrize('times', [1, 2, 99])
def test_a_fault_that_passes_costs_no_checkpoint(
    run, mesh, monkeypatch, impatient, fault, times
):
  reads = layout.tree_metadata
  left = [times]

  def failing(path):
    if path.name == '2' and left[0]:
      left[0] -= 1
      raise fault
    return reads(path)

  monkeypatch.setattr(layout, 'tree_metadata', failing)
  if times < 3:
    assert open_and_restore(run, draw_state(0, mesh))[1] == 2
  else:
    with pytest.raises(StorageError, match=r'checkpoints/2.*Nothing was chan'):
      open_and_restore(run, draw_state(0, mesh))
  assert names(run) == ['1', '2']


def test_what_tensorflow_says_of_a_bucket_is_tried_again(
    tmp_path, monkeypatch, impatient
):
  (tmp_path / 'file').write_bytes(b'content')
  read, faults = Path.read_bytes, [AbortedError('busy'), AbortedError('busy')]

  def failing(path):
    if faults:
      raise faults.pop()
    return read(path)

  monkeypatch.setattr(Path, 'read_bytes', failing)
  assert storage.read_bytes(tmp_path / 'file') == b'content'
  faults += [AbortedError('busy')] * 3
  with pytest.raises(OSError, match='file cannot be read: busy'):
    storage.read_bytes(tmp_path / 'file')


def grow(params):
  return params | {'new': {'kernel': jnp.zeros(3)}}


def shrink(params):
  return {'base': params['base']}


def widen(params):
  return params | {'head': {'kernel': jnp.zeros((256, 4), jnp.bfloat16)}}


def recast(params):
  return params | {'head': {'kernel': jnp.zeros((256, 3), jnp.float32)}}


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (grow, r'params/new/kernel: found nothing, expected float32\[3\]'),
        (shrink, r'head/kernel: found bfloat16\[256, 3\], expected nothing'),
        (widen, r'found bfloat16\[256, 3\], expected bfloat16\[256, 4\]'),
        (recast, r'found bfloat16\[256, 3\], expected float32\[256, 3\]'),
    ],
)
def test_another_network_is_not_damage(run, one_device, change, message):
  state = draw_state(0, one_device)
  params = jax.device_put(change(state.params), jax.devices()[0])
  with pytest.raises(ValueError, match=message) as error:
    open_and_restore(run, state.replace(params=params))
  assert 'the config it was trained with' in str(error.value)
  assert names(run) == ['1', '2']


CHILD = """
import os, signal, sys
import jax, jax.numpy as jnp
from flax_enn import sharding
from flax_enn.checkpoints import Checkpointer
from tests.checkpoints.conftest import draw_state
state = draw_state(1, sharding.create_mesh({}, jax.devices()[:1]))
checkpointer = Checkpointer(sys.argv[1])
checkpointer.save(state, 1)
checkpointer.wait()
bulk = jax.random.normal(jax.random.key(0), (64, 1024, 512))
checkpointer.save(state.replace(params={'w': bulk}), 2)
while len(os.listdir(checkpointer.directory)) < 2:
  pass  # until the save has begun on disk
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def bucket(monkeypatch):
  """Where Orbax expects a marker in each finished checkpoint."""
  monkeypatch.setattr(
      atomicity_defaults,
      'get_default_temporary_path_class',
      lambda *args, **options: atomicity.CommitFileTemporaryPath,
  )


def test_a_finished_checkpoint_without_its_marker_is_kept(run, mesh, bucket):
  markers = [*run.glob('checkpoints/*/**/commit_success.txt')]
  for marker in markers:  # as an older version, or a copy, leaves them out
    marker.unlink()
  before = tiny.files(run)
  with pytest.raises(ValueError, match=r'checkpoints \[1, 2\] in .*no commit'):
    open_and_restore(run, draw_state(0, mesh))
  assert tiny.files(run) == before
  for step in (1, 2):  # as the error says
    (run / 'checkpoints' / str(step) / 'commit_success.txt').touch()
  assert open_and_restore(run, draw_state(0, mesh))[1] == 2


def test_a_save_that_was_cut_off_is_cleared_away(tmp_path, mesh, bucket):
  checkpointer = Checkpointer(tmp_path)
  assert checkpointer.save(draw_state(1, mesh), 1)
  checkpointer.score(1, {'nll': 1.0})
  assert checkpointer.save(draw_state(2, mesh), 2)
  checkpointer.close()
  (tmp_path / 'checkpoints' / '2' / 'commit_success.txt').unlink()
  state, step = open_and_restore(tmp_path, draw_state(0, mesh))
  assert step == 1
  assert_same(state, draw_state(1, mesh))
  assert names(tmp_path) == ['1']


def test_what_a_bucket_needs_is_named_before_anything_is_saved(monkeypatch):
  monkeypatch.setitem(sys.modules, 'google.cloud.storage', None)
  with pytest.raises(ModuleNotFoundError, match=r'install .*flax_enn\[gcs\]'):
    Checkpointer('gs://bucket/run')


@pytest.mark.slow
def test_killed_while_saving(tmp_path, mesh):
  root = Path(__file__).parents[2]
  killed = subprocess.run(
      [sys.executable, '-c', CHILD, str(tmp_path)],
      cwd=root,
      env=os.environ | {'PYTHONPATH': str(root)},
      check=False,
  )
  assert killed.returncode == -signal.SIGKILL
  unfinished = set(names(tmp_path)) - {'1'}
  assert unfinished and '2' not in unfinished

  checkpointer = Checkpointer(tmp_path)
  restored, step = checkpointer.restore_latest(abstract(draw_state(0, mesh)))
  assert step == 1
  assert_same(restored, draw_state(1, mesh))
  assert checkpointer.save(draw_state(2, mesh), 2)
  assert checkpointer.latest_step() == 2
  checkpointer.close()
  assert names(tmp_path) == ['1', '2']
