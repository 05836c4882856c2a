"""Any network with random prior functions beside it."""

from collections.abc import Mapping
import inspect
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from flax_enn import sharding
from flax_enn.core import Example, Index, Indexer, Output, promote_to_float32
from flax_enn.networks.backbones.mlp import MLP
from flax_enn.networks.ensemble import Ensemble
from flax_enn.networks.frozen import Frozen
from flax_enn.networks.layers import contract
from flax_enn.networks.priors.ensemble_prior import EnsemblePrior
from flax_enn.networks.priors.scaled_prior import ScaledPrior


class WithPrior(nn.Module):
  """`network(x, z) + sum_i scale_i · prior_i(x, z)`, the priors never trained.

  Osband et al., "Randomized Prior Functions for Deep Reinforcement Learning"
  (arXiv:1806.03335). A prior is any module of x. What else it is given, it
  names in its `__call__`:

    classes  C, the number of outputs of the network
    size     D of the index: the prior is a basis `[B, C, D]`, which the index
             combines linearly (`MLPPrior`, `EnsemblePrior` …)
    index    the index: the prior runs for every one, and gives `[B, C]`

  One that does not name `index` runs once for any number of indices. It may
  return an array, the pair of a backbone or the `Output` of a network.

  The variables of `network` keep the paths that they have without its priors;
  those of a prior lie in `frozen/prior_NAME`. A config needs no section for it:
  `priors` in any network's own section is enough. The priors of a `network`
  that is a `WithPrior` join those of this one, as if they were named here.

  Use: random functions beside any network, which keep functions apart where
    there are no data.
  Cost: that of the network and its priors; a basis runs once for all indices.
  Config: dict(name='ensemble', size=10, member=dict(name='mlp',
    hiddens=(50, 50)), priors=dict(matched=dict(name='ensemble_prior',
    member=dict(name='mlp', hiddens=(50, 50)))))
  Source: arXiv:1806.03335; enn `networks/priors.py`, `combiners.py`.

  Attributes:
    network: any epistemic network.
    priors: by name, modules or `ScaledPrior`s.

  Raises:
    ValueError: `network` is a `WithPrior` that has a prior of the same name,
      or of a subclass.
  """

  network: nn.Module
  priors: Mapping[str, Any]

  def __post_init__(self):
    inner = self.network
    if isinstance(inner, WithPrior) and type(inner) is not WithPrior:
      raise ValueError(
          f'the network of WithPrior is a {type(inner).__name__}, a subclass of'
          ' it; give all `priors` to that one'
      )
    if isinstance(inner, WithPrior):
      if both := sorted({*self.priors} & {*inner.priors}):
        raise ValueError(
            f'`priors` of WithPrior and of the network in it are both named'
            f' {both}, expected names of their own; rename one of each'
        )
      self.priors = {**inner.priors, **self.priors}
      self.network = inner.network
    super().__post_init__()

  @property
  def indexer(self) -> Indexer:
    return self.network.indexer

  @nn.compact
  def __call__(self, x: Any, index: Index, *, train: bool = False) -> Output:
    """Computes `[B, C]` at one index.

    Raises:
      ValueError: a prior has another shape than the network and its index need.
    """
    # In this module's own scope, so that paths, and with them random draws,
    # stay those of the network alone.
    network = self.network.clone(
        parent=self.scope, name=None, _deep_clone=True, _reset_names=True
    )
    out = network(x, index, train=train)
    prior = out.prior
    for name, net in sorted(self.priors.items()):
      term = self._term(name, net, x, index, out.train.shape)
      prior = term if prior is None else prior + term
    return out.replace(prior=prior)

  def _term(
      self, name: str, net: Any, x: Any, index: Index, shape: tuple[int, ...]
  ) -> jax.Array:
    """One prior at one index, `[B, C]`."""
    net, scale = (
        (net.net, net.scale) if isinstance(net, ScaledPrior) else (net, 1.0)
    )
    size = index.shape[0] if index.ndim == 1 else None
    given: dict[str, Any] = {'classes': shape[1], 'size': size, 'index': index}
    takes = inspect.signature(type(net).__call__).parameters
    arguments = {k: v for k, v in given.items() if k in takes}
    if 'index' not in takes:
      x = sharding.constrain(x, 'base_batch')
    if 'size' in takes and size is None:
      raise ValueError(
          f'the prior {name!r} is a basis, which is contracted with an index'
          f' [D], but the index of this network is {index.dtype}'
          f'{list(index.shape)}; take a prior that does not name `size`'
      )
    frozen = Frozen(net.clone(parent=None), name=f'prior_{name}')
    out = frozen(x, **arguments)
    out = out[0] if isinstance(out, tuple) else out
    out = out.preds if isinstance(out, Output) else out
    expected = (*shape, size) if 'size' in takes else shape
    if out.shape != expected:
      raise ValueError(
          f'the prior {name!r} ({type(net).__name__}) gives {list(out.shape)},'
          f' expected {list(expected)} for the outputs and the index of its'
          ' network'
      )
    out = sharding.constrain(promote_to_float32(out), 'batch')
    out = contract(out, index) if 'size' in takes else out
    factor = jnp.asarray(scale)
    if factor.shape not in ((), shape[1:]):
      raise ValueError(
          f'the prior {name!r} has a scale {list(factor.shape)}, expected a'
          f' number, or one for each of {shape[1]} outputs'
      )
    return factor * out


def example() -> Example:
  """A tiny ensemble with a prior for each member, for the tests of the laws."""
  member = MLP(hiddens=(6,), classes=3)
  priors = {'member': ScaledPrior(EnsemblePrior(member.clone()), 0.5)}
  x = jax.random.normal(jax.random.key(0), (8, 4))
  return Example(
      WithPrior(Ensemble(member, size=8), priors),
      x,
      index_free=('member', 'prior_member'),
  )
