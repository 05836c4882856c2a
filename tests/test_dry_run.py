"""What a dry run says of programs whose cost is known in closed form."""

import functools
import importlib.util
import logging
import re
import types

from absl import logging as absl_logging
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from flax_enn import sharding
from flax_enn.dry_run import DryRunReport, cost_analysis, dry_run, module_of
from flax_enn.dry_run.collectives import (
  Collective,
  device_groups,
  find_collectives,
)
from flax_enn.dry_run.cost_analysis import bytes_accessed
from flax_enn.dry_run.program import Program
from flax_enn.dry_run.report import MemoryUse, StepCost
from flax_enn.dry_run.topology import CHIPS, GIB, Topology
from tests import tiny

# Data, index, fsdp of the eight devices.
MESH = {'data': 4, 'index': 2}


@pytest.fixture(scope='module', autouse=True)
def _compiled_anew():
  with tiny.compiled_anew():
    yield


def mesh_of(**sizes):
  return sharding.create_mesh(sizes or MESH)


def like(*shape, spec=None, dtype=jnp.float32):
  where = None
  if spec is not None:
    where = jax.sharding.NamedSharding(mesh_of(), spec)
  return jax.ShapeDtypeStruct(shape, dtype, sharding=where)


def compiled(fn, *args):
  """A program as the dry run reads it, and what XLA itself says it costs."""
  done = jax.jit(fn).lower(*args).compile()
  return Program(done.as_text()), done.cost_analysis()


def flops(program):
  return sum(cost_analysis.flops(program).values())


def flops_as_written(fn, *args):
  """Of all devices together, before XLA has changed anything."""
  return flops(Program(jax.jit(fn).lower(*args).as_text('hlo')))


CONVOLUTIONS = {
    'same': ((2, 9, 9, 4), (3, 3, 4, 8), {}),
    'strides': ((2, 9, 8, 4), (3, 2, 4, 8), {'window_strides': (2, 3)}),
    'valid': ((2, 9, 9, 4), (3, 3, 4, 8), {'padding': 'VALID'}),
    'wide': ((2, 5, 5, 4), (5, 3, 4, 8), {'padding': ((4, 2), (0, 7))}),
    'cut': ((2, 9, 9, 4), (3, 3, 4, 8), {'padding': ((-1, 2), (0, -2))}),
    'groups': ((2, 9, 9, 8), (3, 3, 2, 12), {'feature_group_count': 4}),
    'depthwise': ((2, 9, 9, 3), (3, 3, 1, 6), {'feature_group_count': 3}),
    'batches': ((6, 9, 9, 4), (3, 3, 4, 6), {'batch_group_count': 3}),
    'holes': ((2, 9, 9, 4), (3, 3, 4, 8), {'rhs_dilation': (2, 3)}),
    'transposed': (
        (2, 5, 5, 4),
        (3, 3, 4, 8),
        {'lhs_dilation': (2, 3), 'padding': ((2, 2), (1, 3))},
    ),
}


@pytest.mark.parametrize('name', CONVOLUTIONS)
def test_operations_of_a_convolution(name):
  x, w, options = CONVOLUTIONS[name]
  options = {'window_strides': (1, 1), 'padding': 'SAME', **options}
  convolve = functools.partial(
      jax.lax.conv_general_dilated,
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
      **options,
  )
  # Where all numbers are one, each result is the number of its products.
  products = int(convolve(np.ones(x, 'f4'), np.ones(w, 'f4')).sum())
  assert products
  assert flops_as_written(convolve, like(*x), like(*w)) == 2 * products
  program, _ = compiled(convolve, like(*x), like(*w))
  assert flops(program) == 2 * products


def test_operations_of_a_gradient():
  """Backward, a convolution is two of the same number of products."""

  def loss(w, x):
    y = jax.lax.conv(x, w, (2, 2), 'SAME')
    return (y**2).sum()

  args = like(8, 3, 3, 3), like(2, 3, 16, 16)
  forward = flops_as_written(loss, *args)
  both = jax.grad(loss, argnums=(0, 1))
  assert flops_as_written(both, *args) == 3 * forward
  assert flops(compiled(both, *args)[0]) == 3 * forward


