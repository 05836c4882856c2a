import shutil

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from flax_enn.checkpoints import (
    Checkpointer,
    DamagedCheckpointError,
    check_init,
    warm_start,
)
from flax_enn.checkpoints.layout import absolute as absolute_path
from flax_enn.networks.deterministic import example
from flax_enn.networks.frozen import Frozen
from tests.checkpoints.conftest import (
    abstract,
    assert_same,
    create_state,
    draw_variables,
)


def draw_base(seed):
  """The collections of a base with batch norm and a prior of its own."""
  params, collections = draw_variables(seed)
  return {
      'params': params['base'],
      'batch_stats': collections['batch_stats']['base'],
      'frozen': {'inner': collections['frozen']['prior']},
  }


def trainable(base, name, mesh, step=0):
  """A state whose module `name` is trained."""
  params = {'head': {'bias': np.zeros(3, np.float32)}, name: base['params']}
  collections = {
      'batch_stats': {name: base['batch_stats']},
      'frozen': {
          'prior': {'params': {'bias': np.ones(3, np.float32)}},
          name: base['frozen'],
      },
  }
  return create_state(params, collections, step, mesh)


def frozen(base, name, mesh, step=0):
  """A state whose module `name` is wrapped in `Frozen`."""
  params = {'head': {'bias': np.zeros(3, np.float32)}}
  prior = {'params': {'bias': np.ones(3, np.float32)}}
  collections = {'frozen': {'prior': prior, name: base}}
  return create_state(params, collections, step, mesh)


FORMS = [trainable, frozen]


def save(workdir, *states, scores=None):
  checkpointer = Checkpointer(workdir, keep=9)
  for step, state in enumerate(states, 1):
    checkpointer.save(state, step)
    if scores:
      checkpointer.score(step, {'nll': scores[step - 1]})
  checkpointer.close()


def init(**fields):
  config = {'workdir': '../base', 'step': 'latest', 'modules': {'base': 'net'}}
  return ml_collections.ConfigDict(config | fields)


@pytest.fixture
def workdir(tmp_path):
  return tmp_path / 'epinet'


@pytest.fixture
def source(tmp_path, one_device):
  """A run with three checkpoints, the second of which is the best."""
  states = [trainable(draw_base(s), 'net', one_device) for s in (1, 2, 3)]
  save(tmp_path / 'base', *states, scores=[0.3, 0.1, 0.2])
  return tmp_path / 'base'


@pytest.mark.parametrize('there', FORMS)
@pytest.mark.parametrize('here', FORMS)
@pytest.mark.parametrize('devices', [1, 8])
def test_takes_the_module_and_nothing_else(
    tmp_path, workdir, mesh, one_device, there, here, devices
):
  first, second = (one_device, mesh) if devices == 1 else (mesh, one_device)
  save(tmp_path / 'base', there(draw_base(1), 'net', first))
  fresh = here(draw_base(2), 'base', second)
  check_init(init(), workdir, abstract(fresh))
  warm = warm_start(fresh, init(), workdir)
  wanted = here(draw_base(1), 'base', second)
  assert_same(warm, wanted.replace(opt_state=fresh.opt_state))
  for a, b in zip(jax.tree.leaves(warm), jax.tree.leaves(fresh), strict=True):
    assert a.sharding == b.sharding


@pytest.mark.parametrize(
    ('step', 'seed'), [('latest', 3), ('best', 2), (1, 1), ('2', 2)]
)
def test_the_step_is_chosen(source, workdir, mesh, step, seed):
  del source
  config = init(step=step)
  check_init(config, workdir)
  warm = warm_start(frozen(draw_base(9), 'base', mesh), config, workdir)
  assert_same(
      warm.collections['frozen']['base'],
      frozen(draw_base(seed), 'base', mesh).collections['frozen']['base'],
  )


def test_the_step_is_the_latest_by_default(source, workdir, mesh):
  config = {'workdir': str(source), 'modules': {'base': 'net'}}
  warm = warm_start(trainable(draw_base(9), 'base', mesh), config, workdir)
  want = trainable(draw_base(3), 'base', mesh)
  assert_same(warm.params, want.params)


