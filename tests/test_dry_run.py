"""What a dry run says of a config, and of the devices it is for."""

import importlib.util
import logging
import re

from absl import logging as absl_logging
import jax
import pytest

from flax_enn.dry_run import DryRunReport, dry_run, module_of
from flax_enn.dry_run.collectives import (
  Collective,
)
from flax_enn.dry_run.report import MemoryUse, StepCost
from flax_enn.dry_run.topology import CHIPS, GIB, Topology
from tests import tiny


@pytest.fixture(scope='module', autouse=True)
def _compiled_anew():
  with tiny.compiled_anew():
    yield


@pytest.mark.parametrize(
    ('scope', 'module'),
    [
        ('jit(train_step)/jvp(vmap(Epinet))/base/ResNet/conv', 'base'),
        ('jit(f)/transpose(jvp(vmap(Epinet)))/head/out/dot_general', 'head'),
        ('jit(f)/jvp(Epinet)/Epinet._prior/prior_conv/ConvPrior', 'prior_conv'),
        ('jit(f)/vmap(Ensemble)/vmap(head.<lambda>)/vmap(head)/c', 'head'),
        ('jit(f)/while/body/checkpoint/Epinet/base/head/dot', 'base'),
        ('jit(train_step)/add', 'rest'),
        ('', 'rest'),
    ],
)
def test_module_of_a_scope(scope, module):
  modules = {'base', 'head', 'prior', 'prior_conv'}
  assert module_of(scope, modules) == module


def test_dry_run_of_an_epinet():
  """Its products are known; those of no example are done by every device."""
  report = dry_run(tiny.epinet(), 'cpu:8')
  training, evaluation = report.steps
  assert report.mesh == {'data': 8, 'index': 1, 'fsdp': 1}
  batch, n, index, features, hidden, classes = 16, 2, 3, 2 + 6, 5, 2
  first = batch * features * hidden  # layer of the features
  last = n * batch * hidden * classes
  of_index = n * index * hidden  # layer of the index
  kernel = n * (hidden + 1) * classes * index  # contracted, with its bias
  # A layer has one product forward and two backward: one where the input or
  # the kernel is not trained.
  head = {'examples': 2 * first + 3 * last, 'none': 2 * of_index + 2 * kernel}
  prior = {'examples': first + last, 'none': of_index + kernel}
  base = {'examples': batch * (2 * 2 * 6 + 3 * 6 * classes), 'none': 0}
  modules = {'head': head, 'prior': prior, 'base': base}
  for name, products in modules.items():
    expected = 2 * (products['examples'] / 8 + products['none'])
    assert training.flops[name] == expected, name
  total = sum(sum(products.values()) for products in modules.values())
  rest = training.flops.get('rest', 0)
  assert training.ideal_flops == pytest.approx(2 * total / 8 + rest, rel=0.01)
  # 8 indices, 4 at once. XLA takes what is free of the index out of the loop.
  assert evaluation.flops['base'] == 2 * batch * (2 * 6 + 6 * classes) / 8
  of_indices = 4 * (last / 8 + of_index + kernel)
  for name in ('head', 'prior'):
    assert evaluation.flops[name] == 2 * (first / 8 + of_indices), name
  assert training.memory.total > training.memory.arguments > 0
  assert {c.axes for c in training.collectives} == {('data',)}


@pytest.mark.slow
def test_dry_run_reads_no_data(tmp_path, monkeypatch, caplog):
  config = tiny.epinet()
  config.dataset = {
      'name': 'imagenet2012',
      'data_dir': str(tmp_path / 'nowhere'),
      'image_size': 4,
  }
  monkeypatch.setattr(absl_logging.get_absl_logger(), 'propagate', True)
  with caplog.at_level(logging.INFO, logger='absl'):
    text = str(dry_run(config, 'cpu:2'))
  assert text.startswith('cpu:2: 2 devices, mesh data 2, index 1, fsdp 1')
  assert 'training step, 8 examples for each device' in text
  assert 'evaluation step' in text
  assert re.search(r'modules .*head \d+\.\d%', text)
  assert re.search(r'all-reduce +data +\d+ ', text)
  assert not list(tmp_path.iterdir())
  for step in ('training', 'evaluation'):
    assert f'Compiling the {step} step for cpu:2' in caplog.messages


def test_data_that_say_the_shapes_must_be_there(tmp_path):
  path = tmp_path / 'nowhere.npz'
  config = tiny.epinet(dataset={'name': 'arrays', 'path': str(path)})
  with pytest.raises(ValueError, match='no such file') as caught:
    dry_run(config, 'cpu:2')
  for part in ('config.dataset: path', str(path), "'arrays'", 'from its files'):
    assert part in str(caught.value)