def chain(x, w):
  """Seven products, one after the other."""

  def body(h, _):
    h = jnp.tanh(h @ w)
    return h, h.sum()

  return jax.lax.scan(body, x, None, length=7)


def test_loops_are_multiplied_out():
  x, w = like(16, 32, spec=P('data')), like(32, 32, spec=P())
  total = 7 * 2 * 16 * 32 * 32
  assert flops_as_written(chain, x, w) == total
  program, of_xla = compiled(chain, x, w)
  assert flops(program) == total / 4  # the index axis repeats them
  assert of_xla['flops'] < flops(program) / 3
  assert not program.unknown_trip_counts


def test_loops_inside_loops():
  def twice(x, w):
    return jax.lax.scan(lambda h, _: (chain(h, w)[0], None), x, None, 3)[0]

  x, w = like(16, 32), like(32, 32)
  total = 3 * 7 * 2 * 16 * 32 * 32
  assert flops_as_written(twice, x, w) == total
  assert flops(compiled(twice, x, w)[0]) == total


def test_a_loop_is_counted_by_its_condition():
  """XLA for TPUs does not write down how often a loop runs."""
  text = jax.jit(chain).lower(like(16, 32), like(32, 32)).compile().as_text()
  bare = re.sub(r'"known_trip_count":\{[^}]*\}', '', text)
  assert bare != text
  assert flops(Program(bare)) == flops(Program(text))
  for found, other in (('LT', 'LE'), ('constant(7)', 'constant(-9)')):
    assert found in bare
    changed = Program(bare.replace(found, other))
    assert flops(changed) != flops(Program(text))


def test_a_loop_of_unknown_length_is_said():
  def halve(x, w):
    return jax.lax.while_loop(
        lambda x: x.sum() > 1, lambda x: jnp.tanh(x @ w), x
    )

  program, _ = compiled(halve, like(8, 8), like(8, 8))
  assert flops(program) == 2 * 8**3
  assert program.unknown_trip_counts == 1


def test_what_nothing_uses_is_left_out():
  def unused(x, w):
    _ = x @ w @ w
    return x @ w

  def fn(x, w):
    return jax.lax.scan(lambda h, _: (unused(h, w), None), x, None, 3)[0]

  assert flops_as_written(fn, like(4, 8), like(8, 8)) == 3 * 2 * 4 * 8 * 8


def test_the_longest_of_alternatives_counts():
  def fn(x, w):
    return jax.lax.cond(x[0, 0] > 0, lambda: x @ w @ w, lambda: x @ w)

  args = like(4, 8), like(8, 8)
  expected = 2 * (2 * 4 * 8 * 8)
  assert flops_as_written(fn, *args) == expected
  assert flops(compiled(fn, *args)[0]) == expected


def test_bytes_moved():
  n = 1 << 16
  program, _ = compiled(lambda x: jnp.tanh(x) + 1, like(n))
  assert bytes_accessed(program) == 8 * n  # one fusion: in and out


def test_bytes_of_slices_in_a_loop():
  """Each trip reads a row of the matrix, not all of it."""

  def total(rows):
    return jax.lax.scan(
        lambda t, row: (t + jnp.sin(row), None), jnp.zeros(rows.shape[1]), rows
    )[0]

  rows, n = 50, 4096
  program, _ = compiled(total, like(rows, n))
  # Row, sum and sum again; copies of a few sums at the ends.
  assert bytes_accessed(program) == pytest.approx(3 * 4 * rows * n, rel=0.4)


