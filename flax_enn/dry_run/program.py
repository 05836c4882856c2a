"""A program of XLA, compiled or only lowered: what runs, and how often."""

from collections.abc import Callable, Iterable, Iterator, Mapping
import dataclasses
import itertools
import re

from flax_enn.dry_run.hlo import NAME, Instruction, parse

# Attributes that name the computations which an instruction runs.
_CALLS = (
    'calls', 'branch_computations', 'true_computation', 'false_computation',
)  # fmt: skip
_CALLED = {'while': ('body',), 'call': ('to_apply',)}

Computation = Mapping[str, Instruction]


@dataclasses.dataclass(frozen=True)
class Run:
  """An instruction that runs.

  Attributes:
    instruction: what runs.
    computation: where it stands.
    trip_count: how often it runs in one run of the program.
    fused: whether it is part of a larger one, so that what is between the two
      touches no memory.
  """

  instruction: Instruction
  computation: Computation
  trip_count: int
  fused: bool

  def operands(self) -> list[Instruction]:
    """The instructions whose results it takes."""
    return [self.computation[name] for name in self.instruction.operands]


Cost = Callable[[Run], int]  # of running an instruction once


def total_cost(runs: Iterable[Run], cost: Cost) -> int:
  """Of all runs, as often as they run."""
  return sum(run.trip_count * cost(run) for run in runs)


class Program:
  """A program: computations of instructions, one of which is the entry.

  Attributes:
    computations: by name.
  """

  def __init__(self, text: str):
    """Parses `compiled.as_text()` or `lowered.as_text('hlo')`."""
    self.computations: dict[str, dict[str, Instruction]] = {}
    current: dict[str, Instruction] = {}
    for line in text.splitlines():
      header = re.match(rf'(ENTRY )?({NAME}) (?:\(.*)?\{{$', line)
      if header:
        name = header.group(2).lstrip('%')
        current = self.computations.setdefault(name, {})
        if header.group(1):
          self._entry = name
      elif instruction := parse(line):
        current[instruction.name] = instruction

  def runs(self, cost: Cost | None = None) -> Iterator[Run]:
    """Yields every instruction that runs, in no order.

    Args:
      cost: of the branches of a conditional, the one of the highest cost runs;
        all of them by default.
    """
    return self._walk(self._entry, 1, False, cost)

  @property
  def unknown_trip_counts(self) -> int:
    """Number of loops whose length is not known; their bodies run once."""
    return sum(
        i.opcode == 'while' and self._trip_count(i, computation) is None
        for computation in self.computations.values()
        for i in computation.values()
    )

  def root(self, name: str) -> Instruction:
    """The instruction whose result is that of a computation."""
    (found,) = (i for i in self.computations[name].values() if i.root)
    return found

  def _walk(
      self, name: str, trip_count: int, fused: bool, cost: Cost | None
  ) -> Iterator[Run]:
    computation = self.computations[name]
    for instruction in computation.values():
      yield Run(instruction, computation, trip_count, fused)
      opcode, inner = instruction.opcode, trip_count
      if opcode == 'while':
        found = self._trip_count(instruction, computation)
        inner *= 1 if found is None else found
      inside = fused or opcode == 'fusion'
      called = [
          self._walk(other, inner, inside, cost)
          for other in instruction.called(*_CALLED.get(opcode, _CALLS))
      ]
      if opcode == 'conditional' and cost:
        called = [
            max(map(list, called), key=lambda runs: total_cost(runs, cost))
        ]
      yield from itertools.chain(*called)

  def _trip_count(
      self, loop: Instruction, computation: Computation
  ) -> int | None:
    """How often a loop runs: as XLA noted it, or from its condition.

    The condition is understood where the loop is `for (i = constant; i <
    constant; i += 1)`; otherwise None.
    """
    known = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes)
    if known:
      return int(known.group(1))
    (condition,) = loop.called('condition')
    test = self.computations[condition]
    root = self.root(condition)
    fused = root.opcode == 'fusion' and len(root.operands) == 2
    compare = self.root(*root.called('calls')) if fused else root
    if compare.attribute('direction', r'\w+') != 'LT':
      return None
    counter = _source(test, root.operands[0])
    if counter.opcode != 'get-tuple-element':
      return None
    initial = computation[loop.operands[0]].operands

    def value(where: Computation, name: str) -> int | None:
      found = _source(where, name)
      if found.opcode == 'get-tuple-element' and where is test:
        position = int(found.attribute('index', r'\d+'))
        return value(computation, initial[position])
      is_number = re.fullmatch(r'-?\d+', found.literal)
      return int(found.literal) if is_number else None

    first = value(test, counter.name)
    last = value(test, root.operands[1])
    return None if first is None or last is None else max(0, last - first)


def _source(computation: Computation, name: str) -> Instruction:
  """What a value is a copy of."""
  found = computation[name]
  while found.opcode in ('copy', 'bitcast', 'convert', 'reshape'):
    found = computation[found.operands[0]]
  return found
