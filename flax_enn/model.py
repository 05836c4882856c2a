"""Model: a network and what its inputs and outputs mean, from a config alone.

A model opens no data and compiles nothing. Training, the dry run, evaluation
and inference all begin with one.
"""

from collections.abc import Mapping
import dataclasses
import json
from typing import Any, Self

from etils import epath
import jax
import ml_collections
import numpy as np

from flax_enn import build, kinds, run_folder, sharding
from flax_enn.core import EpistemicNetwork, Variables
from flax_enn.data import DataSpec, Loader, Preprocess
from flax_enn.data.base import Source
from flax_enn.data.features import check_base
from flax_enn.data.preprocess import IDENTITY
from flax_enn.data_section import create_dataset
from flax_enn.likelihoods import Likelihood

_NUM_INDICES = 1000  # of an evaluation, where the index has no finite support


@dataclasses.dataclass(frozen=True)
class Model:
  """All that is needed to make predictions, but for the variables.

  Attributes:
    network: an `EpistemicNetwork`.
    likelihood: what its outputs mean.
    input_spec: shape and dtype of one x as the network takes it, a pytree of
      `jax.ShapeDtypeStruct`s without the axis B.
    preprocess: from x as it is stored to x as the network takes it.
    class_names: of each class, or nothing.
  """

  network: EpistemicNetwork
  likelihood: Likelihood
  input_spec: Any
  preprocess: Preprocess = IDENTITY
  class_names: tuple[str, ...] = ()

  @classmethod
  def from_config(
      cls, config: ml_collections.ConfigDict, spec: DataSpec | None = None
  ) -> Self:
    """Builds the model that a config describes; no file is opened.

    Args:
      config: from a file in `configs/`.
      spec: what the data taught a run; None where the config says all.

    Raises:
      ValueError: what was found, what was expected, and the field to change;
        also where the data set must be read to know its shapes.
    """
    if spec is None:
      dataset = create_dataset(config.dataset)
      if dataset.learns:
        raise ValueError(
            f'config.dataset.name is {config.dataset.name!r}, whose shapes are'
            ' known only from its files, which a model does not open: use'
            ' Model.from_run(workdir) for a run that was trained on them'
        )
      spec = dataset.spec
    likelihood = spec.likelihood
    if config.get('likelihood'):
      likelihood = build.build(
          config.likelihood, kinds.LIKELIHOOD, 'config.likelihood'
      )
    with build.located('config.eval.temperature'):
      likelihood = likelihood.tempered(config.eval.temperature)
    network = build.build(
        config.network, kinds.NETWORK, 'config.network', likelihood.outputs
    )
    return cls(
        network,
        likelihood,
        spec.input_spec,
        spec.preprocess,
        spec.class_names,
    )

  @classmethod
  def from_run(cls, workdir: epath.PathLike) -> Self:
    """Builds the model of a run from its folder; its data need not be there.

    Raises:
      ValueError: the folder holds no run, or one that cannot be read.
    """
    folder = epath.Path(workdir).expanduser()
    config, spec = (
        run_folder.read_json(folder / name)
        for name in ('config.json', 'model.json')
    )
    return cls.from_config(
        ml_collections.ConfigDict(config), _parse_spec(spec)
    )

  @property
  def spec(self) -> DataSpec:
    """What the data must be, with the likelihood of this model."""
    return DataSpec(
        self.input_spec, self.likelihood, self.preprocess, self.class_names
    )

  def check_spec(self, spec: DataSpec, *, labels: bool = True) -> None:
    """Raises a ValueError where data are not of the form the model is for.

    Args:
      spec: of the data.
      labels: whether their y must be of the form, too.
    """

    def form(spec):
      tree = (spec.input_spec, spec.likelihood.target if labels else None)
      return jax.tree.map(lambda s: f'{s.dtype}{list(s.shape)}', tree)

    if form(spec) != form(self.spec):
      raise ValueError(
          f'(x, y) is of the form {form(spec)}, but the model is for'
          f' {form(self.spec)}; choose another data set'
      )

  def dummy_input(self, batch_size: int = 1) -> Any:
    """`[B, ...]` zeros of the form of the inputs, to initialise with."""
    return jax.tree.map(
        lambda s: np.zeros((batch_size, *s.shape), s.dtype), self.input_spec
    )

  def abstract_variables(
      self, mesh: sharding.Mesh, rules: sharding.Rules
  ) -> dict[str, Any]:
    """The shapes, dtypes and shardings of the network's variables."""
    boxed = jax.eval_shape(
        lambda: init_variables(self.network, run_keys(0), self.dummy_input())
    )
    return sharding.placed(boxed, mesh, rules)

  def apply(
      self, variables: Variables, x: Any, index: Any, **options: Any
  ) -> Any:
    """`network.apply`: the `Output` at one index."""
    return self.network.apply(variables, x, index, **options)

  def describe(self) -> dict[str, Any]:
    """What the data taught, as JSON types: the content of `model.json`.

    Raises:
      ValueError: it could not be read back.
    """
    content = {
        'input_spec': _describe_spec(self.input_spec),
        'likelihood': build.describe(self.likelihood.tempered(1.0)),
        'preprocess': build.describe(self.preprocess),
        'class_names': list(self.class_names),
    }
    try:
      parsed = _parse_spec(json.loads(json.dumps(content)))
      same = parsed.preprocess == self.preprocess
    except (TypeError, ValueError) as e:
      raise ValueError(
          f'{self.preprocess} cannot be written to model.json and read back'
          f' ({e}); the preprocessing of a data set is a frozen dataclass of'
          ' numbers and text, called with x'
      ) from e
    if not same:
      raise ValueError(f'{self.preprocess} changes when it is written down')
    return content


