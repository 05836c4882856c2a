"""Schedules against closed forms, optimizers against optax's own."""

import math

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest

from flax_enn.networks import ensemble, epinet
from flax_enn.training.optimizer import create_optimizer, create_schedule
from flax_enn.training.state import init_state

PEAK, STEPS = 0.3, 40


def cosine(step, warmup):
  """The rate of a step: a line to the peak, then half a cosine to 0."""
  if step < warmup:
    return PEAK * step / warmup
  done = min((step - warmup) / (STEPS - warmup), 1)
  return PEAK * (1 + math.cos(math.pi * done)) / 2


def constant(step, warmup):
  return PEAK * min(step / warmup, 1) if warmup else PEAK


@pytest.mark.parametrize('warmup', [0, 1, 10, STEPS - 1])
@pytest.mark.parametrize('form', [cosine, constant])
def test_schedule_is_its_closed_form(form, warmup):
  schedule = {'name': form.__name__, 'warmup_steps': warmup}
  rate = create_schedule({'learning_rate': PEAK, 'schedule': schedule}, STEPS)
  steps = range(STEPS + 3)
  found = [float(rate(step)) for step in steps]
  expected = [form(step, warmup) for step in steps]
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize('schedule', [{}, {'schedule': None}, {'schedule': {}}])
def test_schedule_is_constant_where_none_is_named(schedule):
  rate = create_schedule({'learning_rate': PEAK, **schedule}, STEPS)
  assert float(rate(0)) == float(rate(STEPS)) == pytest.approx(PEAK)


PARAMS = {
    'layer': {'kernel': jnp.array([[1.0, -2.0]]), 'bias': jnp.array([3.0])},
    'norm': {'scale': jnp.array([5.0]), 'bias': jnp.array([6.0])},
    'token': {'embedding': jnp.array([[7.0, 8.0]])},
}
GRADS = jax.tree.map(lambda p: jnp.cos(p) * 2, PARAMS)
MASK = {
    'layer': {'kernel': True, 'bias': False},
    'norm': {'scale': False, 'bias': False},
    'token': {'embedding': True},
}


def run(tx, params=PARAMS, grads=GRADS, steps=4):
  state = tx.init(params)
  for _ in range(steps):
    updates, state = tx.update(grads, state, params)
    params = optax.apply_updates(params, updates)
  return params


def nesterov(decay, momentum):
  """SGD with the weight decay added to the gradient, in plain Python."""

  def leaf(param, grad, decays):
    velocity = np.zeros_like(param)
    for _ in range(4):
      g = grad + decay * decays * param
      velocity = momentum * velocity + g
      param = param - PEAK * (momentum * velocity + g)
    return param

  return jax.tree.map(leaf, PARAMS, GRADS, MASK)


ADAM = {'b1': 0.8, 'b2': 0.9}
CASES = {
    'sgd': ({}, nesterov(0, 0.9)),
    'sgd with decay': (
        {'momentum': 0.5, 'weight_decay': 0.1},
        nesterov(0.1, 0.5),
    ),
    'adamw': ({}, run(optax.adamw(PEAK, weight_decay=0))),
    'adamw with decay': (
        {'weight_decay': 0.1, **ADAM},
        run(optax.adamw(PEAK, weight_decay=0.1, mask=MASK, **ADAM)),
    ),
    'lamb': ({}, run(optax.lamb(PEAK, weight_decay=0))),
    'lamb with decay': (
        {'weight_decay': 0.1, **ADAM},
        run(optax.lamb(PEAK, weight_decay=0.1, mask=MASK, **ADAM)),
    ),
}


@pytest.mark.parametrize('wrap', [dict, ml_collections.ConfigDict])
@pytest.mark.parametrize('case', CASES)
def test_optimizer_is_the_one_it_names(case, wrap):
  fields, expected = CASES[case]
  config = {'name': case.split()[0], 'learning_rate': PEAK, **fields}
  found = run(create_optimizer(wrap(config), STEPS))
  jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found, expected
  )


def test_optimizer_follows_the_schedule():
  schedule = {'name': 'cosine', 'warmup_steps': 2}
  config = {'name': 'sgd', 'learning_rate': PEAK, 'momentum': 0.0}
  tx = create_optimizer({**config, 'schedule': schedule}, STEPS)
  moved = PARAMS['norm']['bias'] - run(tx)['norm']['bias']
  rates = sum(cosine(step, 2) for step in range(4))
  np.testing.assert_allclose(moved, rates * GRADS['norm']['bias'], rtol=1e-5)


