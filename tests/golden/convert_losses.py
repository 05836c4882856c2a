"""The networks that enn's losses were recorded with, as ours."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from flax_enn.checkpoints import haiku, haiku_backbones
from flax_enn.extras import MLPVAE
from tests.golden.cases import Case
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
  hidden = haiku.unnamed_layers(params, 'encoder')
  network = MLPVAE(
      inputs=x.shape[-1],
      hiddens=[p['w'].shape[-1] for p in hidden],
      latent_dim=len(case['in::z']),
      bernoulli='decoder_log_var' not in params,
  )
  convert = haiku_backbones.autoencoder
  return Converted(network, convert, {'params': convert(params)}, x)
