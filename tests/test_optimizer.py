"""Schedules against closed forms, optimizers against optax's own."""

import inspect
import math

from flax import linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest

from flax_enn import sharding
from flax_enn.networks import ensemble, epinet
from flax_enn.optimizer import (
    create_optimizer,
    create_schedule,
    schedule_from,
)
from flax_enn.training.state import init_state
from tests import slow

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


SCHEDULES = {
    'exponential_decay': {
        'init_value': 1.0, 'transition_steps': 5, 'decay_rate': 0.5,
    },
    'linear_schedule': {
        'init_value': 1, 'end_value': np.float32(0), 'transition_steps': 10,
    },
    'piecewise_constant_schedule': {
        'init_value': 1.0, 'boundaries_and_scales': {3: 0.1, 6: 0.5},
    },
    'sgdr_schedule': {
        'cosine_kwargs': [
            {'init_value': 0.0, 'peak_value': 1.0, 'decay_steps': np.int64(5),
             'warmup_steps': 2, 'end_value': 0.5},
        ] * 2,
    },
    'warmup_constant_schedule': {
        'init_value': 0.1, 'peak_value': 1.0, 'warmup_steps': 4,
    },
}  # fmt: skip


@pytest.mark.parametrize('wrap', [dict, ml_collections.ConfigDict])
@pytest.mark.parametrize('name', SCHEDULES)
def test_schedules_of_optax_go_by_their_names(name, wrap):
  fields = SCHEDULES[name]
  expected = getattr(optax, name)(**fields)
  for called in (name, name.removesuffix('_schedule')):
    section = wrap({'name': called, **fields})
    found = schedule_from(section, 'config.objectives.prior.weight')
    rate = create_schedule(wrap({'schedule': section}), STEPS)
    for step in range(15):
      assert float(found(step)) == float(rate(step)) == float(expected(step))
  assert wrap({'name': called, **fields}) == section  # nothing is taken out


def test_steps_may_have_been_through_json():
  section = {'name': 'piecewise_constant', 'init_value': 1.0}
  scales = {'3': 0.1, '10': 0.5}
  found = schedule_from({**section, 'boundaries_and_scales': scales}, 'config')
  assert [float(found(s)) for s in (2, 5, 12)] == pytest.approx([1, 0.1, 0.05])


def test_schedules_are_joined():
  lines = [
      {'name': 'linear', 'init_value': a, 'end_value': b, 'transition_steps': 4}
      for a, b in ((0.0, 1.0), (1.0, 0.2))
  ]
  section = {'name': 'join_schedules', 'schedules': lines, 'boundaries': [4]}
  found = schedule_from(ml_collections.ConfigDict(section), 'config.weight')
  values = [float(found(step)) for step in range(10)]
  assert values[:5] == pytest.approx([0, 0.25, 0.5, 0.75, 1])
  assert values[8:] == pytest.approx([0.2, 0.2])
  lines[1]['end_valu'] = 1
  with pytest.raises(ValueError, match=r'config\.w\.schedules\[1\]\.end_valu'):
    schedule_from(section, 'config.w')


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
SGD = {'momentum': 0.5, 'nesterov': True}
CASES = {
    'sgd': ({}, run(optax.sgd(PEAK))),
    'sgd with momentum': (SGD, nesterov(0, 0.5)),
    'sgd with decay': ({**SGD, 'weight_decay': 0.1}, nesterov(0.1, 0.5)),
    'adamw': ({}, run(optax.adamw(PEAK, weight_decay=0))),
    'adamw with decay': (
        {'weight_decay': 0.1, **ADAM},
        run(optax.adamw(PEAK, weight_decay=0.1, mask=MASK, **ADAM)),
    ),
    'adamw with numbers of numpy': (
        {'weight_decay': np.float32(0.1), 'b1': np.float64(0.8), 'b2': 0.9},
        run(optax.adamw(PEAK, weight_decay=0.1, mask=MASK, **ADAM)),
    ),
    'adam with decay': (
        {'weight_decay': 0.1},
        run(optax.chain(
            optax.add_decayed_weights(0.1, MASK), optax.adam(PEAK))),
    ),
    'lars with decay': (
        {'weight_decay': 0.1},
        run(optax.lars(PEAK, 0.1, weight_decay_mask=MASK)),
    ),
    'adafactor with decay': (
        {'weight_decay_rate': 0.1},
        run(optax.adafactor(
            PEAK, weight_decay_rate=0.1, weight_decay_mask=MASK)),
    ),
    'novograd with decay': (
        {'weight_decay': 0.1},
        run(optax.chain(
            optax.add_decayed_weights(0.1, MASK), optax.novograd(PEAK))),
    ),
    'adamw with scheduled decay': (
        {'weight_decay': {'name': 'constant_schedule', 'value': 0.1}},
        run(optax.adamw(PEAK, weight_decay=0.1, mask=MASK)),
    ),
    'contrib.ademamix with decay': (
        {'weight_decay': 0.1},
        run(optax.contrib.ademamix(PEAK, weight_decay=0.1, mask=MASK)),
    ),
    'lamb': ({}, run(optax.lamb(PEAK, weight_decay=0))),
    'lamb with decay': (
        {'weight_decay': 0.1, **ADAM},
        run(optax.lamb(PEAK, weight_decay=0.1, mask=MASK, **ADAM)),
    ),
}