@pytest.mark.slow
def test_memory_of_an_evaluation_does_not_grow_with_the_indices():
  """With an epinet head in realistic proportions."""
  batch, classes, used = 32, 200, {}
  for n in (10, 1000):
    config = tiny.epinet(
        batch_size=batch,
        dataset={'name': 'fake', 'shape': (64,), 'classes': classes},
        **{
            'network.base': {'name': 'mlp', 'hiddens': (256,)},
            'network.features': ('hidden_0',),
            'network.index_dim': 20,
            'network.hiddens': (50, 50),
            'eval.num_indices': n,
            'eval.chunk': 10,
        },
    )
    memory = dry_run(config, 'cpu:1').steps[-1].memory
    used[n] = memory.outputs + memory.temporaries
  assert used[1000] < 1.5 * used[10]
  # It is not an accident of small numbers: all indices at once would not fit.
  everything = 1000 * batch * classes * 4
  assert 5 * used[1000] < everything


def test_dry_run_of_devices_that_do_not_divide():
  with pytest.raises(ValueError, match='16 is not divisible by the 3 devices'):
    dry_run(tiny.epinet(), 'cpu:3')


@pytest.mark.parametrize(
    ('text', 'topology'),
    [
        ('v5e:16x16', Topology('v5e', (16, 16))),
        ('v5p:4x4x4', Topology('v5p', (4, 4, 4))),
        ('v4:2x2x1', Topology('v4', (2, 2, 1))),
        ('tpu7x:2x2x1', Topology('tpu7x', (2, 2, 1))),
        ('v6e:16x16*2', Topology('v6e', (16, 16), 2)),
        ('cpu:8', Topology('cpu', (8,))),
    ],
)
def test_topology(text, topology):
  assert Topology.parse(text) == topology
  assert str(topology) == text


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('v5e', 'expected GENERATION:SHAPE.*v4, v5e, v5p, v6e, tpu7x and cpu'),
        ('v5e-256', 'expected GENERATION:SHAPE'),
        ('v5e:16x', 'expected GENERATION:SHAPE'),
        ('v5e:0x4', 'expected GENERATION:SHAPE'),
        ('v5e:4x4*0', 'expected GENERATION:SHAPE'),
        ('v9:4x4', "names 'v9'; known generations: v4, v5e.*tpu7x and cpu"),
        ('v5e:4x4x4', 'shape of 3 numbers; that of v5e has 2, such as v5e:4x4'),
        ('v4:4x4', 'shape of 2 numbers; that of v4 has 3, such as v4:4x4x4'),
        ('cpu:4x2', 'shape of 2 numbers; that of cpu has 1'),
        ('cpu:4*2', 'emulated devices have no slices'),
        ('cpu:4096', 'JAX has 8 CPU devices here. Set XLA_FLAGS=.*=4096'),
    ],
)
def test_bad_topologies_say_what_is_known(text, message):
  assert len(jax.devices()) == 8
  with pytest.raises(ValueError, match=message):
    dry_run(tiny.epinet(), text)


def test_missing_libtpu_says_what_to_install(monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(
      ModuleNotFoundError, match=r"needs libtpu.*pip install 'flax_enn\[tpu\]'"
  ):
    dry_run(tiny.epinet(), 'v5e:16x16')


def report_of(topology='v5e:2x2', **fields):
  step = StepCost('training', **fields)
  mesh = {'data': 4, 'index': 1, 'fsdp': 1}
  return str(DryRunReport(Topology.parse(topology), mesh, 64, (step,)))


@pytest.mark.parametrize(
    ('parts', 'verdict'),
    [
        ((8, 4, 3, 1), '16 GiB of 16 GiB: fits'),
        ((8, 4, 4, 1), '17 GiB of 16 GiB: does not fit'),
    ],
)
def test_verdict_on_memory(parts, verdict):
  memory = MemoryUse(*(part * GIB for part in parts))
  assert f'  holds   {verdict}\n' in report_of(memory=memory)
  text = report_of(memory=memory, topology='cpu:4')
  assert 'fit' not in text and 'at best' not in text


def test_what_xla_refuses_does_not_fit():
  said = 'Ran out of memory on HBM: needs 33.5G of 15.75G'
  assert f'  does not fit: {said}' in report_of(oom_message=said)


@pytest.mark.parametrize(
    ('amounts', 'line'),
    [
        ((197e10, 0, 0), 'compute 1.97 TFLOP, at best 10 ms, the bound'),
        ((0, 819e7, 0), 'memory  8.19 GB moved, at best 10 ms, the bound'),
        ((0, 0, 2e9), 'network 2 GB sent, at best 10 ms, the bound'),
    ],
)
def test_the_bound_by_published_rates(amounts, line):
  computed, accessed, sent = amounts
  ring = Collective('all-reduce', ('data',), False, 3, 10, sent)
  # The network between slices has no published rate here.
  slow = Collective('send', ('data',), True, 1, 10, 10**12)
  text = report_of(
      flops={'base': computed},
      bytes_accessed=accessed,
      collectives=(ring, slow),
  )
  assert f'  {line}\n' in text
  assert text.count('the bound') == 1
  assert re.search(r'send +data over DCN +1 +10 B +1 TB', text)


def test_published_rates_are_ordered():
  """The compute of a chip never waits for less than 100 operations a byte."""
  for name, chip in CHIPS.items():
    assert 100 < chip.flops / chip.hbm_bandwidth < 1000, name
    assert chip.ici_bandwidth < chip.hbm_bandwidth < chip.hbm * 100, name
