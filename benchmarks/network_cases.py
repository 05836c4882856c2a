"""The data sets of `networks`, and the networks that each can train.

Networks come in groups of one base, whose first is that base without an index.
"""

from collections.abc import Callable, Mapping
import dataclasses
import functools
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from flax_enn import (
    MLP,
    Deterministic,
    Ensemble,
    EnsemblePrior,
    Epinet,
    Frozen,
    Nll,
    ScaledPrior,
    WithPrior,
)
from flax_enn.data.base import Dataset
from flax_enn.data.cola import Cola
from flax_enn.data.digits import Digits
from flax_enn.data.preferences import Preferences
from flax_enn.data.regression import Regression
from flax_enn.data.sst2 import Sst2
from flax_enn.data.two_moons import TwoMoons
from flax_enn.likelihoods import Gaussian, Likelihood, TwoHot
from flax_enn.losses import Loss, TwoHotXent
from flax_enn.networks.backbones.bert import Bert
from flax_enn.networks.backbones.convnet import ConvNet
from flax_enn.networks.backbones.lenet5 import LeNet5
from flax_enn.networks.backbones.resnet import ResNet
from flax_enn.networks.backbones.spectral_norm import SpectralNorm
from flax_enn.networks.backbones.vgg import VGG
from flax_enn.networks.batch_ensemble import BatchEnsemble
from flax_enn.networks.bayes_by_backprop import BayesByBackprop
from flax_enn.networks.combined import Combined
from flax_enn.networks.gaussian_noise import GaussianNoise
from flax_enn.networks.hypermodel import Hypermodel
from flax_enn.networks.index_mlp import IndexMLP
from flax_enn.networks.laplace import Laplace
from flax_enn.networks.linear_ensemble import LinearEnsemble
from flax_enn.networks.lora_ensemble import LoraEnsemble
from flax_enn.networks.mlp_dropout import MLPDropout
from flax_enn.networks.preference import Preference
from flax_enn.networks.priors.conv_prior import ConvPrior
from flax_enn.networks.priors.gp_prior import GPPrior
from flax_enn.networks.priors.independent_layers_prior import (
    IndependentLayersPrior,
)
from flax_enn.networks.priors.mlp_prior import MLPPrior
from flax_enn.networks.rescaled import Rescaled
from flax_enn.networks.sngp import Sngp
from flax_enn.networks.variational_last_layer import VariationalLastLayer

HIDDENS = (50, 50)
# Of the curve, whose noise has .1: priors of the input, and how they wiggle.
PRIOR_SCALE, GAMMA = 0.1, 3.0
# The base alone, by its name, and networks on it, by theirs.
Groups = Mapping[str, tuple[Any, Mapping[str, Any]]]


@dataclasses.dataclass(frozen=True)
class Case:
  """A data set, and how networks are trained on it.

  Attributes:
    dataset: from the folder of its files.
    groups: from the number of outputs.
    steps: of training, by default.
    batch_size: B.
    learning_rate: of AdamW.
    decay: whether it falls to 0, along a cosine.
    likelihood: of the outputs; that of the data set where it is None.
    loss: that is minimised.
  """

  dataset: Callable[[str], Dataset]
  groups: Callable[[int], Groups]
  steps: int = 500
  batch_size: int = 100
  learning_rate: float = 3e-3
  decay: bool = False
  likelihood: Likelihood | None = None
  loss: Loss = dataclasses.field(default_factory=Nll)