def run_keys(seed: int | jax.Array) -> dict[str, jax.Array]:
  """The keys of a run, one for each use, from its only seed."""
  uses = ('params', 'frozen', 'index', 'steps', 'evaluation')
  return dict(zip(uses, jax.random.split(jax.random.key(seed), len(uses))))


def init_variables(
    network: EpistemicNetwork, keys: Mapping[str, jax.Array], x: Any
) -> Variables:
  """Draws the variables of a network, with partition boxes.

  Args:
    network: whose they are.
    keys: of a run, from `run_keys`.
    x: inputs of any batch size, for their shape.
  """
  index = network.indexer.sample(keys['index'], 1)[0]
  rngs = {'params': keys['params'], 'frozen': keys['frozen']}
  return network.init(rngs, x, index)


def num_eval_indices(
    config: ml_collections.ConfigDict, model: Model, wanted: int | None = None
) -> int:
  """N of an evaluation: as wanted, the support of the index, or 1000."""
  wanted = wanted or config.eval.num_indices
  return wanted or model.network.indexer.size or _NUM_INDICES


def run_split(workdir: epath.PathLike, split: str) -> Source:
  """The examples of a split of the data set of a run, as stored.

  Raises:
    ValueError: they cannot be read; which field of its config is to blame.
  """
  folder = epath.Path(workdir).expanduser()
  section = run_folder.read_json(folder / 'config.json')['dataset']
  with build.located(f'{workdir}: config.dataset'):
    holdout = Loader(holdout=section.get('holdout') or 0.0)
    dataset = create_dataset(section)
    check_base(Model.from_run(folder).preprocess, dataset)
    return holdout.source(dataset, split)


def _describe_spec(spec: Any) -> Any:
  """`{'tokens': {'shape': [16], 'dtype': 'int32'}}` as JSON types."""
  if isinstance(spec, Mapping):
    return {'dict': {k: _describe_spec(v) for k, v in spec.items()}}
  if isinstance(spec, (list, tuple)):
    return {'tuple': [_describe_spec(v) for v in spec]}
  return {'shape': list(spec.shape), 'dtype': np.dtype(spec.dtype).name}


def _parse_input_spec(found: Mapping[str, Any]) -> Any:
  if 'dict' in found:
    return {k: _parse_input_spec(v) for k, v in found['dict'].items()}
  if 'tuple' in found:
    return tuple(_parse_input_spec(v) for v in found['tuple'])
  return jax.ShapeDtypeStruct(tuple(found['shape']), np.dtype(found['dtype']))


def _parse_spec(found: Mapping[str, Any]) -> DataSpec:
  """The inverse of `Model.describe`."""
  return DataSpec(
      _parse_input_spec(found['input_spec']),
      build.build(
          found['likelihood'], kinds.LIKELIHOOD, 'model.json: likelihood'
      ),
      build.build(
          found['preprocess'], kinds.PREPROCESS, 'model.json: preprocess'
      ),
      tuple(found['class_names']),
  )
