"""Likelihoods: what the outputs of a network mean, one file each."""

from flax_enn.likelihoods.base import Likelihood
from flax_enn.likelihoods.categorical import Categorical
from flax_enn.likelihoods.gaussian import Gaussian
from flax_enn.likelihoods.two_hot import TwoHot

__all__ = ['Categorical', 'Gaussian', 'Likelihood', 'TwoHot']