# As XLA writes it for a TPU: T is a tiling, S(1) the memory on the chip.
TPU = """HloModule jit_f, is_scheduled=true, num_partitions=4

%fused (p.0: bf16[8,16], p.1: bf16[16,4]) -> f32[8,4] {
  %p.0 = bf16[8,16]{1,0:T(8,128)(2,1)} parameter(0)
  %p.1 = bf16[16,4]{1,0:T(8,128)(2,1)S(1)} parameter(1)
  ROOT %c = f32[8,4]{1,0:T(8,128)} convolution(%p.0, %p.1), dim_labels=bf_io->bf
}

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[]{:T(128)} parameter(0)
  %b = f32[]{:T(128)} parameter(1)
  ROOT %s = f32[]{:T(128)} add(%a, %b)
}

ENTRY %main (x: bf16[8,16], w: bf16[16,4]) -> (f32[8,4], /*index=1*/f32[8,4]) {
  %x = bf16[8,16]{1,0:T(8,128)(2,1)} parameter(0)
  %w = bf16[16,4]{1,0:T(8,128)(2,1)} parameter(1)
  %slice-start = ((bf16[16,4]{1,0:T(8,128)(2,1)}), bf16[4,4]{1,0:S(1)}, \
u32[]{:S(2)}) slice-start(%w), slice={[0:4], [0:4]}
  %slice-done = bf16[4,4]{1,0:T(8,128)(2,1)S(1)} slice-done(%slice-start)
  %copy-start = (bf16[16,4]{1,0:T(8,128)(2,1)S(1)}, bf16[16,4]{1,0}, \
u32[]{:S(2)}) copy-start(%w)
  %copy-done = bf16[16,4]{1,0:T(8,128)(2,1)S(1)} copy-done(%copy-start)
  %f = f32[8,4]{1,0:T(8,128)} fusion(%x, %copy-done), kind=kOutput, calls=%fused
  %r = (f32[8,4]{1,0:T(8,128)S(1)}, f32[8,4]{1,0:T(8,128)}) \
all-reduce-start(%f, %f), replica_groups=mesh['axis_0'=2,'axis_1'=2] \
{'axis_1'}, use_global_device_ids=true, to_apply=%add
  ROOT %d = (f32[8,4]{1,0:T(8,128)S(1)}, f32[8,4]{1,0:T(8,128)}) \
all-reduce-done(%r)
}
"""


def test_a_program_for_a_tpu():
  program = Program(TPU)
  assert flops(program) == 2 * 8 * 16 * 4
  x, w, out = 2 * 8 * 16, 2 * 16 * 4, 4 * 8 * 4
  # The kernel is fetched once and a quarter of it again, the result is written,
  # read twice and written once.
  assert bytes_accessed(program) == w + w // 4 + (x + out) + 2 * out + out
  (found,) = find_collectives(program, fake_mesh((2, 2)))
  assert found == Collective('all-reduce', ('b',), False, 1, 2 * out, 2 * out)


def test_a_collective_in_parts():
  """While one fusion after the other computes, one gather goes on."""
  text = """
%part (p: f32[16], q: f32[2,16], r: f32[64]) -> (f32[16], f32[2,16], f32[64]) {
  %p = f32[16]{0} parameter(0)
  %q = f32[2,16]{1,0} parameter(1)
  %r = f32[64]{0} parameter(2)
  %g = f32[2,16]{1,0} all-gather(%p), channel_id=7, replica_groups={{0,1}}
  %s = f32[64]{0} sine(%r)
  ROOT %t = (f32[16]{0}, f32[2,16]{1,0}, f32[64]{0}) tuple(%p, %g, %s)
}

ENTRY %main (x: f32[16], y: f32[2,16], z: f32[64]) -> f32[64] {
  %x = f32[16]{0} parameter(0)
  %y = f32[2,16]{1,0} parameter(1)
  %z = f32[64]{0} parameter(2)
  %a = (f32[16]{0}, f32[2,16]{1,0}, f32[64]{0}) fusion(%x, %y, %z), calls=%part
  %a0 = f32[16]{0} get-tuple-element(%a), index=0
  %a1 = f32[2,16]{1,0} get-tuple-element(%a), index=1
  %a2 = f32[64]{0} get-tuple-element(%a), index=2
  ROOT %b = (f32[16]{0}, f32[2,16]{1,0}, f32[64]{0}) fusion(%a0, %a1, %a2), \
calls=%part
}
"""
  program = Program(text)
  (found,) = find_collectives(program, fake_mesh((2, 1)))
  assert found == Collective('all-gather', ('a',), False, 1, 128, 64)
  assert bytes_accessed(program) == 2 * (256 + 256)  # the sines