def test_a_module_within_a_module(tmp_path, workdir, mesh):
  save(tmp_path / 'base', trainable(draw_base(1), 'net', mesh))
  inner = {'outer': trainable(draw_base(2), 'base', mesh).params['base']}
  state = create_state({'a': inner}, {}, 0, mesh)
  collections = {'batch_stats': {'a': {'outer': draw_base(2)['batch_stats']}}}
  collections['frozen'] = {'a': {'outer': draw_base(2)['frozen']}}
  state = create_state({'a': inner}, collections, 0, mesh)
  config = init(modules={'a/outer': 'net'})
  warm = warm_start(state, config, workdir)
  assert_same(
      warm.params['a']['outer'],
      trainable(draw_base(1), 'net', mesh).params['net'],
  )


def test_several_modules_at_once(tmp_path, workdir, mesh):
  save(tmp_path / 'base', trainable(draw_base(1), 'net', mesh))
  config = init(modules={'base': 'net', 'prior': 'prior'})
  fresh = frozen(draw_base(2), 'base', mesh)
  prior = {'params': {'bias': jnp.full(3, 7.0)}}
  fresh.collections['frozen']['prior'] = prior
  warm = warm_start(fresh, config, workdir)
  assert_same(
      warm.collections, frozen(draw_base(1), 'base', mesh).collections
  )


def test_one_module_may_start_two(tmp_path, workdir, mesh):
  save(tmp_path / 'base', trainable(draw_base(1), 'net', mesh))
  fresh = create_state(
      {'one': draw_base(2)['params'], 'two': draw_base(3)['params']},
      {
          collection: {
              'one': draw_base(2)[collection],
              'two': draw_base(3)[collection],
          }
          for collection in ('batch_stats', 'frozen')
      },
      0,
      mesh,
  )
  config = init(modules={'one': 'net', 'two': 'net'})
  warm = warm_start(fresh, config, workdir)
  assert_same(warm.params['one'], warm.params['two'])
  # Arrays in common could not be donated to a training step.
  advance = jax.jit(lambda s: jax.tree.map(jnp.copy, s), donate_argnums=0)
  jax.block_until_ready(advance(warm))


def test_a_frozen_base_computes_what_the_trained_one_did(
    tmp_path, workdir, one_device
):
  network, x, _ = example()
  index = network.indexer.sample(jax.random.key(0), 1)[0]
  other = network.clone(base=Frozen(network.base))

  def draw(net, seed):
    keys = {'params': jax.random.key(seed), 'frozen': jax.random.key(seed)}
    variables = jax.jit(net.init)(keys, x, index)
    params = variables.pop('params', {})
    return create_state(params, variables, 0, one_device)

  base = draw(network, 1)
  save(tmp_path / 'base', base)
  fresh = draw(other, 2)
  warm = warm_start(fresh, init(modules={'base': 'base'}), workdir)

  def run(net, state):
    return jax.jit(net.apply)(state.variables, x, index).preds

  np.testing.assert_array_equal(run(other, warm), run(network, base))
  assert not jnp.allclose(run(other, fresh), run(network, base))


@pytest.mark.parametrize('nothing', [None, {}, ml_collections.ConfigDict()])
def test_a_run_from_scratch_is_left_alone(workdir, mesh, nothing):
  state = trainable(draw_base(1), 'base', mesh)
  check_init(nothing, workdir)
  assert warm_start(state, nothing, workdir) is state