def test_clip_norm_shortens_long_gradients_and_no_others():
  norm = math.sqrt(sum(np.sum(g**2) for g in jax.tree.leaves(GRADS)))
  config = {'name': 'sgd', 'learning_rate': 1.0, 'momentum': 0.0}

  def step(clip_norm):
    tx = create_optimizer({**config, 'clip_norm': clip_norm}, STEPS)
    return jax.tree.map(jnp.subtract, PARAMS, run(tx, steps=1))

  for clip_norm, factor in [(norm / 4, 1 / 4), (norm * 2, 1), (None, 1)]:
    jax.tree.map(
        lambda a, g, f=factor: np.testing.assert_allclose(a, f * g, rtol=1e-4),
        step(clip_norm),
        GRADS,
    )


def test_weight_decay_comes_after_the_clip():
  """The clip is of the gradient, whatever the size of the weights."""
  config = {'name': 'sgd', 'learning_rate': 1.0, 'momentum': 0.0}
  tx = create_optimizer(
      {**config, 'weight_decay': 0.5, 'clip_norm': 1e-6}, STEPS
  )
  kernel = run(tx, steps=1)['layer']['kernel']
  np.testing.assert_allclose(kernel, PARAMS['layer']['kernel'] / 2, rtol=1e-4)


@pytest.mark.parametrize('name', ['sgd', 'adamw', 'lamb'])
@pytest.mark.parametrize('module', [epinet, ensemble])
def test_without_a_gradient_kernels_shrink_and_nothing_else_moves(module, name):
  """By the names of real networks: also norms, and an epinet's index bias."""
  network, x = module.example()
  config = {'name': name, 'learning_rate': 0.1, 'weight_decay': 0.5}
  tx = create_optimizer(config, STEPS)
  state = jax.jit(lambda: init_state(network, tx, 0, x))()
  # Away from the zeros that biases begin at: those would hide a decay.
  params = jax.tree.map(lambda p: p + 1, state.params)
  grads = jax.tree.map(jnp.zeros_like, params)
  after = jax.jit(lambda p: run(tx, p, grads, steps=1))(params)
  ratios = jax.tree.map(lambda new, old: new / old, after, params)
  names = set()
  for path, ratio in jax.tree_util.tree_leaves_with_path(ratios):
    names.add(path[-1].key)
    if path[-1].key == 'kernel':
      assert (ratio < 1).all(), path
    else:
      assert (ratio == 1).all(), path
  norms = {'scale'} if module is ensemble else set()
  assert names == {'kernel', 'bias'} | norms


GOOD = {'name': 'sgd', 'learning_rate': PEAK}


@pytest.mark.parametrize(
    ('fields', 'expected'),
    [
        ({'name': None}, r'config\.optimizer\.name is None.*sgd, adamw, lamb'),
        ({'b1': 0.9}, r'config\.optimizer\.b1 is not a field of .*sgd'),
        ({'learning_rate': None}, r'config\.optimizer\.learning_rate is None'),
        ({'learning_rate': -1}, r'config\.optimizer\.learning_rate is -1'),
        ({'learning_rate': math.inf}, 'learning_rate is inf.*finite'),
        ({'name': 'adam'}, r"\.optimizer\.name is 'adam'.*sgd, adamw, lamb"),
        (
            {'learning_rat': 1},
            r"config\.optimizer\.learning_rat .*did you mean 'learning_rate'",
        ),
        (
            {'schedule': {'name': 'step'}},
            r"config\.optimizer\.schedule\.name is 'step'.*constant, cosine",
        ),
        (
            {'schedule': {'warmup_steps': 2}},
            r'config\.optimizer\.schedule\.name is None',
        ),
        (
            {'schedule': {'name': 'cosine', 'warmup': 2}},
            r"schedule\.warmup .*did you mean 'warmup_steps'",
        ),
        (
            {'schedule': {'name': 'cosine', 'warmup_steps': STEPS}},
            rf'warmup_steps is {STEPS}; .*config\.num_steps \({STEPS}\)',
        ),
        (
            {'schedule': {'name': 'constant', 'warmup_steps': -1}},
            r'config\.optimizer\.schedule\.warmup_steps is -1',
        ),
    ],
    ids=str,
)
def test_bad_configs_name_their_field(fields, expected):
  with pytest.raises(ValueError, match=expected):
    create_optimizer({**GOOD, **fields}, STEPS)