def fake_mesh(shape, slices=1):
  """A mesh whose first axis goes over the slices."""
  devices = np.empty(shape, object)
  for at in np.ndindex(shape):
    number = at[0] * slices // shape[0]
    devices[at] = types.SimpleNamespace(slice_index=number)
  return types.SimpleNamespace(
      devices=devices, size=devices.size, axis_names='abcd'[: len(shape)]
  )


def send(name, groups, opcode='all-gather'):
  """A program that sends 64 bytes from each device."""
  text = f"""
ENTRY %main (x: f32[16]) -> f32[16] {{
  %x = f32[16]{{0}} parameter(0)
  ROOT %y = f32[16]{{0}} {opcode}(%x), channel_id=1, {name}={groups}, foo={{0}}
}}
"""
  return Program(text)


@pytest.mark.parametrize(
    ('groups', 'expected'),
    [
        ('{{0,1},{2,3},{4,5},{6,7}}', [[0, 1], [2, 3], [4, 5], [6, 7]]),
        ('{{0,2,4,6},{1,3,5,7}}', [[0, 2, 4, 6], [1, 3, 5, 7]]),
        ('[2,4]<=[8]', [[0, 1, 2, 3], [4, 5, 6, 7]]),
        ('[2,4]<=[4,2]T(1,0)', [[0, 2, 4, 6], [1, 3, 5, 7]]),
        ("mesh['a'=4,'b'=2] {'b'}", [[0, 1], [2, 3], [4, 5], [6, 7]]),
        ("mesh['a'=4,'b'=2] {'a'}", [[0, 2, 4, 6], [1, 3, 5, 7]]),
        ("mesh['a'=2,'b'=2,'c'=2] {'a','c'}", [[0, 1, 4, 5], [2, 3, 6, 7]]),
        ("mesh['a'=8] {'a':(1)2}", [[0, 4], [1, 5], [2, 6], [3, 7]]),
        ("mesh['a'=8] {'a':(4)2}", [[0, 1], [2, 3], [4, 5], [6, 7]]),
        (
            "mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'b'}",
            [[0, 4], [1, 5], [2, 6], [3, 7]],
        ),
        (
            "mesh['a'=4,'b'=2], device_ids=(7,6,5,4,3,2,1,0) {'b'}",
            [[7, 6], [5, 4], [3, 2], [1, 0]],
        ),
        ('{}', [[0, 1, 2, 3, 4, 5, 6, 7]]),
    ],
    ids=str,
)
def test_groups_of_devices(groups, expected):
  program = send('replica_groups', groups)
  (run,) = (r for r in program.runs() if r.instruction.root)
  found = device_groups(run.instruction, 8)
  assert found.tolist() == expected


@pytest.mark.parametrize(
    ('groups', 'axes', 'between'),
    [
        ('{{0,1},{2,3},{4,5},{6,7}}', 'b', False),
        ('{{0,2},{1,3},{4,6},{5,7}}', 'a', False),
        ('{{0,4},{1,5},{2,6},{3,7}}', 'a', True),
        ('[1,8]<=[8]', 'ab', True),
    ],
)
def test_what_leaves_a_slice(groups, axes, between):
  program = send('replica_groups', groups)
  (found,) = find_collectives(program, fake_mesh((4, 2), slices=2))
  assert (''.join(found.axes), found.over_dcn) == (axes, between)


