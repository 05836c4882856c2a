"""Networks whose index is noise, generates weights or enters every layer."""

from collections.abc import Sequence
import re
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from flax_enn.checkpoints import haiku
from flax_enn.core import Output
from flax_enn.networks.backbones.mlp import MLP
from flax_enn.networks.bayes_by_backprop import BayesByBackprop
from flax_enn.networks.gaussian_noise import GaussianNoise
from flax_enn.networks.hypermodel import Hypermodel
from flax_enn.networks.index_mlp import IndexMLP
from flax_enn.networks.mlp_dropout import MLPDropout
from flax_enn.networks.priors.ensemble_prior import EnsemblePrior
from flax_enn.networks.priors.independent_layers_prior import (
    IndependentLayersPrior,
)
from flax_enn.networks.priors.scaled_prior import ScaledPrior
from flax_enn.networks.with_prior import WithPrior
from tests.golden.cases import Case, Params
from tests.golden.convert.converted import Converted, of_output
from tests.golden.convert.priors import gps


def mlp_dropout(case: Case, dropout_input: bool = True) -> Converted:
  """`MLPDropoutENN`, which draws the masks of all layers as one array."""
  options = case.kwargs
  layers = haiku.mlp_dropout(case.params())
  *hidden, classes = haiku.widths(layers)
  inputs = len(layers['layer_0']['kernel'])
  network = MLPDropout(
      hidden,
      classes,
      rate=options.get('dropout_rate', 0.05),
      dropout_input=options.get('dropout_input', dropout_input),
      nonzero_bias=options.get('nonzero_bias', True),
  )
  (masks,) = draws(case, 'bernoulli')
  return Converted(
      network,
      haiku.mlp_dropout,
      {'params': layers},
      jnp.asarray(case['in::x']),
      draws=np.split(masks, np.cumsum([inputs, *hidden])[:-1], axis=-1),
  )


def gaussian_noise_mlp(case: Case) -> Converted:
  """`GaussianNoiseMLP`."""
  params = haiku.gaussian_noise_mlp(case.params())
  *hidden, classes = haiku.widths(params['base'])
  scale = case.kwargs.get('init_scale', 1.0)
  return Converted(
      GaussianNoise(MLP(hidden, classes), scale),
      haiku.gaussian_noise_mlp,
      {'params': params},
      jnp.asarray(case['in::x']),
      draws=draws(case, 'normal'),
  )


def draws(case: Case, law: str) -> list[np.ndarray]:
  """What enn drew while it was applied, `[N, ...]`, in the order of calls."""
  names = [k for k in case.arrays if k.startswith(f'rnd::{law}::')]
  names.sort(key=lambda name: int(name.rpartition('::')[2]))
  return [case[name] for name in names]


def bayes_by_backprop(
    case: Case, sizes: Sequence[int] | None = None, z: str = 'z'
) -> Converted:
  """`make_bbb_enn`, whose index is the noise of all parameters.

  Args:
    case: with a network of `sizes`.
    sizes: of the base's layers; those that the case names by default.
    z: name of the recorded index, or indices.
  """
  sizes = case.kwargs['base_output_sizes'] if sizes is None else sizes
  shapes = haiku.base_shapes(case['in::x'].shape[-1], sizes)

  def convert(params: Params) -> Any:
    return haiku.bayes_by_backprop(params, shapes)

  network = BayesByBackprop(
      MLP(sizes[:-1], sizes[-1]),
      temperature=case.kwargs.get('temperature', 1.0),
  )
  return Converted(
      network,
      convert,
      {'params': convert(case.params())},
      jnp.asarray(case['in::x']),
      draws=jax.tree.leaves(haiku.split(case[z], shapes)),
      recorded=of_generated,
  )


def hypermodel(case: Case) -> Converted:
  """`MLPHypermodel`, alone and with each of enn's two kinds of priors."""
  options, params = case.kwargs, case.params()
  temperature = options.get('problem_temperature') or 1.0
  network, shapes = _hypermodel(case, params, temperature)

  def convert(params: Params) -> Any:
    return haiku.hypermodel(params, shapes)

  variables = {'params': convert(params)}
  if tags := case.hidden_tags():
    prior, own = _prior(case, case.hidden(tags[0]))
    scale = options['prior_scale'] / temperature
    network = WithPrior(network, {'beside': ScaledPrior(prior, scale)})
    variables['frozen'] = {'prior_beside': {'params': own}}
  x = jnp.asarray(case['in::x'])
  return Converted(network, convert, variables, x, recorded=of_generated)


