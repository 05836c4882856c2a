"""The base of a network, with its variables: what computes features."""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import hashlib
from typing import Any, Self

from etils import epath
from flax import linen as nn
import jax
import ml_collections
import numpy as np

from flax_enn import build, sharding
from flax_enn.checkpoints import layout, warm_start
from flax_enn.core import promote_to_float32
from flax_enn.data import feature_shards
from flax_enn.inference import Predictor, stored
from flax_enn.model import Model
from flax_enn.networks.features import run_base
from flax_enn.networks.frozen import Frozen
from flax_enn.networks.with_prior import WithPrior
from flax_enn.training.trainer import Trainer


@dataclasses.dataclass(frozen=True, eq=False)
class Base:
  """The base of a network, with its variables.

  Attributes:
    model: whose inputs it takes.
    net: the backbone.
    variables: of it alone.
    names: of the features that are kept, beside the logits.
  """

  model: Model
  net: nn.Module
  variables: Mapping[str, Any]
  names: tuple[str, ...]

  @classmethod
  def from_run(
      cls, workdir: epath.PathLike, names: Sequence[str] = (), step='best'
  ) -> Self:
    """The base of a run, or of a bundle.

    Args:
      workdir: its folder.
      names: of the features; those that its network reads by default.
      step: of the checkpoint.
    """
    mesh = sharding.create_mesh({'data': -1})
    found = stored.load(workdir, step, mesh, 1, None, False)
    return cls._of(found.model, found.variables, names)

  @classmethod
  def from_config(
      cls,
      config: ml_collections.ConfigDict,
      workdir: epath.PathLike,
      names: Sequence[str] = (),
  ) -> Self:
    """The base that a run of this config starts from, by `config.init`.

    Args:
      config: whose network has a frozen base.
      workdir: of the run; paths in `config.init` are relative to it.
      names: of the features; those that its network reads by default.
    """
    if not config.init:
      raise ValueError(
          'config.init is empty: it says where the base of the network comes'
          ' from, a run or a file of weights'
      )
    trainer = Trainer.from_config(config)
    if not isinstance(_bare(trainer.model.network).base, Frozen):
      raise ValueError(
          'config.network.base is not frozen: its features would change as it'
          ' trains; set config.network.base.frozen to True'
      )
    with trainer.use_mesh(), build.located('config.init'):
      state = warm_start(trainer.create_state(), config.init, workdir)
    return cls._of(trainer.model, state.variables, names)

  @classmethod
  def _of(
      cls, model: Model, variables: Mapping[str, Any], names: Sequence[str]
  ) -> Self:
    network = _bare(model.network)
    net = network.base
    if isinstance(net, Frozen):
      net, own = net.net, variables.get('frozen', {}).get('base', {})
    else:
      own = {k: v['base'] for k, v in variables.items() if 'base' in v}
    own = jax.device_get(own)
    read = getattr(network, 'features', None) or ()
    if not read and getattr(network, 'feature', None):
      read = (network.feature,)
    base = cls(model, net, own, tuple(names or read))
    base.check_names()
    return base

  def check_names(self) -> None:
    """Raises a ValueError where a feature does not exist, or none is named."""
    x = self.model.dummy_input()
    has = jax.eval_shape(self._run_all, self.variables, x)
    unknown = set(self.names) - set(has)
    if unknown or not self.names:
      raise ValueError(
          f'features are {list(self.names)}; name some of those that the base'
          f' exposes: {sorted(has)}'
      )

  def __call__(self, x: Any) -> dict[str, np.ndarray]:
    """`{'logits': [B, C], name: [B, ...]}` float32 of preprocessed inputs."""
    return jax.device_get(self.apply(self.variables, x))

  @functools.cached_property
  def apply(self) -> Any:
    """The same of `(variables, x)` on devices, compiled on first use."""

    def apply(variables: Any, x: Any) -> dict[str, jax.Array]:
      found = self._run_all(variables, sharding.constrain(x, 'base_batch'))
      kept = {name: found[name] for name in ('logits', *self.names)}
      return jax.tree.map(promote_to_float32, kept)

    return jax.jit(apply)

  def _run_all(self, variables: Any, x: Any) -> dict[str, jax.Array]:
    def run(net: nn.Module, x: Any) -> tuple[Any, Any]:
      return run_base(net, x, train=False)

    logits, features = nn.apply(run, self.net)(variables, x)
    return {**features, 'logits': logits}

  @functools.cached_property
  def identity(self) -> dict[str, Any]:
    """What decides the features of an input, as JSON types."""
    hashes = hashlib.sha256()
    named = layout.flatten_with_names(self.variables)
    for name in sorted(named):
      value = np.asarray(named[name], order='C')
      hashes.update(f'{name} {value.dtype}{list(value.shape)}\n'.encode())
      hashes.update(value.tobytes())
    return {
        'base': {'module': repr(self.net), 'variables': hashes.hexdigest()},
        'preprocess': build.describe(self.model.preprocess),
    }

  @property
  def id(self) -> str:
    """SHA-256 of it, which a manifest has."""
    return feature_shards.digest(self.identity)

  def check_fits(self, predictor: Predictor) -> None:
    """Raises a ValueError where a predictor learned from another base."""
    wanted = getattr(predictor.model.preprocess, 'id', None)
    if wanted != self.id:
      raise ValueError(
          f'this base has the id {self.id}, but the predictor was trained on'
          f' the features of {wanted}: take the base, and the preprocessing,'
          ' that these were computed with'
      )


def _bare(network: Any) -> Any:
  """A network without its priors, checked to have a backbone as its base."""
  while isinstance(network, WithPrior):
    network = network.network
  base = getattr(network, 'base', None)
  if not isinstance(base, nn.Module) or hasattr(base, 'indexer'):
    raise ValueError(
        f'config.network is {type(network).__name__}, which has no backbone as'
        ' its `base`: there are no features to store'
    )
  return network
