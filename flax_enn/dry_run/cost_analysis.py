"""FLOPs and bytes of a program on one device.

XLA's own cost analysis counts the body of a loop once; here everything is
counted as often as it runs. FLOPs are those of matrix products and
convolutions, two for a multiplication and an addition: all else that a network
does is proportional to the memory that it touches.
"""

from collections.abc import Sequence
import math
import re

import numpy as np

from flax_enn.dry_run import collectives
from flax_enn.dry_run.hlo import Array, Instruction
from flax_enn.dry_run.program import Program, Run, total_cost

# Instructions that move nothing, or whose parts are counted in their place.
_FREE = (
    'parameter', 'constant', 'tuple', 'get-tuple-element', 'bitcast', 'while',
    'call', 'conditional', 'after-all', 'partition-id', 'replica-id',
    'opt-barrier', 'add-dependency',
)  # fmt: skip
_SLICES = ('dynamic-slice', 'slice', 'gather')
# What a fusion hands on as it is. XLA for TPUs spreads one collective over many
# fusions, so that it goes on while they compute.
_PASSING = ('parameter', *collectives.NAMES)


def flops(program: Program) -> dict[str, int]:
  """FLOPs of matrix products and convolutions, by the scope they come from."""
  found: dict[str, int] = {}
  for run in program.runs(_flops):
    if count := run.trip_count * _flops(run):
      scope = run.instruction.scope
      found[scope] = found.get(scope, 0) + count
  return found


def _flops(run: Run) -> int:
  if run.instruction.opcode == 'dot':
    return matmul_flops(run)
  return conv_flops(run) if run.instruction.opcode == 'convolution' else 0


def matmul_flops(run: Run) -> int:
  """Two for each result and each of the products that are its sum."""
  lhs, _ = run.operands()
  axes = run.instruction.attribute('lhs_contracting_dims', r'\{[\d,]*\}')
  contracted = [lhs.shape[int(axis)] for axis in re.findall(r'\d+', axes)]
  return 2 * math.prod((*run.instruction.shape, *contracted))


def conv_flops(run: Run) -> int:
  """Leaves out what falls on padding and on the holes of a dilation."""
  instruction, (lhs, rhs) = run.instruction, run.operands()
  labels = instruction.attribute('dim_labels', r'[\w>\-]+')
  ins, kernels, outs = re.split(r'_|->', labels)
  text = instruction.attribute('window', r'\{[^}]*\}').strip('{}')
  window = dict(part.split('=') for part in text.split())
  axes = [c for c in outs if c.isdigit()]

  def field(name: str, axis: str, default: str) -> int:
    values = window.get(name, 'x'.join(len(axes) * [default])).split('x')
    return int(values[int(axis)].split('_')[0])

  count = 2 * rhs.shape[kernels.index('i')]
  count *= math.prod(instruction.shape[outs.index(c)] for c in 'bf')
  for axis in axes:
    count *= num_valid(
        lhs.shape[ins.index(axis)],
        rhs.shape[kernels.index(axis)],
        instruction.shape[outs.index(axis)],
        stride=field('stride', axis, '1'),
        low=field('pad', axis, '0_0'),
        dilation=field('rhs_dilate', axis, '1'),
        input_dilation=field('lhs_dilate', axis, '1'),
    )
  return count


def num_valid(
    size: int, kernel: int, out: int, *, stride: int, low: int,
    dilation: int, input_dilation: int,
) -> int:  # fmt: skip
  """Pairs of an output and a weight that meet an input, along one axis.

  Args:
    size: number of inputs.
    kernel: number of weights.
    out: number of outputs.
    stride: between two outputs.
    low: padding in front; negative where the input is cut.
    dilation: of the kernel.
    input_dilation: of the input.
  """
  at = np.arange(out)[:, None] * stride + np.arange(kernel) * dilation - low
  inside = (at >= 0) & (at < (size - 1) * input_dilation + 1)
  return int((inside & (at % input_dilation == 0)).sum())


def bytes_accessed(program: Program) -> int:
  """Bytes between HBM and the chip.

  What a fusion computes in between stays on the chip, and of what it only
  takes slices of, only these are read.
  """

  def cost(run: Run) -> int:
    if run.fused or run.instruction.opcode in _FREE:
      return 0
    return _bytes(program, run)

  return total_cost(program.runs(cost), cost)


def _bytes(program: Program, run: Run) -> int:
  instruction, operands = run.instruction, run.operands()
  opcode, results = instruction.opcode, instruction.arrays
  if opcode in _SLICES:
    return 2 * _in_hbm(results)
  if opcode == 'dynamic-update-slice':
    return 2 * _in_hbm(operands[1].arrays)
  if opcode == 'fusion':
    return _bytes_of_fusion(program, instruction, operands)
  if opcode == 'slice-start':
    source, part, *_ = results
    return 0 if source.memory else part.bytes
  # What is done in the background is read at its start and written at its end.
  written = 0 if opcode.endswith('-start') else _in_hbm(results)
  if opcode.endswith('-done'):
    return written
  return written + sum(_in_hbm(o.arrays) for o in operands)


def _bytes_of_fusion(
    program: Program, fusion: Instruction, operands: Sequence[Instruction]
) -> int:
  (name,) = fusion.called('calls')
  inside, root = program.computations[name], program.root(name)
  results = fusion.arrays
  if root.opcode == 'tuple':
    results = [
        array
        for operand, array in zip(root.operands, results)
        if inside[operand].opcode not in _PASSING
    ]
  in_place, total = '', _in_hbm(results)
  if root.opcode == 'dynamic-update-slice' and total:
    in_place = root.operands[0]
    total = _in_hbm(inside[root.operands[1]].arrays)
  for parameter in inside.values():
    if parameter.opcode != 'parameter' or parameter.name == in_place:
      continue
    read = _in_hbm(operands[int(parameter.literal)].arrays)
    users = [
        user
        for user in inside.values()
        if parameter.name in user.operands
        and user.opcode not in ('tuple', *collectives.NAMES)
    ]
    if all(user.opcode in _SLICES for user in users):
      read = min(read, sum(a.bytes for user in users for a in user.arrays))
    total += read
  return total


def _in_hbm(arrays: Sequence[Array]) -> int:
  return sum(a.bytes for a in arrays if not a.memory)
