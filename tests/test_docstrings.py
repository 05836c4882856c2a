"""The examples in docstrings say what happens."""

import doctest
import functools
import importlib
import inspect
import re

import jax
import jax.numpy as jnp
import pytest

from flax_enn import indexers, likelihoods, losses, metrics
from flax_enn.core import Batch, Output
from tests.test_layering import LIBRARY, ROOT

# Types of what is passed in and out, which have no result of their own.
WITHOUT_EXAMPLE = {
    'Context', 'Likelihood', 'Loss', 'METRICS', 'Noise', 'Objective',
}  # fmt: skip


@functools.cache
def given():
  """What the examples need not define: two classes, four examples."""
  batch = Batch(
      x=jnp.zeros((4, 3)),
      y=jnp.array([0, 1, 1, 0]),
      weight=jnp.ones(4),
      id=jnp.arange(4),
      mask=jnp.ones(4),
  )
  # Probabilities of the labels at two indices.
  of_label = jnp.array([[0.8, 0.6, 0.5, 0.2], [0.4, 0.8, 0.1, 0.6]])
  one_hot = jax.nn.one_hot(batch.y, 2)
  probs = jnp.where(one_hot, of_label[..., None], 1 - of_label[..., None])
  two = likelihoods.Categorical(2)
  stats = metrics.PredictiveStats.zeros(two, batch_size=4, tau=2)
  return {
      **{name: getattr(indexers, name) for name in dir(indexers)},
      'Categorical': likelihoods.Categorical,
      'Gaussian': likelihoods.Gaussian,
      'Output': Output,
      'batch': batch,
      'context': losses.Context(jnp.int32(0), 4, two),
      'index': jax.nn.one_hot(3, 10),
      'jax': jax,
      'jnp': jnp,
      'output': Output(jnp.zeros((4, 2))),
      'predictive': stats.update(two, jnp.log(probs), batch.y),
      'variables': {'params': {'dense': {'kernel': jnp.ones((2, 2))}}},
  }


MODULES = [
    '.'.join(path.relative_to(ROOT).with_suffix('').parts)
    for path in LIBRARY
    if '>>> ' in path.read_text()
]


NUMBER = re.compile(r'-?\d+\.?\d*(?:e-?\d+)?')


class Close(doctest.OutputChecker):
  """The same text, with the same numbers but for rounding."""

  def check_output(self, want, got, optionflags):
    texts = [''.join(NUMBER.sub('#', text).split()) for text in (want, got)]
    numbers = [
        [float(number) for number in NUMBER.findall(text)]
        for text in (want, got)
    ]
    return texts[0] == texts[1] and numbers[0] == pytest.approx(
        numbers[1], rel=1e-5, abs=1e-6
    )


@pytest.mark.parametrize('name', MODULES)
def test_examples(name):
  module = importlib.import_module(name)
  globs = {**vars(module), **given()}
  said, runner = [], doctest.DocTestRunner(checker=Close())
  for test in doctest.DocTestFinder().find(module, globs=globs):
    runner.run(test, out=said.append)
  assert runner.tries and not runner.failures, ''.join(said)


@pytest.mark.parametrize('package', [likelihoods, losses, metrics])
def test_what_scores_has_an_example(package):
  lacking = [
      name
      for name in package.__all__
      if name not in WITHOUT_EXAMPLE
      and '>>> ' not in inspect.getdoc(getattr(package, name))
  ]
  assert not lacking
