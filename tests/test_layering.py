"""The architecture and house rules, as far as the sources show them.

A room is a module or package right below `flax_enn`; rooms are on floors. What
a room imports is on a lower floor, or on its own floor where rooms may meet.
"""

import ast
import graphlib
import io
from pathlib import Path
import re
import tokenize

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = (
    {
        'agreement', 'annotations', 'backend', 'checkpoint_flags',
        'command_line', 'compilation_cache', 'coordinator', 'core',
        'distributed', 'field_checks', 'gradient_gate', 'indexers', 'lock_file',
        'loggers', 'metric_writers', 'nnx_bridge', 'partial_evaluation',
        'run_folder', 'skipped', 'step_batch', 'storage', 'switches',
        'throttle', 'waiting', 'workdir_lock',
    },
    {'sampling', 'sharding', 'likelihoods'},
    {'networks', 'losses', 'metrics', 'data'},
    {'build', 'kinds'},
    {
        'config', 'config_files', 'data_section', 'library', 'model',
        'optimizer',
    },
    {'training', 'checkpoints', 'evaluation', 'inference', 'dry_run'},
    {
        'sweep', 'active_learning', 'experiment', 'extras', 'predict',
        'evaluate', 'export', 'feature_cache',
    },
    {'testbed', 'features'},
)
FLOOR = {room: i for i, rooms in enumerate(FLOORS) for room in rooms}
STRANGERS = FLOORS[2]  # never import each other
WITHOUT_JIT = {'networks', 'losses', 'metrics'}

LIBRARY = sorted(ROOT.glob('flax_enn/**/*.py'))
SOURCES = sorted(
    path
    for where in ('', 'flax_enn/**/', 'configs/**/', 'launch/**/', 'tests/**/')
    for path in ROOT.glob(f'{where}*.py')
)


def room_of(path):
  """'networks' for flax_enn/networks/epinet.py, '' for flax_enn/__init__.py."""
  parts = path.relative_to(ROOT / 'flax_enn').with_suffix('').parts
  return '' if parts[0] == '__init__' else parts[0]


def imports(tree):
  """The dotted names that a module imports, anywhere in it."""
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      module = '.' * node.level + (node.module or '')
      yield from (f'{module}.{alias.name}' for alias in node.names)


def rooms_imported(tree):
  """The rooms that a module imports; '' stands for `flax_enn` itself."""
  for name in imports(tree):
    first, _, rest = name.partition('.')
    if first == 'flax_enn':
      yield rest.partition('.')[0]


def layering(room, tree):
  """Imports that go up, or from a stranger to a stranger."""
  if room == '':
    return  # The public names may come from everywhere.
  if room not in FLOOR:
    yield f'is in no floor; give {room!r} a place in FLOORS'
    return
  for name in imports(tree):
    if name.startswith('.'):
      yield f'imports {name}: write the import in full'
  for other in set(rooms_imported(tree)) - {room}:
    if FLOOR.get(other, len(FLOORS)) > FLOOR[room]:
      yield f'imports {other or "flax_enn itself"}, from above'
    elif {room, other} <= STRANGERS:
      yield f'imports {other}, a stranger'


def mesh_axes(room, tree):
  """Mesh axes by name, or partitions made by hand, outside `sharding`."""
  if room == 'sharding':
    return
  fields = set()  # the keys of a config's `mesh` are fields
  for node in ast.walk(tree):
    if isinstance(node, ast.Dict):
      fields.update(node.keys)
    elif isinstance(node, ast.Constant):
      if node.value == 'fsdp' and node not in fields:
        yield f'line {node.lineno} names a mesh axis'
    elif isinstance(node, ast.keyword):
      names = node.arg in ('axis_name', 'axis_names', 'spmd_axis_name')
      if names and isinstance(node.value, ast.Constant):
        yield f'line {node.value.lineno} names a mesh axis'
  for name in imports(tree):
    if re.search(r'PartitionSpec|NamedSharding|make_mesh', name):
      yield f'imports {name}: only sharding lays arrays out'


def jit(room, tree):
  """Compilation inside networks, losses or metrics."""
  if room in WITHOUT_JIT:
    for node in ast.walk(tree):
      if isinstance(node, ast.Attribute) and node.attr in ('jit', 'pjit'):
        yield f'line {node.lineno} compiles'
    if 'jax.jit' in imports(tree):
      yield 'imports jax.jit'


RULES = (layering, mesh_axes, jit)


@pytest.mark.parametrize('rule', RULES)
def test_library(rule):
  found = [
      f'{path.relative_to(ROOT)} {complaint}'
      for path in LIBRARY
      for complaint in rule(room_of(path), ast.parse(path.read_text()))
  ]
  assert not found, '\n'.join(found)


@pytest.mark.parametrize(
    'rule, room, source',
    [
        (layering, 'core', 'from flax_enn import sharding'),
        (layering, 'sampling', 'def f():\n  import flax_enn.networks.epinet'),
        (layering, 'losses', 'from flax_enn.metrics import marginal'),
        (layering, 'data', 'import flax_enn'),
        (layering, 'metrics', 'from flax_enn import Batch'),
        (layering, 'networks', 'from .frozen import Frozen'),
        (layering, 'attic', ''),
        (mesh_axes, 'networks', "constrain(x, 'fsdp')"),
        (mesh_axes, 'losses', "jax.lax.psum(x, axis_name='data')"),
        (mesh_axes, 'training', 'from jax.sharding import PartitionSpec as P'),
        (jit, 'networks', 'f = jax.jit(g)'),
        (jit, 'metrics', 'from jax import jit'),
    ],
)
def test_rule_finds(rule, room, source):
  assert list(rule(room, ast.parse(source)))


def test_rooms_have_no_cycle():
  graph = {}
  for path in LIBRARY:
    room = room_of(path)
    others = set(rooms_imported(ast.parse(path.read_text()))) - {room}
    graph.setdefault(room, set()).update(others)
  graphlib.TopologicalSorter(graph).prepare()


def test_names_say_what_is_inside():
  vague = re.compile(r'(^|_)(utils?|helpers?|misc|common)(_|$)')
  assert not [path for path in SOURCES if vague.search(path.stem)]


def test_modules_are_short():
  long = {
      str(path.relative_to(ROOT)): lines
      for path in LIBRARY
      if (lines := len(path.read_text().splitlines())) > 255
  }
  assert not long


def test_folders_are_packages():
  """What has no __init__.py is missing from an installed flax_enn."""
  folders = {path.parent for path in LIBRARY}
  assert not [f for f in folders if not (f / '__init__.py').exists()]


def test_comments_silence_nothing():
  silencer = re.compile(r'noqa|type: *ignore|py\w+: *ignore|TODO|FIXME|XXX')
  found = [
      f'{path.relative_to(ROOT)}:{token.start[0]} {token.string}'
      for path in SOURCES
      for token in tokenize.tokenize(io.BytesIO(path.read_bytes()).readline)
      if token.type == tokenize.COMMENT and silencer.search(token.string)
  ]
  assert not found, '\n'.join(found)
