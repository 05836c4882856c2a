"""What one run of a compiled program costs each device.

XLA's own cost analysis counts the body of a loop once; here all of it is
counted as often as it runs.
"""

from collections.abc import Sequence
import math
import re

from flax_enn.training import collectives, flops
from flax_enn.training.hlo import Array, Instruction, Program, Run

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


def operations(program: Program) -> dict[str, int]:
  """Operations of products and convolutions, by the scope they come from."""
  found: dict[str, int] = {}
  for run in program.runs:
    count = run.times * _operations(run)
    if count:
      scope = run.instruction.scope
      found[scope] = found.get(scope, 0) + count
  return found


def _operations(run: Run) -> int:
  instruction = run.instruction
  if instruction.opcode == 'dot':
    lhs, _ = run.operands()
    axes = instruction.attribute('lhs_contracting_dims', r'\{[\d,]*\}')
    return flops.of_product(
        instruction.shape,
        [lhs.shape[int(axis)] for axis in re.findall(r'\d+', axes)],
    )
  if instruction.opcode == 'convolution':
    return _convolution(run)
  return 0


def _convolution(run: Run) -> int:
  instruction, (lhs, rhs) = run.instruction, run.operands()
  labels = instruction.attribute('dim_labels', r'[\w>\-]+')
  ins, kernels, outs = re.split(r'_|->', labels)
  text = instruction.attribute('window', r'\{[^}]*\}').strip('{}')
  window = dict(part.split('=') for part in text.split())
  axes = [c for c in outs if c.isdigit()]

  def field(name: str, axis: str, default: str) -> int:
    values = window.get(name, 'x'.join(len(axes) * [default])).split('x')
    return int(values[int(axis)].split('_')[0])

  windows = [
      flops.Window(
          lhs.shape[ins.index(axis)],
          rhs.shape[kernels.index(axis)],
          instruction.shape[outs.index(axis)],
          stride=field('stride', axis, '1'),
          low=field('pad', axis, '0_0'),
          holes=(
              field('lhs_dilate', axis, '1'),
              field('rhs_dilate', axis, '1'),
          ),
      )
      for axis in axes
  ]
  others = math.prod(instruction.shape[outs.index(c)] for c in 'bf')
  return flops.of_convolution(rhs.shape[kernels.index('i')], others, windows)


def moved(program: Program) -> int:
  """Bytes between the large memory and the chip.

  What a fusion computes in between stays on the chip, and of what it only
  takes slices of, only these are read.
  """
  return sum(
      run.times * _moved(program, run)
      for run in program.runs
      if not run.fused and run.instruction.opcode not in _FREE
  )


def _moved(program: Program, run: Run) -> int:
  instruction, operands = run.instruction, run.operands()
  opcode, results = instruction.opcode, instruction.arrays
  if opcode in _SLICES:
    return 2 * _large(results)
  if opcode == 'dynamic-update-slice':
    return 2 * _large(operands[1].arrays)
  if opcode == 'fusion':
    return _moved_by_fusion(program, instruction, operands)
  if opcode == 'slice-start':
    source, part, *_ = results
    return 0 if source.memory else part.bytes
  # What is done in the background is read at its start and written at its end.
  written = 0 if opcode.endswith('-start') else _large(results)
  if opcode.endswith('-done'):
    return written
  return written + sum(_large(o.arrays) for o in operands)


def _moved_by_fusion(
    program: Program, fusion: Instruction, operands: Sequence[Instruction]
) -> int:
  (name,) = fusion.called('calls')
  inside, root = program.computations[name], program.root(fusion)
  results = fusion.arrays
  if root.opcode == 'tuple':
    results = [
        array
        for operand, array in zip(root.operands, results)
        if inside[operand].opcode not in _PASSING
    ]
  in_place, total = '', _large(results)
  if root.opcode == 'dynamic-update-slice' and total:
    in_place = root.operands[0]
    total = _large(inside[root.operands[1]].arrays)
  for parameter in inside.values():
    if parameter.opcode != 'parameter' or parameter.name == in_place:
      continue
    read = _large(operands[int(parameter.literal)].arrays)
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


def _large(arrays: Sequence[Array]) -> int:
  return sum(a.bytes for a in arrays if not a.memory)