def all_optimizers():
  """Names of those that a learning rate alone makes, found by reflection."""
  for module, prefix in ((optax, ''), (optax.contrib, 'contrib.')):
    for name, function in vars(module).items():
      if name.startswith(('_', 'scale_by_')):
        continue
      if not inspect.isfunction(function) and name != 'nadam':  # a partial
        continue
      parameters = dict(inspect.signature(function).parameters)
      if parameters.pop('learning_rate', None) and all(
          p.default is not p.empty for p in parameters.values()
      ):
        yield f'{prefix}{name}'


# Up to optax 0.2.6 momo has an error of its own, in its own words.
MOMO = 'loss value' if optax.__version__ == '0.2.6' else "'value'"
# What they need beside the gradient, the training step does not have.
NOT_OURS = {
    'lbfgs': "'value', 'grad', and 'value_fn'",
    'contrib.momo': MOMO,
    'contrib.momo_adam': "'value'",
    'contrib.sophia': 'obj_fn',
}


@pytest.mark.parametrize('name', list(all_optimizers()))
def test_every_optimizer_of_optax_takes_a_step(name):
  config = {'name': name, 'learning_rate': PEAK, 'weight_decay': 0.1}
  if name in NOT_OURS:
    with pytest.raises(ValueError, match=rf'{name}\).*{NOT_OURS[name]}'):
      create_optimizer(config, STEPS)
    return
  tx = create_optimizer(config, STEPS)
  after = run(tx, steps=2)
  for leaf in jax.tree.leaves(after):
    assert np.isfinite(leaf).all()
  if not name.startswith('contrib.'):  # some of those start slowly
    moved = jax.tree.map(lambda a, b: (a != b).any(), after, PARAMS)
    assert all(jax.tree.leaves(moved))


def test_moments_of_other_shapes_than_their_kernels_have_a_place():
  """Adafactor keeps rows, columns and placeholders under a kernel's name."""
  network, x, _ = ensemble.example()
  config = {'name': 'adafactor', 'learning_rate': PEAK}
  tx = create_optimizer({**config, 'min_dim_size_to_factor': 2}, STEPS)
  state = jax.eval_shape(lambda: init_state(network, tx, 0, x))
  mesh = sharding.create_mesh({'data': 2, 'index': 2, 'fsdp': 2})
  places = sharding.state_shardings(state, mesh)
  leaves = jax.tree.leaves(nn.unbox(state))
  for leaf, place in zip(leaves, jax.tree.leaves(places), strict=True):
    place.shard_shape(leaf.shape)  # raises where it does not divide


def test_the_table_of_optimizers_is_not_empty():
  assert {'adam', 'lion', 'contrib.muon'} < set(all_optimizers())


@pytest.mark.parametrize('name', ['rprop', 'sm3', 'optimistic_adam'])
def test_optimizers_of_one_rate_take_no_schedule(name):
  config = {'name': name, 'learning_rate': PEAK}
  create_optimizer({**config, 'schedule': {'name': 'constant'}}, STEPS)
  with pytest.raises(ValueError, match=rf'optimizer\.schedule .*{name}'):
    create_optimizer({**config, 'schedule': {'name': 'cosine'}}, STEPS)


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