def perceptrons(classes: int) -> Groups:
  """Each network on the same perceptron."""
  base, last = MLP(HIDDENS, classes), ('hidden_1',)
  curve = classes == 1
  epinet = Epinet(
      base,
      ('inputs', *last),
      index_dim=8,
      hiddens=(15, 15),
      prior_scale=0.3 if curve else 1.0,  # the noise of the curve has .1
  )
  ensemble = Ensemble(base, size=10)
  networks = {
      'batch_ensemble': BatchEnsemble(base, size=8),
      'bayes_by_backprop': BayesByBackprop(base),
      'combined': Combined(
          base=MLP(HIDDENS[:1], classes),
          feature='hidden_0',
          head=MLPDropout(HIDDENS[1:], classes),
      ),
      'ensemble': ensemble,
      'epinet': epinet,
      'gaussian_noise': GaussianNoise(base, init_scale=0.1),
      # Scaled kernels start with less spread (a curve needs that), and learn
      # more slowly, the more inputs there are.
      'hypermodel': Hypermodel(base, index_dim=5, scale_kernels=curve),
      'index_mlp': IndexMLP(HIDDENS, classes, index_dim=11),
      'laplace': Laplace(
          Frozen(base),
          last,
          prior_precision=10.0,
          noise_std=0.1 if curve else None,
      ),
      'linear_ensemble': LinearEnsemble(
          base, last, index_dim=10, stop_gradient=False
      ),
      'lora_ensemble': LoraEnsemble(Frozen(base), size=8),
      # A curve has one input: without it nothing is left.
      'mlp_dropout': MLPDropout(
          HIDDENS,
          classes,
          rate=0.02 if curve else 0.05,
          dropout_input=not curve,
      ),
      'rescaled': Rescaled(epinet),
      # Spectral norms keep features close together: the kernel is as narrow.
      'sngp': Sngp(SpectralNorm(base), last, classes, length_scale=0.3),
      'variational_last_layer': VariationalLastLayer(base, last, classes),
      'with_prior': WithPrior(
          ensemble, {'member': ScaledPrior(EnsemblePrior(base.clone()), 1.0)}
      ),
  }
  return {'mlp': (Deterministic(base), networks)}


def curves(classes: int) -> Groups:
  """These, and with the priors that enn has for them."""
  base, networks = perceptrons(classes)['mlp']
  mlp, gp = MLP(HIDDENS, classes), GPPrior(classes, gamma=GAMMA)
  # As enn starts one, where the index decides more of the function.
  hyper = Hypermodel(mlp, index_dim=5, scale_kernels=False)
  layers = IndependentLayersPrior(HIDDENS)
  small = MLP((5, 5), classes)
  more = {
      'ensemble_gp': _beside(networks['ensemble'], EnsemblePrior(gp)),
      'epinet_ensemble': _beside(networks['epinet'], EnsemblePrior(small)),
      'hypermodel_hypermodel': _beside(networks['hypermodel'], hyper),
      'hypermodel_layers': _beside(networks['hypermodel'], layers),
  }
  return {'mlp': (base, {**networks, **more})}


def _beside(
    network: nn.Module, prior: nn.Module, scale: Any = PRIOR_SCALE
) -> WithPrior:
  return WithPrior(network, {'beside': ScaledPrior(prior, scale)})


