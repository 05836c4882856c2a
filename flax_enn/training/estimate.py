"""What a dry run has found, and what it means by the rates of the chip."""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import math

from flax_enn.training.chips import GIB, Chip, Topology
from flax_enn.training.collectives import Collective


@dataclasses.dataclass(frozen=True)
class Memory:
  """Bytes that one device holds while a step runs.

  Attributes:
    arguments: state and batch.
    outputs: what is not written in place of arguments.
    temporaries: what is there in between.
    code: the program.
  """

  arguments: int
  outputs: int
  temporaries: int
  code: int

  @property
  def total(self) -> int:
    return self.arguments + self.outputs + self.temporaries + self.code


@dataclasses.dataclass(frozen=True)
class Step:
  """What one step costs one device.

  Attributes:
    name: `'training'` or `'evaluation'`.
    refused: what XLA says where the memory does not suffice; all else is then
      empty.
    memory: what it holds.
    flops: operations of products and convolutions, by the network's modules.
    share: operations that this device has where nothing is repeated: those of
      the whole step, as it is written, over the number of devices; None where
      that is not counted.
    moved: bytes between memory and chip.
    collectives: what devices send each other.
    unknown_loops: loops that are counted once, since their length is not known.
  """

  name: str
  refused: str = ''
  memory: Memory = Memory(0, 0, 0, 0)
  flops: Mapping[str, int] = dataclasses.field(default_factory=dict)
  share: float | None = None
  moved: int = 0
  collectives: tuple[Collective, ...] = ()
  unknown_loops: int = 0

  @property
  def operations(self) -> int:
    """All operations."""
    return sum(self.flops.values())

  @property
  def sent(self) -> int:
    """Bytes that the device sends to others of its slice."""
    return sum(c.sent for c in self.collectives if not c.between_slices)

  def seconds(self, chip: Chip) -> dict[str, float]:
    """The least that each resource takes, by the published rates."""
    return {
        'compute': self.operations / chip.flops,
        'memory': self.moved / chip.hbm_rate,
        'network': self.sent / chip.ici_rate,
    }


@dataclasses.dataclass(frozen=True)
class Report:
  """What a dry run has found.

  Attributes:
    topology: of the devices.
    mesh: sizes of its axes.
    batch_size: B.
    steps: training and evaluation.
  """

  topology: Topology
  mesh: Mapping[str, int]
  batch_size: int
  steps: tuple[Step, ...]

  def __str__(self) -> str:
    devices = math.prod(self.mesh.values())
    axes = ', '.join(f'{axis} {size}' for axis, size in self.mesh.items())
    lines = [f'{self.topology}: {devices} devices, mesh {axes}']
    each = self.batch_size / devices
    for step in self.steps:
      lines += ['', f'{step.name} step, {each:g} examples for each device']
      lines += [f'  {line}' for line in _lines(step, self.topology.chip)]
    return '\n'.join(lines)


def _lines(step: Step, chip: Chip | None) -> Iterator[str]:
  if step.refused:
    yield f'does not fit: {step.refused}'
    return
  memory = step.memory
  yield 'holds   ' + _verdict(memory, chip)
  parts = ('arguments', 'outputs', 'temporaries', 'code')
  yield '        ' + ', '.join(
      f'{part} {_binary(getattr(memory, part))}' for part in parts
  )
  yield from _bounds(step, chip)
  if step.operations:
    yield 'modules ' + ', '.join(
        f'{name} {count / step.operations:.1%}'
        for name, count in step.flops.items()
    )
  if step.share:
    yield (
        f'        {step.operations / step.share:.3f} of an even share of the'
        ' whole step'
    )
  if step.unknown_loops:
    yield f'        {step.unknown_loops} loops of unknown length count once'
  yield from _table(step.collectives)


def _verdict(memory: Memory, chip: Chip | None) -> str:
  used = _binary(memory.total)
  if chip is None:
    return used
  fits = 'fits' if memory.total <= chip.hbm else 'does not fit'
  return f'{used} of {_binary(chip.hbm)}: {fits}'


def _bounds(step: Step, chip: Chip | None) -> Iterator[str]:
  amounts = {
      'compute': _amount(step.operations, 'FLOP'),
      'memory': f'{_amount(step.moved, "B")} moved',
      'network': f'{_amount(step.sent, "B")} sent',
  }
  if chip is None:
    for name, amount in amounts.items():
      yield f'{name:8}{amount}'
    return
  seconds = step.seconds(chip)
  longest = max(seconds, key=seconds.__getitem__)
  for name, value in seconds.items():
    bound = ', the bound' if name == longest else ''
    yield f'{name:8}{amounts[name]}, at best {_amount(value, "s")}{bound}'


def _table(collectives: Sequence[Collective]) -> Iterator[str]:
  if not collectives:
    yield 'no collectives'
    return
  rows = [('collective', 'along', 'count', 'bytes', 'sent')]
  for c in collectives:
    along = ', '.join(c.axes) + (' between slices' if c.between_slices else '')
    size, sent = _amount(c.bytes, 'B'), _amount(c.sent, 'B')
    rows.append((c.name, along, f'{c.count}', size, sent))
  widths = [max(map(len, column)) for column in zip(*rows)]
  for name, along, *numbers in rows:
    cells = [name.ljust(widths[0]), along.ljust(widths[1])]
    cells += map(str.rjust, numbers, widths[2:])
    yield '  '.join(cells)


def _amount(value: float, unit: str) -> str:
  """`1.50 TFLOP`, `55.8 MB`, `6.10 ms`."""
  for factor, prefix in _PREFIXES:
    if value >= factor:
      return f'{value / factor:.3g} {prefix}{unit}'
  return f'{value:.3g} {unit}'


_PREFIXES = (
    (1e12, 'T'), (1e9, 'G'), (1e6, 'M'), (1e3, 'k'), (1, ''),
    (1e-3, 'm'), (1e-6, 'µ'), (1e-9, 'n'),
)  # fmt: skip


def _binary(value: int) -> str:
  """Bytes of memory: `2.11 GiB`, `340 MiB`, `12 KiB`."""
  for factor, unit in ((GIB, 'GiB'), (2**20, 'MiB')):
    if value >= factor:
      return f'{value / factor:.3g} {unit}'
  return f'{value / 2**10:.3g} KiB'