def _prior(case: Case, params: Params) -> tuple[nn.Module, Any]:
  """The prior of a hypermodel, and its parameters."""
  if any(module.startswith('hyper_fn') for module in params):
    network, shapes = _hypermodel(case, params)
    return network, haiku.hypermodel(params, shapes)
  (module,) = {module.split('/~/')[0] for module in params}
  options = case.kwargs
  prior = IndependentLayersPrior(
      options['prior_base_output_sizes'][:-1],
      weight_variance=options.get('prior_weight_scaling', 1.0),
      bias_variance=options.get('prior_bias_scaling', 1.0),
      bias_shift=options.get('prior_fixed_bias_val', 0.0),
  )
  return prior, haiku.independent_layers_prior(params, module)


def _hypermodel(
    case: Case, params: Params, temperature: float = 1.0
) -> tuple[Hypermodel, Any]:
  """A hypermodel of an MLP, and the shapes of that."""
  generators = haiku.unnamed_layers(params, 'hyper_fn/linear')
  sizes = [len(p['b']) for p in generators[::2]]  # biases come first
  shapes = haiku.base_shapes(case['in::x'].shape[-1], sizes)
  torso = haiku.layers(params, 'hyper_fn/mlp/~/linear_')
  dim = len(torso[0]['w']) if torso else len(generators[0]['w'])
  scaled = re.fullmatch(
      r'ScaledGaussianIndexer\(\d+(?:, *(.*))?\)',
      case.kwargs.get('indexer', ''),
  )
  network = Hypermodel(
      MLP(sizes[:-1], sizes[-1]),
      index_dim=dim,
      index_scale=float(scaled[1] or 1) if scaled else None,
      hiddens=[len(p['b']) for p in torso],
      scale_kernels=case.kwargs.get('scale', True),
      small_start=True,
      temperature=temperature,
  )
  return network, shapes


def of_generated(out: Output) -> dict[str, Any]:
  """With the generated parameters as enn names them, and as a vector."""
  recorded = of_output(out)
  generated = out.extra['generated']
  trees = {
      'hyper_net_out': generated,
      'base_net_params': out.extra.get('parameters', generated),
  }
  for kind, tree in trees.items():
    for layer, leaves in tree.items():
      module = f'extra::{kind}::mlp/~/{layer.replace("layer", "linear")}'
      recorded[f'{module}::w'] = leaves['kernel']
      recorded[f'{module}::b'] = leaves['bias']
  return recorded


def index_mlp(case: Case) -> Converted:
  """`IndexMLPEnn`, and `IndexMLPWithGpPrior`.

  The first with log-variances in `extra`, as enn has them, the second with
  those among the outputs, which its prior leaves alone.
  """
  module, inputs = 'concat_index_mlp', case['in::x'].shape[-1]

  def convert(params: Params) -> Any:
    return haiku.index_mlp(params, inputs, module)

  params = convert(case.params())
  dim = case['z'].shape[-1]
  means = len(params['mean']['bias'])
  hidden = [
      len(layer['h']['bias'])
      for name, layer in params.items()
      if name.startswith('layer_')
  ]
  extra = not case.hidden_tags()
  network = IndexMLP(
      hidden,
      classes=means if extra else 2 * means,
      index_dim=dim,
      variance_hidden=len(params['variance_inputs']['bias']),
      extra_log_var=extra,
  )
  variables = {'params': params}
  if case.hidden_tags():
    gp, own = gps(case, before=0, after=means)
    prior = EnsemblePrior(gp, skip=dim - len(case.hidden_tags()))
    scale = [case.kwargs.get('prior_scale', 1.0)] * means + [0] * means
    network = WithPrior(network, {'gp': ScaledPrior(prior, scale)})
    variables['frozen'] = {'prior_gp': {'params': {'member': own}}}

  def recorded(out: Output) -> dict[str, Any]:
    parts = of_output(out)
    log_variance = out.extra.get('log_var', parts['train'][:, means:])
    parts = {name: part[:, :means] for name, part in parts.items()}
    return parts | {'extra::log_var': log_variance}

  x = jnp.asarray(case['in::x'])
  return Converted(network, convert, variables, x, recorded=recorded)
