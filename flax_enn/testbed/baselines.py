"""Agents that learn little or nothing."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from flax_enn.networks.layers import fan_in_init
from flax_enn.testbed.base import Agent, Data, Prior, Sampler, labels


def uniform_class_probs() -> Agent:
  """Says that all classes are equally likely."""

  def agent(data: Data, prior: Prior) -> Sampler:
    del data
    return lambda x, key: jnp.zeros((len(x), prior.num_classes))

  return agent


def average_class_probs() -> Agent:
  """Says how frequent each class is among the training labels.

  As log-probabilities. (The testbed's own returns the probabilities, where
  logits are expected.) A class that was never seen counts half.
  """

  def agent(data: Data, prior: Prior) -> Sampler:
    counts = np.bincount(labels(data, prior), minlength=prior.num_classes)
    logits = jnp.log(jnp.asarray(np.maximum(counts, 0.5) / prior.num_train))
    return lambda x, key: jnp.broadcast_to(logits, (len(x), len(logits)))

  return agent


def prior_only() -> Agent:
  """Draws a function from the testbed's generative model, whatever the data."""

  def agent(data: Data, prior: Prior) -> Sampler:
    del data

    def sampler(x: jax.Array, key: jax.Array) -> jax.Array:
      keys = iter(jax.random.split(key, 4))
      h, std = x, 1 / math.sqrt(prior.input_dim)
      bias = std * jax.random.normal(next(keys), (50,))
      for i, size in enumerate((50, 50, prior.num_classes)):
        h = jax.nn.relu(h) if i else h
        h = h @ fan_in_init(next(keys), (h.shape[-1], size)) + bias
        bias = 0.0  # of the later layers
      return h / prior.temperature

    return jax.jit(sampler)

  return agent
