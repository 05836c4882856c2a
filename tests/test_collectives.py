"""What programs send between devices, and over which axes."""

import functools
import types

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from flax_enn.dry_run.collectives import (
  Collective,
  device_groups,
  find_collectives,
)
from flax_enn.dry_run.cost_analysis import bytes_accessed
from flax_enn.dry_run.program import Program
from tests import tiny
from tests.hlo_programs import compiled, flops, like, mesh_of


@pytest.fixture(scope='module', autouse=True)
def _compiled_anew():
  with tiny.compiled_anew():
    yield


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
