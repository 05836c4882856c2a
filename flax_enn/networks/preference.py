"""Which of several items is preferred, by the rewards of a network."""

from typing import Any

from flax import linen as nn
import jax

from flax_enn import step_batch
from flax_enn.core import Example, Index, Indexer, Output
from flax_enn.networks.backbones.mlp import MLP
from flax_enn.networks.epinet import Epinet


class Preference(nn.Module):
  """`(r(x_1, z), …, r(x_C, z))`: the rewards of C items, as logits of a choice.

  One network of one item, at one index for all C: of a pair, item 1 is
  preferred with probability `sigmoid(r(x_1, z) - r(x_2, z))` (Bradley and
  Terry). An example is a choice, x `[B, C, ...]`, and its label y the number of
  the item that was preferred. So this is classification with C classes: the
  loss of a preference is `Xent`, or with its `labels` that of answers which are
  wrong at a known rate; likelihood (`Categorical`), metrics, predictors and
  noise are those of any classifier.

  C is that of the inputs, and may change from call to call: a network trained
  on pairs `[B, 2, ...]` gives the rewards of 100 candidates as its outputs for
  the one choice `[1, 100, ...]`, from which
  `flax_enn.active_learning.double_thompson` takes the next pair to ask about.

  Use: rewards learned from comparisons, and which pair to ask about next.
  Cost: that of the network for each item.
  Config: dict(name='preference', net=dict(name='epinet', classes=1,
    features=('hidden_0',), base=dict(name='mlp', classes=1, hiddens=(50,))))
  Source: Dwaracherla et al., arXiv:2402.00396, the epinet of rewards.

  Attributes:
    net: an epistemic network of items `[B, ...]` with one output, the reward.
  """

  net: nn.Module

  @property
  def indexer(self) -> Indexer:
    return self.net.indexer

  @nn.compact
  def __call__(self, x: Any, index: Index, *, train: bool = False) -> Output:
    """Computes `[B, C]` of choices x `[B, C, ...]` at one index.

    `extra` is that of `net`, whose batch is `[B * C]`.

    Raises:
      ValueError: the inputs are no choices, or the network has other outputs.
    """
    forms = [leaf.shape for leaf in jax.tree.leaves(x)]
    choices = {form[:2] for form in forms}
    if len(choices) != 1 or min(map(len, choices)) < 2:
      raise ValueError(
          f'Preference found inputs of the shapes {[list(f) for f in forms]};'
          ' expected choices between the same number of items, [B, C, ...]'
      )
    size = forms[0][0] * forms[0][1]
    items = jax.tree.map(lambda leaf: leaf.reshape(size, *leaf.shape[2:]), x)
    with step_batch.repeated(forms[0][1]):  # each item is an example
      out = self.net(items, index, train=train)
    if out.train.shape != (size, 1):
      raise ValueError(
          f'the network of Preference has {out.train.shape[-1]} outputs; an'
          ' item has one reward: set `classes` to 1 in the section `net`, and'
          ' in that of its base'
      )
    parts = {'train': out.train, 'prior': out.prior, 'base': out.base}
    rewards = jax.tree.map(lambda part: part.reshape(forms[0][:2]), parts)
    return out.replace(**rewards)


def example() -> Example:
  """Pairs of items for a tiny epinet, for the tests of the laws."""
  net = Epinet(
      base=MLP(hiddens=(6, 5), classes=1),
      features=('inputs', 'hidden_1'),
      index_dim=4,
      hiddens=(7,),
  )
  x = jax.random.normal(jax.random.key(0), (8, 2, 4))
  return Example(Preference(net), x, index_free=('base',))
