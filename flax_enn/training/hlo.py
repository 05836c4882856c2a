"""Reads the programs that XLA has compiled, in the text form of HLO."""

from collections.abc import Iterator, Mapping
import dataclasses
import functools
import math
import re

_BITS = {'pred': 8, 'token': 0, 'opaque': 0}


@dataclasses.dataclass(frozen=True)
class Array:
  """An array of a program.

  Attributes:
    dtype: XLA's name of it, such as `bf16`.
    shape: its sizes.
    memory: number of the memory space; 0 is the large one.
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
    """The arrays of the result, one if it is no tuple."""
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
    """Of the result, which is one array."""
    return self.arrays[0].shape

  def attribute(self, name: str, pattern: str, default: str = '') -> str:
    """What follows `name=`, in so far as it matches."""
    match = re.search(rf'\b{name}=({pattern})', self.attributes)
    return match.group(1) if match else default

  @property
  def scope(self) -> str:
    """Where in the Python program it comes from: `jit(step)/Epinet/base/…`."""
    return self.attribute('op_name', r'"[^"]*"').strip('"')

  def called(self, *names: str) -> list[str]:
    """The computations that these attributes name."""
    found = []
    for name in names:
      text = self.attribute(name, r'\{[^}]*\}|%[\w.\-]+')
      found += re.findall(r'%([\w.\-]+)', text)
    return found


Computation = Mapping[str, Instruction]


@dataclasses.dataclass(frozen=True)
class Run:
  """An instruction that runs.

  Attributes:
    instruction: what runs.
    computation: where it stands.
    times: how often it runs in one run of the program.
    fused: whether it is part of a larger one, so that what is between the two
      touches no memory.
  """

  instruction: Instruction
  computation: Computation
  times: int
  fused: bool

  def operands(self) -> list[Instruction]:
    """The instructions whose results it takes."""
    return [self.computation[name] for name in self.instruction.operands]


class Program:
  """A compiled program."""

  def __init__(self, text: str):
    """Reads it.

    Args:
      text: from `compiled.as_text()`.
    """
    self.computations: dict[str, dict[str, Instruction]] = {}
    self.unknown_loops = 0  # that are counted once
    current: dict[str, Instruction] = {}
    for line in text.splitlines():
      header = re.match(r'(ENTRY )?%([\w.\-]+) \(.*\{$', line)
      if header:
        current = self.computations.setdefault(header.group(2), {})
        if header.group(1):
          self._entry = header.group(2)
      elif instruction := _parsed(line):
        current[instruction.name] = instruction

  @functools.cached_property
  def runs(self) -> list[Run]:
    """Every instruction that runs, in no order."""
    return list(self._walk(self._entry, 1, False))

  def _walk(self, name: str, times: int, fused: bool) -> Iterator[Run]:
    computation = self.computations[name]
    for instruction in computation.values():
      yield Run(instruction, computation, times, fused)
      inside = fused or instruction.opcode == 'fusion'
      often = times
      if instruction.opcode == 'while':
        often *= self._trips(instruction, computation)
        called = instruction.called('body')
      elif instruction.opcode == 'call':
        called = instruction.called('to_apply')
      else:
        called = instruction.called(
            'calls', 'branch_computations',
            'true_computation', 'false_computation',
        )  # fmt: skip
      for other in called:
        yield from self._walk(other, often, inside)

  def _trips(self, loop: Instruction, computation: Computation) -> int:
    known = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes)
    if known:
      return int(known.group(1))
    trips = self._counted(loop, computation)
    if trips is None:
      self.unknown_loops += 1
    return 1 if trips is None else trips

  def _counted(self, loop: Instruction, computation: Computation) -> int | None:
    """Trips of `for (i = constant; i < constant; i += 1)`, or None."""
    (condition,) = loop.called('condition')
    test = self.computations[condition]
    (root,) = (i for i in test.values() if i.root)
    if root.opcode == 'fusion' and len(root.operands) == 2:
      direction = self.root(root).attribute('direction', r'\w+')
    else:
      direction = root.attribute('direction', r'\w+')
    if direction != 'LT':
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

  def root(self, fusion: Instruction) -> Instruction:
    """What a fusion computes in the end."""
    (name,) = fusion.called('calls')
    (root,) = (i for i in self.computations[name].values() if i.root)
    return root


def _source(computation: Computation, name: str) -> Instruction:
  """What a value is a copy of."""
  found = computation[name]
  while found.opcode in ('copy', 'bitcast', 'convert', 'reshape'):
    found = computation[found.operands[0]]
  return found


def _parsed(line: str) -> Instruction | None:
  match = re.match(r'  (ROOT )?%([\w.\-]+) = ', line)
  if not match:
    return None
  rest = line[match.end() :]
  end = _closing(rest) if rest.startswith('(') else rest.index(' ')
  kind, rest = rest[:end], rest[end:].lstrip()
  opcode, _, _ = rest.partition('(')
  rest = rest[len(opcode) :]
  end = _closing(rest)
  inside = rest[1 : end - 1]
  return Instruction(
      name=match.group(2),
      type=kind,
      opcode=opcode,
      operands=tuple(re.findall(r'%([\w.\-]+)', inside)),
      literal=inside if opcode in ('parameter', 'constant') else '',
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
  raise ValueError(f'HLO that cannot be read: {text[:200]}')
