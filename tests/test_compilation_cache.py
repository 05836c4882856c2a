"""The compilation cache: what it saves, and that it never costs a run."""

import json
from pathlib import Path
import subprocess
import sys

import pytest

from flax_enn import compilation_cache
from tests import commands, tiny

# Prints where the cache is, how many programs came from it, and a result.
PROGRAM = '''
import sys
import jax
import jax.numpy as jnp
from flax_enn import compilation_cache

hits = []
jax.monitoring.register_event_listener(
    lambda event, **_: hits.append(event.endswith('/cache_hits')))
compilation_cache.MAX_BYTES = int(sys.argv[2])
folder = None if sys.argv[1] == 'None' else sys.argv[1]
path = compilation_cache.enable(folder)
x = jnp.arange(12.0).reshape(3, 4) / 50
for i in range(int(sys.argv[3])):
  x = jax.jit(lambda x: jnp.tanh(x @ x.T @ x) + i / 9)(x)
numbers = [float(v).hex() for v in x.ravel()]
print(path, sum(hits), *numbers, sep='|')
'''
HUGE = 10**9


def environment(**variables):
  """That of a process without the cache of the test suite."""
  env = tiny.environment()
  kept = {k: v for k, v in env.items() if '_CACHE_' not in k}
  return {**kept, **variables}


def start(folder, max_bytes=HUGE, programs=3, **variables):
  return subprocess.Popen(
      [sys.executable, '-c', PROGRAM, str(folder), str(max_bytes),
       str(programs)],
      env=environment(**variables),
      text=True,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
  )  # fmt: skip


def end(process):
  """Path, hits, numbers, and what was said beside them."""
  out, said = process.communicate()
  assert process.returncode == 0, said
  return parsed(out, said)


def parsed(answer, said):
  path, hits, *numbers = answer.strip().split('|')
  return Path(path), int(hits), numbers, said


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """Runs the program to its end, where JAX need not read its environment."""
  folder = tmp_path_factory.mktemp('program')
  script = folder / 'program.py'
  script.write_text(PROGRAM)
  modules = ('jax.numpy', 'flax_enn.compilation_cache')
  with commands.interpreter(modules, environment()) as interpreter:

    def run(cache, max_bytes=HUGE, programs=3, **variables):
      words = [script, cache, max_bytes, programs]
      code, said = interpreter(folder, words, **variables)
      assert code == 0, said
      *said, answer = said.splitlines(keepends=True)
      return parsed(answer, ''.join(said))

    yield run


@pytest.fixture(scope='module')
def expected(run):
  path, hits, numbers, said = run('')
  assert (str(path), hits, said) == ('None', 0, '')
  return numbers


def test_the_next_run_compiles_nothing(tmp_path, run, expected):
  path, hits, cold, _ = run(tmp_path / 'new' / 'folder')
  assert (hits, cold) == (0, expected)
  assert path.parent == tmp_path / 'new' / 'folder'
  entries = {file.name for file in path.glob('*-cache')}
  again, hits, warm, said = run(tmp_path / 'new' / 'folder')
  assert (again, hits, warm, said) == (path, len(entries), expected, '')
  assert {file.name for file in path.glob('*-cache')} == entries


@pytest.mark.slow
def test_cold_writers_at_once_agree(tmp_path, run, expected):
  processes = [start(tmp_path) for _ in range(3)]
  for process in processes:
    _, _, numbers, said = end(process)
    assert (numbers, said) == (expected, '')
  assert run(tmp_path)[1] > 0


def test_a_writer_that_was_killed_is_repaired(tmp_path, run, expected):
  path, _, _, _ = run(tmp_path)
  for entry in (entries := list(path.glob('*-cache'))):
    entry.write_bytes(entry.read_bytes()[:100])
    entry.with_name(entry.name.removesuffix('-cache') + '-atime').unlink()
  assert run(tmp_path)[1:] == (0, expected, '')
  assert run(tmp_path)[1:] == (len(entries), expected, '')


def test_entries_that_cannot_be_read_are_compiled(tmp_path, run, expected):
  path, _, _, _ = run(tmp_path)
  for entry in path.glob('*-cache'):
    entry.write_bytes(b'nonsense')
  _, hits, numbers, said = run(tmp_path)
  assert (hits, numbers) == (0, expected)
  assert 'Error reading persistent compilation cache' in said