@pytest.mark.parametrize(
    ('config', 'messages'),
    [
        (
            init(workdir='../bass'),
            ["workdir is '../bass'", 'no such folder', "['base']",
             'Train that run first', 'then this one'],
        ),
        (
            init(workdir='.'),
            ["workdir is '.'", 'no checkpoint there'],
        ),
        (init(step=7), ['step is 7', '[1, 2, 3]']),
        (init(step='last'), ["step is 'last'", "'latest'"]),
        (
            init(modules={'base': 'base'}),
            ["modules names 'base'", "['head', 'net', 'prior']",
             'base/checkpoints/3'],
        ),
        (init(modules={}), ['modules is empty']),
        (init(setp=1), ["there is no field ['setp']"]),
        ({'workdir': '../base'}, ["needs the fields ['modules']"]),
    ],
)  # fmt: skip
def test_errors_before_anything_is_compiled(source, workdir, config, messages):
  del source
  workdir.mkdir()
  with pytest.raises(ValueError) as error:
    check_init(config, workdir)
  for message in messages:
    assert message in str(error.value)


def test_no_best_without_metrics(tmp_path, workdir, mesh):
  save(tmp_path / 'base', trainable(draw_base(1), 'net', mesh))
  with pytest.raises(ValueError, match=r"step is 'best'.*\[1\]"):
    check_init(init(step='best'), workdir)


def drop_statistics(base):
  return base | {'batch_stats': {}}


def add_a_layer(base):
  extra = {'Dense_1': {'bias': np.zeros(2, np.float32)}}
  return base | {'params': base['params'] | extra}


def widen(base):
  layer = base['params']['Dense_0'] | {'bias': np.zeros(300, np.float32)}
  return base | {'params': {'Dense_0': layer}}


def recast(base):
  layer = base['params']['Dense_0']
  layer = layer | {'bias': layer['bias'].astype(np.float16)}
  return base | {'params': {'Dense_0': layer}}


@pytest.mark.parametrize('here', FORMS)
@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (
            drop_statistics,
            r'batch_stats/BatchNorm_0/mean: found float32\[256\], expected'
            r' nothing',
        ),
        (
            add_a_layer,
            r'params/Dense_1/bias: found nothing, expected float32\[2\]',
        ),
        (
            widen,
            r'params/Dense_0/bias: found float32\[256\], expected'
            r' float32\[300\]',
        ),
        (
            recast,
            r'params/Dense_0/bias: found float32\[256\], expected'
            r' float16\[256\]',
        ),
    ],
)
def test_what_does_not_fit_is_named(
    source, workdir, mesh, here, change, message
):
  del source
  state = here(change(draw_base(1)), 'base', mesh)
  for attempt in (
      lambda: check_init(init(), workdir, abstract(state)),
      lambda: warm_start(state, init(), workdir),
  ):
    with pytest.raises(ValueError, match=message) as error:
      attempt()
    assert str(error.value).startswith('modules.base')
    assert 'base/checkpoints/3' in str(error.value)


def test_an_unknown_module_of_this_run(source, workdir, mesh):
  del source
  state = frozen(draw_base(1), 'base', mesh)
  with pytest.raises(ValueError, match=r"'bse'.*this run.*'base', 'head'"):
    check_init(init(modules={'bse': 'net'}), workdir, abstract(state))


def test_a_damaged_source_is_named(source, workdir):
  shutil.rmtree(source / 'checkpoints' / '3' / 'state')
  with pytest.raises(DamagedCheckpointError, match='base/checkpoints/3'):
    check_init(init(), workdir)
  check_init(init(step=2), workdir)


def test_the_source_is_left_as_it_is(source, workdir, mesh):
  before = sorted((p, p.stat().st_mtime_ns) for p in source.rglob('*'))
  warm_start(frozen(draw_base(9), 'base', mesh), init(), workdir)
  assert sorted((p, p.stat().st_mtime_ns) for p in source.rglob('*')) == before


@pytest.mark.parametrize(
    ('path', 'base', 'absolute'),
    [
        ('../b', '/runs/a', '/runs/b'),
        ('/x/../b', '/runs/a', '/b'),
        ('../b', 'gs://bucket/runs/a', 'gs://bucket/runs/b'),
        ('gs://bucket/b', '/runs/a', 'gs://bucket/b'),
    ],
)
def test_paths(path, base, absolute):
  assert str(absolute_path(path, base)) == absolute
