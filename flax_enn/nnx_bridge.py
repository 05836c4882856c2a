"""Epistemic networks as modules of flax.nnx."""

from typing import Any

from flax import nnx
import jax

from flax_enn.core import EpistemicNetwork


def as_nnx(network: EpistemicNetwork, x: Any, rngs: nnx.Rngs) -> nnx.Module:
  """A network as an NNX module, `module(x, index) -> Output`, initialised.

  Its trained parameters are `nnx.Param`s, which `nnx.grad` and optimizers find;
  what is frozen is a Variable of a type of its own, which they leave alone.
  `over_index` maps it over many indices. Where the network draws from random
  streams in training (`dropout` …), give it those of the step: `module(x,
  index, train=True, rngs=rngs)`.

  The other way round, an NNX module that returns the pair of a backbone is a
  base by `nnx.bridge.to_linen(Module, …)`.

  Args:
    network: any epistemic network.
    x: inputs of any batch size, for their shape.
    rngs: that its parameters and priors are drawn from.
  """
  index = network.indexer.sample(jax.random.key(0), 1)[0]
  bridge: Any = nnx.bridge.ToNNX
  module = bridge(network, rngs=rngs).lazy_init(x, index)
  # The streams it was drawn from count their draws, which no vmap allows.
  module.to_nnx__rngs = None
  return module
