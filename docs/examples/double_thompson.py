"""Which two to compare? Double Thompson sampling, with a reward epinet.

  python docs/examples/double_thompson.py --out=double_thompson.png

Of 100 items, each described by 8 numbers, two at a time are shown to somebody
who says which one is better, with noise. A network learns the reward of an item
from the answers, and at any time the item of highest reward would be taken. Two
items at random tell little about the best ones, and the two of highest mean
reward nothing about all others. Double Thompson sampling (arXiv:2402.00396)
compares the best item under one function that the answers allow with the best
under another one. Drawn is the regret of the item that would be taken, over the
number of answers, with its standard error over seeds.

Expected of 150 answers, 16 seeds: regret, and the probability that the item
taken is preferred to one of the 100 (`win rate`):

                   on average      at the end      win rate
  at random        0.43 +- 0.07    0.20 +- 0.07    0.910 +- 0.013
  top two          0.39 +- 0.09    0.25 +- 0.09    0.899 +- 0.020
  double Thompson  0.17 +- 0.03    0.03 +- 0.02    0.934 +- 0.007
"""

from absl import app, flags
import jax
import jax.numpy as jnp
from matplotlib.figure import Figure
import numpy as np
import optax

import flax_enn
from flax_enn.active_learning import double_thompson
from flax_enn.data.preferences import Preferences
from flax_enn.networks.preference import Preference

SEEDS = flags.DEFINE_integer('seeds', 16, 'Repetitions.', lower_bound=2)
ANSWERS = flags.DEFINE_integer('answers', 150, 'In all.', lower_bound=1)
OUT = flags.DEFINE_string('out', 'double_thompson.png', 'Picture to write.')

ITEMS, FEATURES, STEPS, TRIES = 100, 8, 10, 30
NETWORK = Preference(
    flax_enn.Epinet(
        base=flax_enn.MLP(hiddens=(32,), classes=1),
        classes=1,
        features=('inputs', 'hidden_0'),
        index_dim=8,
        hiddens=(16,),
        prior_scale=1.0,
    )
)
# The decay is, of 0.001, 0.3, 1 and 3, the best for pairs at random: with less,
# few noisy answers are learned by heart.
TX = optax.adamw(3e-3, weight_decay=3.0)


def at_random(rewards, key):
  """Any two items."""
  return jax.random.choice(key, rewards.shape[1], (2,), replace=False)


def top_two(rewards, key):
  """The two items of highest reward on average."""
  del key
  return jax.lax.top_k(rewards.mean(0), 2)[1]


RULES = {
    'at random': at_random,
    'top two': top_two,
    'double Thompson': double_thompson,
}


def learn(rule, key, items, truth, temperature, answers):
  """`[answers]` regret and win rate of the item taken after each answer."""
  key, *keys = jax.random.split(key, 3)
  choice = items[None]  # one among all of them: its logits are their rewards
  rngs = {'params': keys[0], 'frozen': keys[1]}
  variables = NETWORK.init(rngs, choice, NETWORK.indexer.mean_index)
  fixed = {k: v for k, v in variables.items() if k != 'params'}

  def rewards(params, key, n):
    """`[n, ITEMS]` rewards under n functions."""

    def at(index):
      variables = {'params': params, **fixed}
      return NETWORK.apply(variables, choice, index).preds[0]

    return flax_enn.over_index(at, NETWORK.indexer.sample(key, n))

  def loss(params, key, pairs, labels):
    """Log-loss of the answers so far, whose label is not -1, at drawn indices.

    (All items are evaluated once, rather than two for every answer.)
    """
    logits = rewards(params, key, 8)[:, pairs]
    known = labels >= 0
    each = optax.softmax_cross_entropy_with_integer_labels(
        logits, jnp.broadcast_to(jnp.where(known, labels, 0), logits.shape[:2])
    )
    return (each * known).sum(-1).mean() / known.sum()

  def ask(carry, number):
    params, opt_state, pairs, labels = carry
    asked = jax.random.fold_in(key, number)
    drawing, choosing, answering, training, taking = jax.random.split(asked, 5)
    pair = rule(rewards(params, drawing, 1 + TRIES), choosing)
    answer = jax.random.categorical(answering, truth[pair] / temperature)
    pairs = pairs.at[number].set(pair)
    labels = labels.at[number].set(answer)

    def step(carry, key):
      params, opt_state = carry
      grads = jax.grad(loss)(params, key, pairs, labels)
      updates, opt_state = TX.update(grads, opt_state, params)
      return (optax.apply_updates(params, updates), opt_state), None

    (params, opt_state), _ = jax.lax.scan(
        step, (params, opt_state), jax.random.split(training, STEPS)
    )
    taken = rewards(params, taking, 32).mean(0).argmax()
    wins = jax.nn.sigmoid((truth[taken] - truth) / temperature).mean()
    regret = truth.max() - truth[taken]
    return (params, opt_state, pairs, labels), (regret, wins)

  params = variables['params']
  pairs = jnp.zeros((answers, 2), int)
  start = params, TX.init(params), pairs, jnp.full(answers, -1)
  _, found = jax.lax.scan(ask, start, jnp.arange(answers))
  return found


def main(argv):
  """Learns from the pairs of each rule and draws the regret."""
  del argv
  seeds, answers = range(SEEDS.value), ANSWERS.value
  items = np.stack(
      [np.random.RandomState(s).normal(size=(ITEMS, FEATURES)) for s in seeds]
  )
  data = [Preferences(features=FEATURES, seed=seed) for seed in seeds]
  truth = np.stack([d.rewards(x) for d, x in zip(data, items)])
  keys = jax.random.split(jax.random.key(0), len(seeds))
  temperature = data[0].temperature
  figure = Figure((6, 4.5), layout='constrained')
  ax = figure.subplots()
  for name, rule in RULES.items():

    @jax.jit
    @jax.vmap
    def run(key, items, truth, rule=rule):
      return learn(rule, key, items, truth, temperature, answers)

    regret, wins = map(np.asarray, run(keys, items, truth))
    mean, error = spread(regret)
    ax.plot(mean, label=name)
    ax.fill_between(range(answers), mean - error, mean + error, alpha=0.2)
    said = [
        f'{what} {value:.3f} +- {of:.3f}'
        for what, (value, of) in {
            'mean regret': spread(regret.mean(1)),
            'last regret': spread(regret[:, -1]),
            'win rate': spread(wins[:, -1]),
        }.items()
    ]
    print(f'{name:16} {", ".join(said)}', flush=True)
  ax.set(xlabel='answers', ylabel='regret', ylim=(0, None))
  ax.set_title('The best of 100 items, from comparisons of two')
  ax.legend()
  figure.savefig(OUT.value, dpi=120)


def spread(values):
  """Mean over the seeds and its standard error."""
  return values.mean(0), values.std(0, ddof=1) / len(values) ** 0.5


if __name__ == '__main__':
  app.run(main)
