"""BERT and what stands on it against enn's; its heads are in `convert.py`.

enn's BERT ends in its pooled feature, and its classifier is a head; here it has
the classifier of its own. Recorded dropout masks are put in the place of draws.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_enn.checkpoints import haiku_backbones
from flax_enn.networks.backbones.bert import Bert, Classifier
from tests.golden import cases, convert

BERTS = cases.names(
    'bert/bert_eval bert_train_dropout', ['enn.networks.bert.make_bert_enn']
)
HEADS = cases.names(
    'bert/baseline_head_eval baseline_head_train',
    ['enn.networks.bert.make_baseline_head_enn'],
)


def bert(params: cases.Params, options: dict[str, Any]) -> Bert:
  """The module of enn's parameters; a classifier of no outputs."""
  tree = haiku_backbones.bert(params)
  vocab_size, hidden = tree['word_embedding']['embedding'].shape
  return Bert(
      classes=0,
      vocab_size=vocab_size,
      layers=len([k for k in tree if k.startswith('layer_')]),
      hidden=hidden,
      heads=options['num_attention_heads'],
      intermediate=len(tree['layer_0']['intermediate']['bias']),
      positions=len(tree['position_embedding']['embedding']),
      segments=len(tree['segment_embedding']['embedding']),
      dropout=options['hidden_dropout_prob'],
      attention_dropout=options['attention_probs_dropout_prob'],
      words='words_bias' in tree,
  )


def classifier(hidden: int, classes: int = 0) -> dict[str, Any]:
  """Parameters of the classifier, which enn's BERT does not have."""
  return {
      'kernel': jnp.zeros((hidden, classes)), 'bias': jnp.zeros(classes)
  }


def inputs(case: cases.Case) -> dict[str, jax.Array]:
  names = ('token_ids', 'segment_ids', 'input_mask')
  return {name: jnp.asarray(case[f'in::{name}']) for name in names}


@pytest.fixture
def recorded_masks(monkeypatch):
  """Puts the masks of a case, at one of its indices, in the place of draws."""

  def use(case: cases.Case, i: int) -> None:
    names = [k for k in case.arrays if k.startswith('rnd::bernoulli')]
    names.sort(key=lambda name: int(name.rsplit('::', 1)[1]))
    masks = iter([case[name][i] for name in names])

    def draw(key, p, shape):
      del key
      # The last one is that of the classifier, if there is none in enn.
      mask = next(masks, np.ones(shape, bool))
      assert mask.shape == tuple(shape)
      assert abs(mask.mean() - p) < 0.3
      return jnp.asarray(mask)

    monkeypatch.setattr(jax.random, 'bernoulli', draw)

  return use


@pytest.mark.parametrize('name', BERTS)
def test_golden_berts(name, recorded_masks):
  case = cases.load_case(name)
  train, x = case.kwargs['is_training'], inputs(case)
  net = bert(case.params(), case.kwargs)

  def apply(params):
    params = {**params, 'out': {'dense': classifier(net.hidden)}}
    rngs = {'dropout': jax.random.key(0)}
    return net.apply({'params': params}, x, train=train, rngs=rngs)[1]

  names = {'pooled_output': 'pooled', 'logits': 'words'}
  recorded = {
      k.removeprefix('out::extra::'): v
      for k, v in case.arrays.items()
      if k.startswith('out::extra::')
  }
  assert 'logits' in recorded
  assert 'hidden_layer_0' in recorded
  for i in range(len(case['z'])):
    recorded_masks(case, i)
    # Traced anew, with its own masks.
    features = jax.jit(lambda p: apply(p))(haiku_backbones.bert(case.params()))
    cases.assert_close(features['pooled'], case['out::preds'][i])
    for name, value in recorded.items():
      if name == 'log_probs':
        got = jax.nn.log_softmax(features['words'])
      else:
        got = features[names.get(name, name.replace('hidden_', ''))]
      cases.assert_close(got, value[i])
  recorded_masks(case, 0)
  got = jax.jit(
      jax.grad(lambda p: (apply(p)['pooled'] * case['in::cot']).mean())
  )(haiku_backbones.bert(case.params()))
  expected = haiku_backbones.bert(case.tree('grads'))
  cases.assert_gradients_close(got, expected)


@pytest.mark.parametrize('name', HEADS)
def test_golden_classifiers(name, recorded_masks):
  case = cases.load_case(name)
  (layer,) = case.params().values()
  train, x = case.kwargs['is_training'], jnp.asarray(case['in::x'], 'float32')
  head = Classifier(case.kwargs['num_classes'])

  def apply(dense):
    rngs = {'dropout': jax.random.key(0)}
    return head.apply({'params': {'dense': dense}}, x, train, rngs=rngs)

  params = convert.dense(layer)
  for i in range(len(case['z'])):
    recorded_masks(case, i)
    cases.assert_close(apply(params), case['out::preds'][i])
  recorded_masks(case, 0)
  got = jax.grad(lambda p: (apply(p) * case['in::cot']).mean())(params)
  (expected,) = case.tree('grads').values()
  jax.tree.map(cases.assert_close, got, convert.dense(expected))