def test_the_folder_stays_below_its_bound(tmp_path, run):
  path, _, _, _ = run(tmp_path)
  size = max(file.stat().st_size for file in path.glob('*-cache'))
  path, _, _, said = run(tmp_path, 3 * size, 8)
  assert sum(f.stat().st_size for f in path.glob('*-cache')) <= 3 * size
  assert said == ''


@pytest.mark.parametrize('kind', ['file', 'proc', 'lock', 'bucket'])
def test_folders_that_cannot_be_used_cost_one_warning(
    kind, tmp_path, run, expected
):
  folder = {'proc': '/proc/cache', 'bucket': 'nowhere://bucket/cache'}.get(
      kind, tmp_path / 'cache'
  )
  if kind == 'file':
    folder.write_text('')
  elif kind == 'lock':
    path, *_ = run(folder)
    (path / '.lockfile').unlink()
    (path / '.lockfile').mkdir()
  found = run(folder)
  assert (str(found[0]), *found[1:3]) == ('None', 0, expected)
  (line,) = found[3].strip().splitlines()
  assert 'Everything is compiled anew: no compilation cache in' in line
  assert str(folder) in line


@pytest.mark.parametrize('variable', ['XDG_CACHE_HOME', 'HOME'])
def test_by_default_it_is_in_the_users_cache(variable, tmp_path, monkeypatch):
  monkeypatch.delenv('XDG_CACHE_HOME', raising=False)
  monkeypatch.setenv(variable, str(tmp_path))
  between = '.cache' if variable == 'HOME' else ''
  expected = tmp_path / between / 'flax_enn'
  assert Path(compilation_cache.default_folder()) == expected


@pytest.mark.slow
def test_jax_may_have_been_told(tmp_path, run):
  def told(*args, **variables):
    return end(start(*args, **variables))

  users = {'XDG_CACHE_HOME': str(tmp_path / 'user')}
  path, *_ = told(tmp_path / 'a', JAX_ENABLE_COMPILATION_CACHE='false', **users)
  assert str(path) == 'None' and not list(tmp_path.iterdir())
  jaxs = str(tmp_path / 'b')
  assert told(None, JAX_COMPILATION_CACHE_DIR=jaxs, **users)[0] == Path(jaxs)
  assert not (tmp_path / 'user').exists()
  assert told('', JAX_COMPILATION_CACHE_DIR=jaxs)[1] == 0
  # What is said by the call counts more.
  path, *_ = told(tmp_path / 'c', JAX_COMPILATION_CACHE_DIR=jaxs, **users)
  assert path.parent == tmp_path / 'c'
  assert run(None, **users)[0].parent == tmp_path / 'user' / 'flax_enn'


CONFIG = """
from tests import tiny

def get_config():
  return tiny.epinet(**{'mesh.index': %d})
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    'processes', [1, pytest.param(2, marks=pytest.mark.long)]
)
def test_runs_are_the_same_bit_for_bit(processes, tmp_path):
  config = tmp_path / 'config.py'
  config.write_text(CONFIG % processes)
  script = [str(tiny.ROOT / 'train.py')]
  if processes > 1:
    script = [str(tiny.ROOT / 'launch' / 'local.py'), '--']
  results = []
  for i, cache in enumerate(('', 'cache', 'cache')):
    cache = tmp_path / cache if cache else ''
    workdir = tmp_path / str(i)
    done = subprocess.run(
        [sys.executable, *script, f'--config={config}',
         f'--workdir={workdir}', f'--compilation_cache={cache}'],
        env=environment(XDG_CACHE_HOME=str(tmp_path / 'user')),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert 'Error reading' not in done.stdout + done.stderr
    saved = sorted((workdir / 'checkpoints').rglob('*'))
    assert saved
    results.append((workdir / 'results.json').read_bytes())
  assert results[0] == results[1] == results[2]
  assert json.loads(results[0])['step'] == 4
  assert list((tmp_path / 'cache').rglob('*-cache'))
  assert not (tmp_path / 'user' / 'flax_enn').exists()
