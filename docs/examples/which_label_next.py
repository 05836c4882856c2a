"""Which label next? Active learning of digits, by three rules.

  python docs/examples/which_label_next.py --out=which_label_next.png

An ensemble with priors learns from 20 labelled digits. It then asks for labels,
one at a time: of the image that tells most about the labels of others
(`Predictor.information_gain`), of the image it is least certain of (entropy),
or of any. It is conditioned on each answer, and trained anew after ten. Drawn
is the accuracy on test images over the number of labels, averaged over seeds.
Such rules, of any network and data set, are compared by a config:
`python -m flax_enn.active_learning`.

Expected, mean accuracy from 20 to 80 labels over five seeds: information gain
0.819 +- 0.006, at random 0.794 +- 0.014, entropy 0.783 +- 0.009.
"""

from absl import app, flags, logging
import jax
import jax.numpy as jnp
from matplotlib.figure import Figure
import numpy as np
import optax
from sklearn.datasets import load_digits

import flax_enn
from flax_enn import active_learning
from flax_enn.inference import Predictor
from flax_enn.model import Model

SEEDS = flags.DEFINE_integer('seeds', 5, 'Repetitions.', lower_bound=2)
ROUNDS = flags.DEFINE_integer('rounds', 6, 'Of ten labels.', lower_bound=1)
OUT = flags.DEFINE_string('out', 'which_label_next.png', 'Picture to write.')

START, PER_ROUND = 20, 10
CANDIDATES, TARGETS = 200, 30  # unlabelled images that a rule looks at
MEMBERS, STEPS = 20, 300
MEMBER = flax_enn.MLP(hiddens=(64,), classes=10)
NETWORK = flax_enn.WithPrior(
    flax_enn.Ensemble(MEMBER, MEMBERS),
    {'member': flax_enn.EnsemblePrior(MEMBER)},
)
MODEL = Model(
    NETWORK, flax_enn.Categorical(10), jax.ShapeDtypeStruct((64,), np.float32)
)
INDICES = jnp.eye(MEMBERS)  # every member


@jax.jit
def train(key, x, y, mask):
  """Variables trained on the unmasked examples, from scratch."""
  init, frozen = jax.random.split(key)
  rngs = {'params': init, 'frozen': frozen}
  variables = NETWORK.init(rngs, x[:1], INDICES[0])
  params = variables['params']
  tx = optax.adam(3e-3)

  def loss(params):
    def preds(z):
      return NETWORK.apply({**variables, 'params': params}, x, z).preds

    losses = optax.softmax_cross_entropy_with_integer_labels(
        flax_enn.over_index(preds, INDICES),
        jnp.broadcast_to(y, (MEMBERS, len(y))),
    )
    return (losses * mask).sum() / mask.sum()

  def step(carry, _):
    params, opt_state = carry
    updates, opt_state = tx.update(jax.grad(loss)(params), opt_state)
    return (optax.apply_updates(params, updates), opt_state), None

  (params, _), _ = jax.lax.scan(step, (params, tx.init(params)), length=STEPS)
  return {**variables, 'params': params}


def by_information(predictor, x, targets, rng):
  """What a label tells about the targets', on average."""
  del rng
  return predictor.information_gain(x, targets, pairwise=True)


def by_entropy(predictor, x, targets, rng):
  """How uncertain its label is, at the weighted indices."""
  del targets, rng
  logits = jnp.asarray(predictor.logits(x))
  return active_learning.PRIORITIES['entropy'](
      active_learning.log_probs(MODEL.likelihood, logits),
      log_weights=predictor.log_weights,
  )


def at_random(predictor, x, targets, rng):
  """The same for all, on average."""
  del predictor, targets
  return rng.uniform(size=len(x))


RULES = {
    'information gain': by_information,
    'entropy': by_entropy,
    'at random': at_random,
}


def learn(rule, seed, rounds):
  """`[rounds + 1]` accuracy after every ten labels that a rule asked for."""
  digits = load_digits()
  rng = np.random.default_rng(seed)
  order = rng.permutation(len(digits.target))
  x = (digits.data[order] / 16).astype(np.float32)
  y = digits.target[order]
  (pool, test), (pool_y, test_y) = ((a[:-500], a[-500:]) for a in (x, y))
  known, curve, most = list(range(START)), [], START + rounds * PER_ROUND
  for number in range(rounds + 1):
    rows = np.array(known + known[:1] * (most - len(known)))  # one size
    mask = np.arange(most) < len(known)
    key = jax.random.fold_in(jax.random.key(seed), number)
    variables = train(key, pool[rows], pool_y[rows], mask)
    predictor = Predictor.create(MODEL, variables, INDICES)
    curve.append(np.mean(predictor.probs(test).argmax(-1) == test_y))
    if number == rounds:
      return curve
    targets = pool[rng.choice(len(pool), TARGETS, replace=False)]
    for _ in range(PER_ROUND):
      left = np.setdiff1d(np.arange(len(pool)), known)
      some = rng.choice(left, CANDIDATES, replace=False)
      best = some[np.argmax(rule(predictor, pool[some], targets, rng))]
      known.append(int(best))
      predictor = predictor.condition(pool[[best]], pool_y[[best]])


def main(argv):
  """Learns by each rule and draws the curves."""
  del argv
  logging.set_verbosity(logging.WARNING)
  labels = START + PER_ROUND * np.arange(ROUNDS.value + 1)
  figure = Figure((6, 4.5), layout='constrained')
  ax = figure.subplots()
  for name, rule in RULES.items():
    seeds = range(SEEDS.value)
    curves = np.array([learn(rule, s, ROUNDS.value) for s in seeds])
    areas, error = curves.mean(1), curves.std(0, ddof=1) / len(seeds) ** 0.5
    ax.plot(labels, curves.mean(0), 'o-', label=f'{name}: {areas.mean():.3f}')
    low, high = curves.mean(0) - error, curves.mean(0) + error
    ax.fill_between(labels, low, high, alpha=0.2)
    spread = areas.std(ddof=1) / len(seeds) ** 0.5
    print(
        f'{name:18} area {areas.mean():.4f} +- {spread:.4f}, accuracy after'
        f' {labels[-1]} labels {curves[:, -1].mean():.4f}', flush=True,
    )
  ax.set(xlabel='labels', ylabel='accuracy on 500 test images')
  ax.set_title('Which label next? (In the legend: mean accuracy)')
  ax.legend()
  figure.savefig(OUT.value, dpi=120)


if __name__ == '__main__':
  app.run(main)
