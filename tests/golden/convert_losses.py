"""The networks that enn's losses were recorded with, as ours.

enn's autoencoder has a layer for the mean and one for the log-variance; here
they are the halves of one.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flax_enn.checkpoints import haiku
from flax_enn.extras import MLPVAE
from tests.golden.cases import Case, Params
from tests.golden.convert import categorical, stochastic
from tests.golden.convert.converted import Converted

ATOMS = np.linspace(-2, 2, 7, dtype=np.float32)


def bayes_by_backprop(case: Case) -> Converted:
  """`make_bbb_enn`, of one hidden layer."""
  size = len(case.params()['hyper_fn/diagonal_linear']['w'])
  classes = 4 if np.issubdtype(case['in::y'].dtype, np.integer) else 1
  inputs = case['in::x'].shape[-1]
  hidden = (size - classes) // (inputs + 1 + classes)
  return stochastic.bayes_by_backprop(case, (hidden, classes), z='in::z')


def with_categorical(case: Case) -> Converted:
  """`CatMLPEnsembleGpPrior`; its atoms and scale are in no manifest."""
  options = {'prior_scale': 0.3, **case.kwargs}
  arrays = {'out::extra::atoms': ATOMS[None], **case.arrays}
  meta = {**case.meta, 'kwargs': options}
  return categorical.ensemble(
      dataclasses.replace(case, meta=meta, arrays=arrays)
  )


def autoencoder(case: Case) -> Converted:
  """`make_vae_enn` of the encoder and decoder of its MLP autoencoder."""
  params, x = case.params(), jnp.asarray(case['in::x'], jnp.float32)
  bernoulli = 'decoder_log_var' not in params
  widths = [p['w'].shape[-1] for p in haiku.unnamed_layers(params, 'encoder')]

  def part(params: Params, name: str, heads: list[str]) -> Any:
    tree = {
        f'layer_{i}': haiku.dense(p)
        for i, p in enumerate(haiku.unnamed_layers(params, name))
    }
    last = [haiku.dense(params[f'{name}_{head}']) for head in heads]
    tree[f'layer_{len(widths)}'] = jax.tree.map(
        lambda *halves: np.concatenate(halves, -1), *last
    )
    return tree

  def to_params(params: Params) -> Any:
    both = ['mean', 'log_var']
    return {
        'encoder': part(params, 'encoder', both),
        'decoder': part(params, 'decoder', both[:1] if bernoulli else both),
    }

  network = MLPVAE(
      inputs=x.shape[-1],
      hiddens=tuple(widths),
      latent_dim=len(case['in::z']),
      bernoulli=bernoulli,
  )
  return Converted(
      network, to_params, {'params': to_params(params)}, x
  )
