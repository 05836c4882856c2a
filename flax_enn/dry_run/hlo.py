"""Instructions of a program of XLA, in the text form of HLO."""

import dataclasses
import functools
import math
import re

_BITS = {'pred': 8, 'token': 0, 'opaque': 0}
NAME = r'%?[\w.\-]+'  # of a result, or of a computation


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
    texts = [self.attribute(name, rf'\{{[^}}]*\}}|{NAME}') for name in names]
    return re.findall(r'[\w.\-]+', ' '.join(texts))


def parse(line: str) -> Instruction | None:
  """The instruction that a line holds, if it does."""
  match = re.match(rf'  (ROOT )?({NAME}) = ', line)
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
