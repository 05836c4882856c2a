"""The report of a dry run: costs of each step, and their bounds on a chip."""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import math

from flax_enn.dry_run.collectives import Collective
from flax_enn.dry_run.topology import GIB, ChipSpec, Topology


@dataclasses.dataclass(frozen=True)
class MemoryUse:
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
class StepCost:
  """What one step costs one device.

  Attributes:
    name: `'training'` or `'evaluation'`.
    oom_message: XLA's, where the memory does not suffice; all else is then
      empty.
    memory: what the device holds.
    flops: of matrix products and convolutions, by the network's modules.
    ideal_flops: of this device where nothing is repeated: those of the whole
      step, as it is written, over the number of devices; None where they are
      not counted.
    bytes_accessed: between HBM and the chip.
    collectives: what devices send each other.
    unknown_trip_counts: loops that are counted once, since their length is not
      known.
  """

  name: str
  oom_message: str = ''
  memory: MemoryUse = MemoryUse(0, 0, 0, 0)
  flops: Mapping[str, int] = dataclasses.field(default_factory=dict)
  ideal_flops: float | None = None
  bytes_accessed: int = 0
  collectives: tuple[Collective, ...] = ()
  unknown_trip_counts: int = 0

  @property
  def total_flops(self) -> int:
    return sum(self.flops.values())

  @property
  def bytes_sent(self) -> int:
    """By the device to others of its slice."""
    return sum(c.bytes_sent for c in self.collectives if not c.over_dcn)

  def seconds(self, chip: ChipSpec) -> dict[str, float]:
    """The least that each resource takes, by the published rates."""
    return {
        'compute': self.total_flops / chip.flops,
        'memory': self.bytes_accessed / chip.hbm_bandwidth,
        'network': self.bytes_sent / chip.ici_bandwidth,
    }


@dataclasses.dataclass(frozen=True)
class DryRunReport:
  """What a run costs, by the compiler; `str` of it is a table for people.

  Attributes:
    topology: of the devices.
    mesh: sizes of its axes.
    batch_size: B.
    steps: training and evaluation.
  """

  topology: Topology
  mesh: Mapping[str, int]
  batch_size: int
  steps: tuple[StepCost, ...]

  def __str__(self) -> str:
    devices = math.prod(self.mesh.values())
    axes = ', '.join(f'{axis} {size}' for axis, size in self.mesh.items())
    lines = [f'{self.topology}: {devices} devices, mesh {axes}']
    each = self.batch_size / devices
    for step in self.steps:
      lines += ['', f'{step.name} step, {each:g} examples for each device']
      lines += [f'  {line}' for line in _lines(step, self.topology.chip)]
    return '\n'.join(lines)


def _lines(step: StepCost, chip: ChipSpec | None) -> Iterator[str]:
  if step.oom_message:
    yield f'does not fit: {step.oom_message}'
    return
  used = step.memory.total
  verdict = ''
  if chip:
    fits = 'fits' if used <= chip.hbm else 'does not fit'
    verdict = f' of {_binary(chip.hbm)}: {fits}'
  yield f'holds   {_binary(used)}{verdict}'
  parts = dataclasses.asdict(step.memory).items()
  yield ' ' * 8 + ', '.join(f'{name} {_binary(size)}' for name, size in parts)
  amounts = {
      'compute': _amount(step.total_flops, 'FLOP'),
      'memory': f'{_amount(step.bytes_accessed, "B")} moved',
      'network': f'{_amount(step.bytes_sent, "B")} sent',
  }
  seconds = step.seconds(chip) if chip else {}
  longest = max(seconds, key=seconds.__getitem__, default='')
  for name, amount in amounts.items():
    best = f', at best {_amount(seconds[name], "s")}' if chip else ''
    bound = ', the bound' if name == longest else ''
    yield f'{name:8}{amount}{best}{bound}'
  if total := step.total_flops:
    shares = (f'{name} {n / total:.1%}' for name, n in step.flops.items())
    yield 'modules ' + ', '.join(shares)
  if step.ideal_flops:
    share = step.total_flops / step.ideal_flops
    yield f'        {share:.3f} of an even share of the whole step'
  if loops := step.unknown_trip_counts:
    yield f'        {loops} loops of unknown length count once'
  yield from _table(step.collectives)


def _table(collectives: Sequence[Collective]) -> Iterator[str]:
  if not collectives:
    yield 'no collectives'
    return
  rows = [('collective', 'along', 'count', 'bytes', 'sent')]
  for c in collectives:
    along = ', '.join(c.axes) + (' over DCN' if c.over_dcn else '')
    size, sent = _amount(c.bytes, 'B'), _amount(c.bytes_sent, 'B')
    rows.append((c.name, along, f'{c.count}', size, sent))
  widths = [max(map(len, column)) for column in zip(*rows)]
  for name, along, *numbers in rows:
    cells = [name.ljust(widths[0]), along.ljust(widths[1])]
    cells += map(str.rjust, numbers, widths[2:])
    yield '  '.join(cells)


def _amount(value: float, unit: str) -> str:
  """`1.5 TFLOP`, `55.8 MB`, `6.1 ms`."""
  power = math.floor(math.log10(value) / 3) if value else 0
  power = min(max(power, -3), 4)
  return f'{value / 1000**power:.3g} {"nµm kMGT"[power + 3].strip()}{unit}'


def _binary(value: int) -> str:
  """Bytes of memory: `2.11 GiB`, `340 MiB`, `12 KiB`."""
  for factor, unit in ((GIB, 'GiB'), (2**20, 'MiB')):
    if value >= factor:
      return f'{value / factor:.3g} {unit}'
  return f'{value / 2**10:.3g} KiB'