class Padded(nn.Module):
  """A backbone with outputs of 0 around its own.

  Attributes:
    net: the backbone, with C outputs.
    before: outputs in front of its own.
    after: outputs behind its own.
  """

  net: nn.Module
  before: int = 0
  after: int = 0

  @nn.compact
  def __call__(
      self, x: jax.Array, *, train: bool = False
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Maps `[B, ...]` to `[B, before + C + after]`, and features."""
    out, features = self.net(x, train=train)
    return jnp.pad(out, ((0, 0), (self.before, self.after))), features


def histograms(outputs: int) -> Groups:
  """Categorical regression; only priors shift the atoms, as in enn."""
  atoms = outputs - 1
  base = Padded(MLP(HIDDENS, atoms), after=1)
  gp = Padded(GPPrior(1, gamma=GAMMA), before=atoms)
  mlp = Padded(MLP(HIDDENS, 1), before=atoms)
  ensemble = Ensemble(base, size=10)
  networks = {
      'ensemble': ensemble,
      'ensemble_gp': _beside(ensemble, EnsemblePrior(gp)),
      'ensemble_mlp': _beside(ensemble, EnsemblePrior(mlp)),
  }
  return {'two_hot': (Deterministic(base), networks)}


def variances(outputs: int) -> Groups:
  """Mean and log-variance of a number; priors are for the mean."""
  network = IndexMLP(HIDDENS, outputs, index_dim=11, variance_hidden=20)
  gp = EnsemblePrior(GPPrior(outputs, gamma=GAMMA), skip=1)
  networks = {
      'index_mlp': network,
      'index_mlp_gp': _beside(network, gp, (PRIOR_SCALE, 0.0)),
  }
  return {'variance': (Deterministic(MLP(HIDDENS, outputs)), networks)}


def images(classes: int) -> Groups:
  """Convolutional bases beside the perceptron."""
  convnet = ConvNet(channels=(8, 16), hidden=32, classes=classes)
  lenet5 = LeNet5(classes)
  vgg = VGG(classes, (16, 32, 32), (1, 2, 2), bn_momentum=0.9)
  resnet = ResNet(classes, depth=18, blocks=(1, 1, 1), channels=(8, 16, 32))
  head = {'index_dim': 8, 'hiddens': (15,), 'prior_scale': 0.3}
  on_pooled = Epinet(resnet, ('pooled',), **head)
  prior = ConvPrior(channels=(4, 8), kernels=(3, 3), strides=(2, 2))
  members = {
      'ensemble': Ensemble(convnet, size=5),
      'epinet': Epinet(convnet, ('inputs', 'hidden'), **head),
  }
  return {
      **perceptrons(classes),
      'convnet': (Deterministic(convnet), members),
      'lenet5': (Deterministic(lenet5), {'ensemble': Ensemble(lenet5, 5)}),
      'vgg': (Deterministic(vgg), {'ensemble': Ensemble(vgg, 5)}),
      'resnet': (
          Deterministic(resnet),
          {
              'epinet': on_pooled,
              'with_prior': WithPrior(on_pooled, {'conv': prior}),
              'with_mlp_prior': WithPrior(
                  on_pooled, {'mlp': MLPPrior((5, 5), scale=PRIOR_SCALE)}
              ),
          },
      ),
  }


def sentences(classes: int, positions: int = 32) -> Groups:
  """Heads on a tiny BERT, trained with it."""
  base = Bert(
      classes,
      vocab_size=4000,
      positions=positions,
      layers=2,
      hidden=64,
      heads=4,
      intermediate=128,
  )
  members = Ensemble(MLP((), classes), size=10)
  dropout = MLPDropout((), classes, rate=0.1)
  networks = {
      'ensemble': Combined(base, members, 'pooled'),
      'dropout': Combined(base, dropout, 'pooled'),
      'epinet': Epinet(base, ('pooled',), index_dim=10, hiddens=(50,)),
  }
  return {'bert': (Deterministic(base), networks)}


def rewards(items: int) -> Groups:
  """Rewards of items, which only comparisons tell of."""
  del items  # that are compared: an item has one reward
  base = MLP(HIDDENS, classes=1)
  epinet = Epinet(base, ('inputs', 'hidden_1'), index_dim=8, hiddens=(15, 15))
  networks = {
      'epinet': Preference(epinet),
      'ensemble': Preference(Ensemble(base, size=10)),
  }
  return {'preference': (Preference(Deterministic(base)), networks)}


def _cola(folder: str) -> Cola:
  return Cola(folder, 'cola_train.tsv.gz', 'cola_dev.tsv.gz')


def _sst2(folder: str) -> Sst2:
  return Sst2(folder, 'sst2_train.tsv.gz', 'sst2_dev.tsv.gz', length=48)


_CURVE = Case(lambda _: Regression(), curves, 4000, decay=True)

CASES = {
    'two_moons': Case(
        lambda _: TwoMoons(n_train=200, n_test=1000, noise=0.3), perceptrons
    ),
    'regression': _CURVE,
    'regression_two_hot': dataclasses.replace(
        _CURVE,
        groups=histograms,
        likelihood=TwoHot(-3.0, 3.0, 61, shift=True),
        loss=TwoHotXent(),
    ),
    'regression_variance': dataclasses.replace(
        _CURVE, groups=variances, likelihood=Gaussian(1, scale=None)
    ),
    'digits': Case(lambda _: Digits(), images),
    'preferences': Case(
        lambda _: Preferences(), rewards, learning_rate=1e-3
    ),
    'cola': Case(_cola, sentences, 300, batch_size=32, learning_rate=5e-4),
    'sst2': Case(
        _sst2,
        functools.partial(sentences, positions=48),
        1000,
        batch_size=32,
        learning_rate=1e-3,
    ),
}