def test_exchanges():
  pairs = '{{0,1},{2,3},{4,5},{6,7}}'
  program = send('source_target_pairs', pairs, 'collective-permute')
  (found,) = find_collectives(program, fake_mesh((4, 2)))
  assert found == Collective(
      'collective-permute', ('b',), False, 1, 64, 64
  )
  # Of another slice's devices.
  program = send('source_target_pairs', '{}', 'collective-permute')
  assert not find_collectives(program, fake_mesh((4, 2)))


def test_collectives_of_a_known_program():
  """Explicit ones: each size, and what a ring of n devices sends of it."""

  @functools.partial(
      jax.shard_map,
      mesh=mesh_of(),
      in_specs=P('data', 'index'),
      out_specs=P('data', 'index'),
  )
  def fn(x):  # [4, 64] on each device
    def body(h, _):
      return h + jax.lax.psum(jnp.sin(h), 'data') / 4, None

    h, _ = jax.lax.scan(body, jax.lax.psum(x, 'data') + x, None, length=5)
    whole = jax.lax.all_gather(h, 'index', axis=1, tiled=True)
    part = jax.lax.psum_scatter(
        jnp.cos(whole), 'index', scatter_dimension=1, tiled=True
    )
    moved = jax.lax.ppermute(part, 'data', [(i, (i + 1) % 4) for i in range(4)])
    return jnp.tanh(moved) + jax.lax.pmax(jnp.exp(moved).sum(), 'data')

  program, _ = compiled(fn, like(16, 128, spec=P('data', 'index')))
  found = {
      (c.name, c.axes, c.count, c.bytes, c.bytes_sent)
      for c in find_collectives(program, mesh_of())
  }
  size = 4 * 4 * 64
  of_data, of_index = ('data',), ('index',)
  assert found == {
      ('all-reduce', of_data, 7, 6 * size + 4, 6 * (2 * size * 3 // 4) + 6),
      ('all-gather', of_index, 1, 2 * size, size),
      ('reduce-scatter', of_index, 1, 2 * size, size),
      ('collective-permute', of_data, 1, size, size),
  }


@pytest.mark.parametrize(
    ('scope', 'module'),
    [
        ('jit(train_step)/jvp(vmap(Epinet))/base/ResNet/conv', 'base'),
        ('jit(f)/transpose(jvp(vmap(Epinet)))/head/out/dot_general', 'head'),
        ('jit(f)/jvp(Epinet)/Epinet._prior/prior_conv/ConvPrior', 'prior_conv'),
        ('jit(f)/vmap(Ensemble)/vmap(head.<lambda>)/vmap(head)/c', 'head'),
        ('jit(f)/while/body/checkpoint/Epinet/base/head/dot', 'base'),
        ('jit(train_step)/add', 'rest'),
        ('', 'rest'),
    ],
)
def test_module_of_a_scope(scope, module):
  modules = {'base', 'head', 'prior', 'prior_conv'}
  assert module_of(scope, modules) == module


def test_dry_run_of_an_epinet():
  """Its products are known; those of no example are done by every device."""
  report = dry_run(tiny.epinet(), 'cpu:8')
  training, evaluation = report.steps
  assert report.mesh == {'data': 8, 'index': 1, 'fsdp': 1}
  batch, n, index, features, hidden, classes = 16, 2, 3, 2 + 6, 5, 2
  first = batch * features * hidden  # layer of the features
  last = n * batch * hidden * classes
  of_index = n * index * hidden  # layer of the index
  kernel = n * (hidden + 1) * classes * index  # contracted, with its bias
  # A layer has one product forward and two backward: one where the input or
  # the kernel is not trained.
  head = {'examples': 2 * first + 3 * last, 'none': 2 * of_index + 2 * kernel}
  prior = {'examples': first + last, 'none': of_index + kernel}
  base = {'examples': batch * (2 * 2 * 6 + 3 * 6 * classes), 'none': 0}
  modules = {'head': head, 'prior': prior, 'base': base}
  for name, products in modules.items():
    expected = 2 * (products['examples'] / 8 + products['none'])
    assert training.flops[name] == expected, name
  total = sum(sum(products.values()) for products in modules.values())
  rest = training.flops.get('rest', 0)
  assert training.ideal_flops == pytest.approx(2 * total / 8 + rest, rel=0.01)
  # 8 indices, 4 at once. XLA takes what is free of the index out of the loop.
  assert evaluation.flops['base'] == 2 * batch * (2 * 6 + 6 * classes) / 8
  of_indices = 4 * (last / 8 + of_index + kernel)
  for name in ('head', 'prior'):
    assert evaluation.flops[name] == 2 * (first / 8 + of_indices), name
  assert training.memory.total > training.memory.arguments > 0
  assert {c.axes for c in training.collectives} == {('data',)}


@pytest.mark.slow
def test_dry_run_reads_no_data(tmp_path, monkeypatch, caplog):
  config = tiny.epinet()
  config.dataset = {
      'name': 'imagenet2012',
      'data_dir': str(tmp_path / 'nowhere'),
      'image_size': 4,
  }
  monkeypatch.setattr(absl_logging.get_absl_logger(), 'propagate', True)
  with caplog.at_level(logging.INFO, logger='absl'):
    text = str(dry_run(config, 'cpu:2'))
  assert text.startswith('cpu:2: 2 devices, mesh data 2, index 1, fsdp 1')
  assert 'training step, 8 examples for each device' in text
  assert 'evaluation step' in text
  assert re.search(r'modules .*head \d+\.\d%', text)
  assert re.search(r'all-reduce +data +\d+ ', text)
  assert not list(tmp_path.iterdir())
  for step in ('training', 'evaluation'):
    assert f'Compiling the {step} step for cpu:2' in caplog.messages


def test_data_that_say_the_shapes_must_be_there(tmp_path):
  path = tmp_path / 'nowhere.npz'
  config = tiny.epinet(dataset={'name': 'arrays', 'path': str(path)})
  with pytest.raises(ValueError, match='no such file') as caught:
    dry_run(config, 'cpu:2')
  for part in ('config.dataset: path', str(path), "'arrays'", 'from its files'):
    assert part in str(caught.value)


@pytest.mark.slow
def test_memory_of_an_evaluation_does_not_grow_with_the_indices():
  """With an epinet head in realistic proportions."""
  batch, classes, used = 32, 200, {}
  for n in (10, 1000):
    config = tiny.epinet(
        batch_size=batch,
        dataset={'name': 'fake', 'shape': (64,), 'classes': classes},
        **{
            'network.base': {'name': 'mlp', 'hiddens': (256,)},
            'network.features': ('hidden_0',),
            'network.index_dim': 20,
            'network.hiddens': (50, 50),
            'eval.num_indices': n,
            'eval.chunk': 10,
        },
    )
    memory = dry_run(config, 'cpu:1').steps[-1].memory
    used[n] = memory.outputs + memory.temporaries
  assert used[1000] < 1.5 * used[10]
  # It is not an accident of small numbers: all indices at once would not fit.
  everything = 1000 * batch * classes * 4
  assert 5 * used[1000] < everything


def test_dry_run_of_devices_that_do_not_divide():
  with pytest.raises(ValueError, match='16 is not divisible by the 3 devices'):
    dry_run(tiny.epinet(), 'cpu:3')


@pytest.mark.parametrize(
    ('text', 'topology'),
    [
        ('v5e:16x16', Topology('v5e', (16, 16))),
        ('v5p:4x4x4', Topology('v5p', (4, 4, 4))),
        ('v4:2x2x1', Topology('v4', (2, 2, 1))),
        ('tpu7x:2x2x1', Topology('tpu7x', (2, 2, 1))),
        ('v6e:16x16*2', Topology('v6e', (16, 16), 2)),
        ('cpu:8', Topology('cpu', (8,))),
    ],
)
def test_topology(text, topology):
  assert Topology.parse(text) == topology
  assert str(topology) == text


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('v5e', 'expected GENERATION:SHAPE.*v4, v5e, v5p, v6e, tpu7x and cpu'),
        ('v5e-256', 'expected GENERATION:SHAPE'),
        ('v5e:16x', 'expected GENERATION:SHAPE'),
        ('v5e:0x4', 'expected GENERATION:SHAPE'),
        ('v5e:4x4*0', 'expected GENERATION:SHAPE'),
        ('v9:4x4', "names 'v9'; known generations: v4, v5e.*tpu7x and cpu"),
        ('v5e:4x4x4', 'shape of 3 numbers; that of v5e has 2, such as v5e:4x4'),
        ('v4:4x4', 'shape of 2 numbers; that of v4 has 3, such as v4:4x4x4'),
        ('cpu:4x2', 'shape of 2 numbers; that of cpu has 1'),
        ('cpu:4*2', 'emulated devices have no slices'),
        ('cpu:4096', 'JAX has 8 CPU devices here. Set XLA_FLAGS=.*=4096'),
    ],
)
def test_bad_topologies_say_what_is_known(text, message):
  assert len(jax.devices()) == 8
  with pytest.raises(ValueError, match=message):
    dry_run(tiny.epinet(), text)


