"""Parts of enn's losses, where they are recorded by themselves.

Known differences, each on purpose:

- `distill_var_classification` takes the variance of all probabilities at once,
  with no axis; here it is that over the indices, of every class.
- `average_xent_batchnorm_state`: its new state averages over the indices that
  were drawn; here every member sees every batch (loss and gradients agree).
"""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special

from flax_enn import losses
from flax_enn.checkpoints import haiku
from flax_enn.core import Output
from flax_enn.likelihoods import Categorical, Gaussian, TwoHot
from flax_enn.losses.flow_kl import normal_log_prob
from flax_enn.networks.mlp_dropout import MLPDropout
from flax_enn.sampling import over_index
from tests.golden import cases
from tests.golden.convert import normed
from tests.golden.test_golden_losses import keyed, make_batch


def context(likelihood=None, num_examples=1):
  return losses.Context(jnp.int32(0), num_examples, likelihood)


def test_golden_two_hot():
  case = cases.load_case('losses/transform_to_2hot')
  atoms = case['in::atoms']
  spaced = TwoHot(float(atoms[0]), float(atoms[-1]), len(atoms))
  for likelihood in (spaced, TwoHot(atoms=atoms)):
    found = likelihood.two_hot(case['in::target'][:, None])
    cases.assert_close(found, case['ret::probs'])


def test_golden_densities_of_weights():
  """Which scales were recorded is found by fitting: they are in no manifest."""
  case = cases.load_case('losses/hyperflow_kl_and_density_helpers')
  latent = case['in::latent']
  found = normal_log_prob(latent, 0.7)
  cases.assert_close(found, case['ret::normal_log_prob'])
  extra = {'latent': latent, 'log_prob': case['in::log_prob']}
  kl = losses.FlowKL(0.7)(
      Output(latent[None], extra=extra),
      None,
      context=context(num_examples=20),
  )
  cases.assert_close(kl, case['ret::hyperflow_kl'])
  mixture = losses.MixtureKL(0.7, 0.3, 0.6).log_prior(latent).sum()
  cases.assert_close(mixture, case['ret::mixture'])


def test_golden_prior_losses():
  case = cases.load_case('losses/prior_loss_helpers')
  drawn, mean = Output(case['in::batched']), Output(case['in::distill'][None])
  classes = drawn.train.shape[-1]
  mean = mean.replace(extra={'log_var': case['in::log_var'][None]})
  outputs = {'mean': mean, 'drawn': drawn}

  def score(loss, likelihood, outputs=outputs):
    return loss(outputs, None, context=context(likelihood)).mean()

  prior = over_index(lambda out: losses.PriorMatch()(out, None), drawn).mean()
  cases.assert_close(prior, case['ret::l2_penalty'])
  numbers, labels = Gaussian(classes), Categorical(classes)
  found = score(losses.DistillMean(), numbers)
  cases.assert_close(found, case['ret::mean_regression'])
  found = score(losses.DistillMean(), labels)
  cases.assert_close(found, case['ret::mean_classification'])
  found = score(losses.DistillVariance(), numbers)
  cases.assert_close(found, case['ret::var_regression'])
  # enn's variance of all probabilities, with the same divergence.
  probs = scipy.special.softmax(drawn.train, -1)
  log_var = case['in::log_var']

  def divergence(variance):
    ratio = variance / np.exp(log_var)
    return (0.5 * (log_var - np.log(variance) + ratio - 1)).mean()

  recorded = case['ret::var_classification']
  cases.assert_close(np.float32(divergence(probs.var())), recorded)
  found = score(losses.DistillVariance(), labels)
  cases.assert_close(found, np.float32(divergence(probs.var(0))))
  assert abs(found - recorded) > 0.1


def test_golden_batch_norm():
  case = cases.load_case('losses/average_xent_batchnorm_state')
  batch, x = make_batch(case, True), jnp.asarray(case['in::x'], jnp.float32)
  params = normed.members(case.params())
  statistics = normed.statistics(case.state())
  size = len(params['linear']['bias'])
  classes = params['linear_1']['bias'].shape[-1]
  draw = jax.vmap(lambda key: jax.random.randint(key, (), 0, size))
  keys = jax.vmap(jax.random.fold_in, (None, 0))(
      keyed(case['in::key']), jnp.arange(4)
  )

  def member(params, statistics):
    variables = {'params': params, 'batch_stats': statistics}
    (logits, _), _ = normed.Normed(classes).apply(
        variables, x, train=True, mutable=['batch_stats']
    )
    return logits

  def value(params):
    logits = jax.vmap(member)(params, statistics)[draw(keys)]
    scores = over_index(lambda at: losses.Xent()(Output(at), batch), logits)
    return (scores * batch.weight).mean()

  loss, grads = jax.jit(jax.value_and_grad(value))(params)
  cases.assert_close(loss, case['ret::loss'])
  expected = normed.members(case.tree('ret::grads'))
  cases.assert_gradients_close(grads, expected)


def test_golden_regularized_dropout():
  """Three masks, drawn from the keys; the penalty is on all weights."""
  case = cases.load_case('losses/testbed_regularized_dropout')
  rate, scale, tau, num_train = 0.3, 0.2, 1.5, 20
  first, second = (case.params()[n] for n in ('linear', 'linear_1'))
  inputs, hidden = first['w'].shape
  keys = jax.vmap(jax.random.fold_in, (None, 0))(
      keyed(case['in::key']), jnp.arange(3)
  )
  masks = jax.vmap(
      lambda key: jax.random.bernoulli(key, 1 - rate, (inputs + hidden,))
  )(keys)
  network = MLPDropout(
      (hidden,), second['w'].shape[-1], rate=rate, dropout_input=False
  )
  batch = make_batch(case, True)
  penalty = losses.L2Penalty(
      scale**2 * (1 - rate) / (2 * num_train * tau), biases=True
  )

  def value(params):
    def at(mask):
      parts = jnp.split(mask, [inputs])
      out = network.apply({'params': params}, batch.x, parts)
      return (losses.Xent()(out, batch) * batch.weight).mean()

    decay = penalty(None, batch, variables={'params': params})
    return over_index(at, masks).mean() + decay, decay

  grad = jax.jit(jax.value_and_grad(value, has_aux=True))
  (loss, decay), grads = grad(haiku.mlp_dropout(case.params()))
  cases.assert_close(decay, case['ret::metrics::decay'])
  cases.assert_close(loss, case['ret::loss'])
  recorded = haiku.mlp_dropout(case.tree('ret::grads'))
  jax.tree.map(cases.assert_close, grads, recorded)
