"""What a frozen base has computed of a data set, in place of its inputs."""

from collections.abc import Mapping
import dataclasses
import functools
import math
from typing import Any, ClassVar

from etils import epath
import jax
import numpy as np

from flax_enn.data import feature_shards
from flax_enn.data.base import ArraySource, Dataset, Element, Source
from flax_enn.data.preprocess import FeaturesOf, Preprocess
from flax_enn.likelihoods import Likelihood

# Of a split, for it to be read into memory at once.
_MOST_BYTES = 2**31


@dataclasses.dataclass(frozen=True)
class Features(Dataset):
  """The logits and features of a base, which `flax_enn.features` has stored.

  x is `{'logits': [C], name: [...]}`, which the backbone `stored_features`
  takes. Order and number of the examples are those of the data set that they
  were computed of, so that `holdout` keeps out the same ones. Every shard is
  checked as it is first read.

  Attributes:
    path: of the folder.
    id: of base and preprocessing, or how it begins: others are refused. None
      takes any; a run that was trained on some refuses others anyway.
  """

  path: str
  id: str | None = None

  learns: ClassVar[bool] = True

  @functools.cached_property
  def manifest(self) -> feature_shards.Manifest:
    """What the folder says of itself."""
    if not self.path:
      raise ValueError('path is empty; it is a folder of features')
    found = feature_shards.read_manifest(self._folder)
    if self.id and not found['id'].startswith(self.id):
      raise ValueError(
          f'{self.path} has features of the base {found["id"]}, but id is'
          f' {self.id!r}: they are of another base, or it was given its inputs'
          ' in another way'
      )
    return found

  @property
  def _folder(self) -> epath.Path:
    return epath.Path(self.path).expanduser()

  @property
  def likelihood(self) -> Likelihood:
    return feature_shards.parse_likelihood(self.manifest['likelihood'])

  @property
  def input_spec(self) -> dict[str, jax.ShapeDtypeStruct]:
    return feature_shards.parse_spec(self.manifest['input_spec'])

  @property
  def class_names(self) -> tuple[str, ...]:
    return tuple(self.manifest['class_names'])

  @property
  def preprocess(self) -> FeaturesOf:
    return FeaturesOf(self.manifest['id'], tuple(sorted(self.input_spec)))

  def load(self, split: str) -> Source:
    """Raises a ValueError where the split is not there, whole and sound."""
    if split not in self.manifest['splits']:
      raise ValueError(
          f'{self.path} has no features of the split {split!r}, but of'
          f' {sorted(self.manifest["splits"])}'
      )
    names = feature_shards.names_of(self.manifest, split)
    known = self.manifest['shards']
    if missing := [name for name in names if name not in known]:
      raise ValueError(
          f'{self.path} lacks {len(missing)} of the {len(names)} shards of the'
          f' split {split!r} ({missing[0]} …): the command that writes it was'
          ' stopped, or still runs; give it again, and it goes on'
      )
    shards = Shards(
        self._folder,
        {name: known[name] for name in names},
        self.manifest['shard_size'],
        self.manifest['splits'][split]['examples'],
    )
    size = sum(
        math.prod(leaf.shape) * leaf.dtype.itemsize
        for leaf in self.input_spec.values()
    )
    return shards.whole() if len(shards) * size <= _MOST_BYTES else shards


@dataclasses.dataclass(frozen=True, eq=False)
class Shards:
  """Examples in the shards of a split, each mapped when it is first read.

  Attributes:
    folder: that they lie in.
    hashes: name of each file, in order -> its SHA-256.
    shard_size: examples in each but the last.
    examples: in all of them.
  """

  folder: epath.Path
  hashes: Mapping[str, str]
  shard_size: int
  examples: int

  def __len__(self) -> int:
    return self.examples

  def __getitem__(self, index: int) -> Element:
    shard, row = divmod(range(self.examples)[index], self.shard_size)
    if shard not in self._read:
      self._read[shard] = self._arrays(shard)
    return _element(jax.tree.map(lambda a: a[row], self._read[shard]))

  def whole(self) -> ArraySource:
    """All of them, in memory."""
    shards = [self._arrays(i) for i in range(len(self.hashes))]
    return ArraySource(
        **_element(jax.tree.map(lambda *a: np.concatenate(a), *shards))
    )

  def _arrays(self, shard: int) -> dict[str, np.ndarray]:
    name = [*self.hashes][shard]
    return feature_shards.read_shard(self.folder / name, self.hashes[name])

  @functools.cached_property
  def _read(self) -> dict[int, dict[str, np.ndarray]]:
    return {}

  def __getstate__(self) -> dict[str, Any]:
    # What is mapped does not travel to workers.
    return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}


def _element(arrays: Mapping[str, Any]) -> Element:
  """`x/NAME`, `y` and `weight` as an element has them."""
  x = {k[2:]: v for k, v in arrays.items() if k.startswith('x/')}
  return {'x': x} | {k: v for k, v in arrays.items() if k in ('y', 'weight')}


def check_base(learned: Preprocess, dataset: Dataset) -> None:
  """Raises a ValueError where stored features are those of another base.

  Args:
    learned: preprocessing of a model.
    dataset: that it is to be used on.
  """
  if not isinstance(learned, FeaturesOf):
    return
  found = dataset.preprocess
  if isinstance(found, FeaturesOf) and found.id != learned.id:
    raise ValueError(
        f'{dataset} has features of the base {found.id}, but the model was'
        f' trained on those of {learned.id}; take the features of its own base'
    )