@pytest.mark.parametrize(
    'module, name',
    [
        (epinet, 'sgd'),
        slow(ensemble, 'adamw'),
        slow(epinet, 'lamb'),
    ],
)
def test_without_a_gradient_kernels_shrink_and_nothing_else_moves(module, name):
  """By the names of real networks: also norms, and an epinet's index bias."""
  network, x, _ = module.example()
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
        ({'name': None}, r'config\.optimizer\.name is None.*adamw.*lamb.*sgd'),
        ({'b1': 0.9}, r'config\.optimizer\.b1 is not a field of .*sgd'),
        ({'learning_rate': None}, r'config\.optimizer\.learning_rate is None'),
        ({'learning_rate': -1}, r'config\.optimizer\.learning_rate is -1'),
        ({'learning_rate': math.inf}, 'learning_rate is inf.*finite'),
        ({'learning_rate': True}, 'learning_rate is True.*number'),
        ({'name': 'lam'}, r"\.optimizer\.name is 'lam'; did you mean 'lamb'"),
        ({'name': 'linear_schedule'}, r'config\.optimizer\.name is'),
        ({'name': 'adamw', 'mask': None}, r'config\.optimizer\.mask is not a'),
        ({'nesterov': 1}, r'config\.optimizer\.nesterov is 1; .*True or False'),
        ({'momentum': '0.9'}, r"config\.optimizer\.momentum is '0.9'; .*numb"),
        ({'momentum': True}, r'config\.optimizer\.momentum is True; .*number'),
        ({'clip_norm': -1}, r'config\.optimizer\.clip_norm is -1; .*least'),
        ({'name': 'adamw', 'eps': None}, r'config\.optimizer\.eps is None'),
        ({'name': 'adamw', 'eps': math.nan}, r'optimizer\.eps is nan; .*fin'),
        ({'name': 'adamw', 'mu_dtype': 'float3'}, r'config\.optim.*float3'),
        ({'name': 'lbfgs', 'memory_size': 1.5}, r'memory_size is 1\.5; .*int'),
        (
            {'name': 'contrib.dpsgd'},
            r"config\.optimizer .*dpsgd.*lacks the fields \['l2_norm_clip', ",
        ),
        (
            {'learning_rat': 1},
            r"config\.optimizer\.learning_rat .*did you mean 'learning_rate'",
        ),
        (
            {'schedule': {'name': 'step'}},
            r"config\.optimizer\.schedule\.name is 'step'.*constant, .*cosine,",
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
        (
            {'schedule': {'name': 'cosine', 'warmup_steps': 0.1}},
            r'schedule\.warmup_steps is 0\.1; expected an integer',
        ),
        (
            {'schedule': {'name': 'linear', 'init_value': 1.0}},
            r'config\.optimizer\.learning_rate is 0\.3.*linear.*to None',
        ),
    ],
    ids=str,
)
def test_bad_configs_name_their_field(fields, expected):
  with pytest.raises(ValueError, match=expected):
    create_optimizer({**GOOD, **fields}, STEPS)


@pytest.mark.parametrize(
    ('fields', 'expected'),
    [
        ({'name': 'liner'}, r"config\.w\.name is 'liner'\. Known: const"),
        ({}, r'config\.w\.name is None. Known: constant_schedule, '),
        ({'name': 'linear'}, r"lacks the fields \['end_value', 'init_value', "),
        ({'name': 'linear', 'init_': 1}, r"config\.w\.init_ .*n 'init_value'"),
        (
            {'name': 'linear', 'init_value': '1', 'end_value': 1,
             'transition_steps': 1},
            r"config\.w\.init_value is '1'; expected a finite number",
        ),
        (
            {'name': 'linear', 'init_value': 1, 'end_value': 1,
             'transition_steps': 0.1},
            r'config\.w\.transition_steps is 0\.1; expected an integer',
        ),
        (
            {'name': 'piecewise_interpolate', 'interpolate_type': 'quadratic',
             'init_value': 1.0},
            r'config\.w .*interpolate',
        ),
        ({'name': 'constant', 'value': math.inf}, r'config\.w\.value is inf'),
    ],
    ids=str,
)  # fmt: skip
def test_bad_schedules_name_their_field(fields, expected):
  with pytest.raises(ValueError, match=expected):
    schedule_from(fields, 'config.w')
