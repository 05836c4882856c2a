"""Parses programs of XLA in the text form of HLO, compiled or only lowered."""

from collections.abc import Callable, Iterable, Iterator, Mapping
import dataclasses
import functools
import itertools
import math
import re

_BITS = {'pred': 8, 'token': 0, 'opaque': 0}
_NAME = r'%?[\w.\-]+'
# Attributes that name the computations which an instruction runs.
_CALLS = (
    'calls', 'branch_computations', 'true_computation', 'false_computation',
)  # fmt: skip
_CALLED = {'while': ('body',), 'call': ('to_apply',)}


@dataclasses.dataclass(frozen=True)
class Array:
  """An array of a program.

  Attributes:
    dtype: XLA's name of it, such as `bf16`.
    shape: its sizes.
    memory: number of the memory space; 0 is HBM.
  """

  dtype: str
  shape: tuple[int, ...]
  memory: int = 0

  @property
  def bytes(self) -> int:
    bits = _BITS.get(self.dtype)
    if bits is None:
      bits = int(re.findall(r'\d+', self.dtype)[0])
    return math.ceil(bits * math.prod(self.shape) / 8)


@dataclasses.dataclass(frozen=True)
class Instruction:
  """One line of a program.

  Attributes:
    name: of its result.
    type: text of the result's type.
    opcode: XLA's name of what is done.
    operands: names of the results that it takes.
    literal: what stands in their place: the value of a constant, the number of
      a parameter.
    attributes: the rest of the line.
    root: whether it is the result of its computation.
  """

  name: str
  type: str
  opcode: str
  operands: tuple[str, ...]
  literal: str
  attributes: str
  root: bool

  @functools.cached_property
  def arrays(self) -> tuple[Array, ...]:
    """The arrays of the result, one if it is not a tuple."""
    found = re.findall(r'\b([a-z]\w*)\[([\d,<=]*)\](?:\{([^}]*)\})?', self.type)
    return tuple(
        Array(
            dtype,
            tuple(int(n.lstrip('<=')) for n in sizes.split(',') if n),
            int((re.findall(r'S\((\d+)\)', layout) or ['0'])[0]),
        )
        for dtype, sizes, layout in found
    )

  @property
  def shape(self) -> tuple[int, ...]:
    return self.arrays[0].shape

  def attribute(self, name: str, pattern: str) -> str:
    """What follows `name=`, in so far as it matches."""
    match = re.search(rf'\b{name}=({pattern})', self.attributes)
    return match.group(1) if match else ''

  @property
  def scope(self) -> str:
    """Where in the Python program it comes from: `jit(step)/Epinet/base/…`."""
    return self.attribute('op_name', r'"[^"]*"').strip('"')

  def called(self, *names: str) -> list[str]:
    """The computations that these attributes name."""
    texts = [self.attribute(name, rf'\{{[^}}]*\}}|{_NAME}') for name in names]
    return re.findall(r'[\w.\-]+', ' '.join(texts))


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
      header = re.match(rf'(ENTRY )?({_NAME}) (?:\(.*)?\{{$', line)
      if header:
        name = header.group(2).lstrip('%')
        current = self.computations.setdefault(name, {})
        if header.group(1):
          self._entry = name
      elif instruction := _parse(line):
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


def _parse(line: str) -> Instruction | None:
  match = re.match(rf'  (ROOT )?({_NAME}) = ', line)
  if not match:
    return None
  rest = line[match.end() :]
  end = _closing(rest) if rest.startswith('(') else rest.index(' ')
  kind, rest = rest[:end], rest[end:].lstrip()
  opcode, _, _ = rest.partition('(')
  rest = rest[len(opcode) :]
  end = _closing(rest)
  inside = rest[1 : end - 1]
  literal = inside if opcode in ('parameter', 'constant') else ''
  names = [] if literal else re.findall(r'([\w.\-]+)(?:, |$)', inside)
  return Instruction(
      name=match.group(2).lstrip('%'),
      type=kind,
      opcode=opcode,
      operands=tuple(names),
      literal=literal,
      attributes=rest[end:],
      root=bool(match.group(1)),
  )


def _closing(text: str) -> int:
  """Where the parenthesis that `text` starts with is closed, plus one."""
  depth = 0
  for match in re.finditer(r'[()]', text):
    depth += 1 if match.group() == '(' else -1
    if not depth:
      return match.end()
  raise ValueError(f'HLO that cannot be parsed: {text[:200]}')
