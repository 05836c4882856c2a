"""Categorical regression: an MLP whose outputs are the logits of atoms.

What enn adds to the mean of the atoms, a prior in the units of the target, is
here one more output, which shifts them (`TwoHot(…, shift=True)`); in enn no
part of it is trained.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flax_enn.checkpoints import haiku
from flax_enn.core import Output
from flax_enn.networks.backbones.mlp import MLP
from flax_enn.networks.ensemble import Ensemble
from flax_enn.networks.priors.ensemble_prior import EnsemblePrior
from flax_enn.networks.priors.scaled_prior import ScaledPrior
from flax_enn.networks.with_prior import WithPrior
from tests.golden.cases import Case, Params
from tests.golden.convert.converted import Converted
from tests.golden.convert.mlp import hidden_members
from tests.golden.convert.priors import gps


def _last(layers: dict[str, Any]) -> dict[str, Any]:
  return layers[f'layer_{len(layers) - 1}']


def _padded(layers: dict[str, Any], before: int, after: int) -> dict[str, Any]:
  """K MLPs with outputs of zero around their own."""
  last = {
      name: np.pad(leaf, [(0, 0)] * (leaf.ndim - 1) + [(before, after)])
      for name, leaf in _last(layers).items()
  }
  return {**layers, f'layer_{len(layers) - 1}': last}


def ensemble(case: Case) -> Converted:
  """`CatMLPEnsemble`, and with the priors of MLPs or Gaussian processes."""
  options, tags = case.kwargs, case.hidden_tags()
  atoms = case['out::extra::atoms'][0]
  own = haiku.members(case.params())
  logits = haiku.widths(own)[-1]
  shifts = logits // len(atoms) if tags else 0

  def convert(params: Params) -> Any:
    return {'member': _padded(haiku.members(params), 0, shifts)}

  params = convert(case.params())
  *hidden, outputs = haiku.widths(params['member'])
  network = Ensemble(MLP(hidden, outputs), len(own['layer_0']['bias']))
  variables = {'params': params}
  if tags:
    if 'weights' in next(iter(case.hidden(tags[0]).values())):
      prior, random = gps(case, before=logits)
    else:
      members = hidden_members(case)
      assert members is not None
      random = _padded(members, logits, 0)
      prior = MLP(haiku.widths(random)[:-1], outputs)
    scale = [0] * logits + [options.get('prior_scale', 1.0)] * shifts
    priors = {'random': ScaledPrior(EnsemblePrior(prior), scale)}
    network = WithPrior(network, priors)
    frozen = {'prior_random': {'params': {'member': random}}}
    variables['frozen'] = frozen

  def recorded(out: Output) -> dict[str, Any]:
    train = out.train[:, :logits].reshape(len(out.train), -1, len(atoms))
    # enn has one number there where it has no prior.
    prior = jnp.zeros(1) if out.prior is None else out.prior[:, logits:]
    means = (jax.nn.softmax(train) * atoms).sum(-1)
    return {'train': train, 'prior': prior, 'preds': means + prior}

  def trained(gradients: Any) -> Any:
    """Without those of the trained shift, which enn does not have."""
    layers = gradients['member']
    of_logits = jax.tree.map(lambda leaf: leaf[..., :logits], _last(layers))
    zeros = _padded({'layer_0': of_logits}, 0, shifts)['layer_0']
    return {'member': {**layers, f'layer_{len(layers) - 1}': zeros}}

  x = jnp.asarray(case['in::x'])
  return Converted(
      network, convert, variables, x, recorded=recorded, trained=trained
  )