def test_missing_libtpu_says_what_to_install(monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(
      ModuleNotFoundError, match=r"needs libtpu.*pip install 'flax_enn\[tpu\]'"
  ):
    dry_run(tiny.epinet(), 'v5e:16x16')


def report_of(topology='v5e:2x2', **fields):
  step = StepCost('training', **fields)
  mesh = {'data': 4, 'index': 1, 'fsdp': 1}
  return str(DryRunReport(Topology.parse(topology), mesh, 64, (step,)))


@pytest.mark.parametrize(
    ('parts', 'verdict'),
    [
        ((8, 4, 3, 1), '16 GiB of 16 GiB: fits'),
        ((8, 4, 4, 1), '17 GiB of 16 GiB: does not fit'),
    ],
)
def test_verdict_on_memory(parts, verdict):
  memory = MemoryUse(*(part * GIB for part in parts))
  assert f'  holds   {verdict}\n' in report_of(memory=memory)
  text = report_of(memory=memory, topology='cpu:4')
  assert 'fit' not in text and 'at best' not in text


def test_what_xla_refuses_does_not_fit():
  said = 'Ran out of memory on HBM: needs 33.5G of 15.75G'
  assert f'  does not fit: {said}' in report_of(oom_message=said)


@pytest.mark.parametrize(
    ('amounts', 'line'),
    [
        ((197e10, 0, 0), 'compute 1.97 TFLOP, at best 10 ms, the bound'),
        ((0, 819e7, 0), 'memory  8.19 GB moved, at best 10 ms, the bound'),
        ((0, 0, 2e9), 'network 2 GB sent, at best 10 ms, the bound'),
    ],
)
def test_the_bound_by_published_rates(amounts, line):
  computed, accessed, sent = amounts
  ring = Collective('all-reduce', ('data',), False, 3, 10, sent)
  # The network between slices has no published rate here.
  slow = Collective('send', ('data',), True, 1, 10, 10**12)
  text = report_of(
      flops={'base': computed},
      bytes_accessed=accessed,
      collectives=(ring, slow),
  )
  assert f'  {line}\n' in text
  assert text.count('the bound') == 1
  assert re.search(r'send +data over DCN +1 +10 B +1 TB', text)


def test_published_rates_are_ordered():
  """The compute of a chip never waits for less than 100 operations a byte."""
  for name, chip in CHIPS.items():
    assert 100 < chip.flops / chip.hbm_bandwidth < 1000, name
    assert chip.ici_bandwidth < chip.hbm_bandwidth < chip.hbm * 100, name
