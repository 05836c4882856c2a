"""The loop of active learning, by its parts and as a command."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_enn.active_learning import PRIORITIES, curves, log_probs
from flax_enn.active_learning.learner import Learner
from flax_enn.active_learning.recipe import Recipe, check_same
from flax_enn.inference import Predictor
from flax_enn.training import train_and_evaluate
from flax_enn.training.trainer import Trainer
from tests import commands, tiny

RECIPE = {
    'priorities': ('entropy', 'uniform'), 'start': 16, 'per_round': 3,
    'rounds': 2, 'seeds': 1,
}  # fmt: skip


def config(**fields):
  recipe = {**RECIPE, **fields.pop('recipe', {})}
  return tiny.epinet(active_learning=recipe, **fields)


def learner(of):
  trainer = Trainer.from_config(of)
  return Learner(trainer, Recipe.from_config(of), 'nowhere'), trainer


@pytest.fixture(scope='module')
def learned():
  """A learner with a part of the data held out, and all its rounds."""
  found, trainer = learner(config(**{'dataset.holdout': 0.25}))
  with trainer.use_mesh():
    return found, trainer, list(found.rounds('entropy', 0))


def test_labels_are_asked_for_once(learned):
  _, _, rounds = learned
  assert [one['labels'] for one in rounds] == [16, 19, 22]
  asked = [i for one in rounds for i in one['asked']]
  first = np.random.default_rng(0).permutation(48)[:16].tolist()
  assert len({*first, *asked}) == 22 and set(asked) < set(range(48))
  assert rounds[-1]['asked'] == []
  assert all(0 <= one['accuracy'] <= 1 for one in rounds)


def test_rounds_go_on_where_they_were(learned):
  found, trainer, rounds = learned
  with trainer.use_mesh():
    assert list(found.rounds('entropy', 0, rounds[:1])) == rounds[1:]
    assert list(found.rounds('entropy', 0, rounds)) == []


@pytest.mark.slow
def test_what_is_asked_for_has_the_highest_priority(learned):
  """Of those without a label, by all logits at once."""
  found, trainer, rounds = learned
  known = np.random.default_rng(0).permutation(48)[:16]
  with trainer.use_mesh():
    variables = found._train(known, 0)
  # In the order of the split: a quarter of the examples is not in it.
  rows = trainer.loader.source(trainer.dataset, 'train').rows
  x = trainer.dataset.load('train').x[rows]
  key, _ = jax.random.split(jax.random.fold_in(jax.random.key(0), 0))
  indices = trainer.model.network.indexer.sample(key, 8)
  logits = [trainer.model.apply(variables, x, z).preds for z in indices]
  score = PRIORITIES['entropy'](
      log_probs(trainer.model.likelihood, jnp.stack(logits))
  )
  score = np.where(np.isin(np.arange(48), known), -np.inf, score)
  assert rounds[0]['asked'] == np.argsort(-score)[:3].tolist()


@pytest.mark.slow
def test_a_round_is_a_run_on_its_labels(learned, tmp_path):
  """That of train.py with the same labels in a file."""
  _, trainer, rounds = learned
  known = np.random.default_rng(0).permutation(48)[:16].tolist()
  rows = trainer.loader.source(trainer.dataset, 'train').rows
  train, everything = trainer.dataset.load('train'), {}
  labelled = rows[known + rounds[0]['asked']]
  held_out = np.setdiff1d(np.arange(64), rows)
  for split, ids in (('train', labelled), ('test', held_out)):
    everything |= {f'x_{split}': train.x[ids], f'y_{split}': train.y[ids]}
  np.savez(tmp_path / 'labels.npz', **everything)
  of = tiny.epinet()
  of.dataset = {'name': 'arrays', 'path': str(tmp_path / 'labels.npz')}
  results = train_and_evaluate(of, tmp_path / 'run')
  # joint_nll is of pairs, which lie otherwise there.
  for metric in ('accuracy', 'nll', 'brier'):
    assert rounds[1][metric] == pytest.approx(
        results['test']['enn'][metric], rel=1e-5
    )


SECTIONS = {
    'careful': {'name': 'ucb', 'factor': 2.0, 'class_values': (1.0, -0.5)},
    'informed': {'name': 'information_gain', 'targets': 5},
    'joint': {'name': 'information_gain', 'targets': 3, 'pairwise': False},
}


@pytest.fixture(scope='module')
def informed():
  """What can be asked, and all that the choice is computed from."""
  found, trainer = learner(config(recipe={'priorities': SECTIONS}))
  with trainer.use_mesh():
    variables = trainer.create_state().variables
    left = np.arange(0, 64, 3)
    key = jax.random.key(5)
    index_key, rest = jax.random.split(key)
    indices = trainer.model.network.indexer.sample(index_key, 8)
    x = trainer.dataset.load('train').x[left]
    predictor = Predictor.create(trainer.model, variables, indices)
    targets = x[np.asarray(jax.random.permutation(rest, len(left)))]
    asked = {
        name: found._ask[name](variables, left, key) for name in SECTIONS
    }
  return asked, left, predictor, x, targets


def test_a_priority_has_the_arguments_of_its_section(informed):
  asked, left, predictor, x, _ = informed
  logits = jnp.asarray(predictor.logits(x))
  score = PRIORITIES['ucb'](
      jax.nn.log_softmax(logits), factor=2.0, class_values=(1.0, -0.5)
  )
  best = np.argsort(-score, stable=True)[:3]
  assert asked['careful'] == left[best].tolist()


@pytest.mark.parametrize(
    'name, targets, pairwise', [('informed', 5, True), ('joint', 3, False)]
)
def test_the_gain_is_that_of_the_predictor(informed, name, targets, pairwise):
  asked, left, predictor, x, of = informed
  gains = predictor.information_gain(x, of[:targets], pairwise=pairwise)
  assert asked[name] == left[np.argsort(-gains, stable=True)[:3]].tolist()


def comparing(**fields):
  """A reward epinet on comparisons of seven items."""
  network = {'name': 'preference', 'net': {**tiny.epinet().network}}
  of = config(
      network=network,
      dataset={'name': 'preferences', 'n_train': 60, 'n_test': 8, 'items': 7},
      **fields,
  )
  with of.ignore_type():
    of.network.net.classes = of.network.net.base.classes = 1
  return of


@pytest.fixture(scope='module')
def compared():
  """A learner by double Thompson sampling, rewards, pairs and labels."""
  section = {'name': 'double_thompson', 'tries': 3}
  recipe = {'priorities': {'double': section}, 'rounds': 1, 'per_round': 4}
  found, trainer = learner(comparing(recipe=recipe))
  source = trainer.dataset.load('train')
  items, of = np.unique(
      source.x.reshape(120, 8), axis=0, return_inverse=True
  )

  @jax.jit
  def rewards(variables, indices):
    def at(index):
      return trainer.model.apply(variables, items[None], index).preds[0]

    return jax.vmap(at)(indices)

  with trainer.use_mesh():
    variables = trainer.create_state().variables
  return found, trainer, variables, rewards, of.reshape(60, 2), source.y


def test_each_function_names_its_best_item(compared):
  found, trainer, variables, rewards, pairs, _ = compared
  key, left = jax.random.key(1), np.arange(10, 60)
  with trainer.use_mesh():
    asked = found._ask['double'](variables, left, key)
  assert len({*asked}) == 4 and {*asked} <= {*left.tolist()}
  agreed = 0
  for number, row in enumerate(asked):
    drawing, _ = jax.random.split(jax.random.fold_in(key, number))
    indices = trainer.model.network.indexer.sample(drawing, 4)
    best = rewards(variables, indices).argmax(1).tolist()
    rest = [i for i in best if i != best[0]]
    assert best[0] in pairs[row] and best[0] != (rest or [-1])[0]
    if rest:
      assert sorted([best[0], rest[0]]) == sorted(pairs[row])
      agreed += 1
  assert agreed > 0


def test_regret_is_that_of_the_item_taken(compared):
  found, trainer, variables, rewards, pairs, y = compared
  indices = trainer.model.network.indexer.sample(jax.random.key(2), 8)
  wins = [
      np.mean([y[r] == slot for r, slot in np.argwhere(pairs == item)])
      for item in range(7)
  ]
  best = []
  for sign in (1, -1):
    of = jax.tree.map(lambda leaf, sign=sign: sign * leaf, variables)
    taken = rewards(of, indices).mean(0).argmax()
    best.append(wins[taken] == max(wins))
    with trainer.use_mesh():
      regret = found._pool.items.regret(of, indices)
    assert regret == pytest.approx(max(wins) - wins[taken])
  assert not all(best)


@pytest.mark.slow
def test_comparisons_are_learned_from(compared):
  found, trainer, *_ = compared
  with trainer.use_mesh():
    first, last = found.rounds('double', 0)
  assert (first['labels'], last['labels']) == (16, 20)
  assert 0 <= last['regret'] <= 1 and 0 <= last['accuracy'] <= 1
  assert len({*first['asked']}) == 4


def sections(**fields):
  return {'recipe': {'priorities': {'mine': fields}}}


REGRESSION_CONFIG = {
    'dataset': {'name': 'regression'},
    'objectives': {'data': {'loss': {'name': 'nll'}}},
}


@pytest.mark.parametrize(
    'fields, message',
    [
        (sections(name='ucp'), "mine.name has 'ucp'; did you mean 'ucb'"),
        (sections(factor=1.0), r'mine\.name has None. Known: bald, '),
        ({'recipe': {'priorities': {'mine': 'ucb'}}}, "mine is 'ucb'; exp"),
        (
            sections(name='ucb', factr=1.0),
            r"mine\.factr is not a field of the priority ucb; did .* 'factor'",
        ),
        (
            sections(name='bald', factor=1.0),
            r'mine\.factor is not a field of the priority bald',
        ),
        (sections(name='ucb', factor='2'), "mine.factor is '2'; expected a f"),
        (sections(name='ucb', class_values=3), 'values is 3; expected a list'),
        (
            sections(name='ucb', class_values=(1.0, 2.0, 3.0)),
            r'priorities \(mine\): class_values has 3 numbers; expected 2',
        ),
        (sections(name='joint_nll', tau=0), 'mine.tau is 0; set it to 1 or mo'),
        (
            sections(name='information_gain', target=5),
            "target is not a field .*; did you mean 'targets'",
        ),
        (
            sections(name='information_gain', num_samples=1),
            'num_samples is 1; set it to 2 or more',
        ),
        (
            sections(name='double_thompson'),
            r'\(mine\): double_thompson compares two items .* is Epinet, for',
        ),
        (
            {**REGRESSION_CONFIG, **sections(name='information_gain')},
            'information_gain is for predictions of classes; the likelihood',
        ),
        (
            {**REGRESSION_CONFIG, **sections(name='entropy')},
            r'priorities \(mine\): the priority entropy is for classes; of a',
        ),
        ({'recipe': {'priorities': ('bold',)}}, "did you mean 'bald'"),
        ({'recipe': {'priorities': ()}}, 'priorities is empty'),
        ({'recipe': {'start': 0}}, 'start is 0; set it to 1 or more'),
        ({'recipe': {'rounds': 2.5}}, 'rounds is 2.5; expected an integer'),
        ({'recipe': {'labels': 3}}, 'labels is not a field of active learning'),
        ({'recipe': {'rounds': 20}}, 'asks for 76 labels in the end, but'),
        ({'batch_size': 17}, 'batch_size is 17, but .* set batch_size to that'),
    ],
)
def test_mistakes_name_their_field(fields, message):
  with pytest.raises(ValueError, match=message):
    learner(config(**fields))


def test_a_name_stands_for_one_priority():
  """Results of two are not put together."""
  old = {'priorities': {'ucb': {'name': 'ucb'}, 'bald': {'name': 'bald'}}}
  check_same(old, {'priorities': ['uniform', 'bald', 'ucb']}, 'run')
  new = {'priorities': {'ucb': {'name': 'ucb', 'factor': 2.0}}}
  with pytest.raises(ValueError, match=r"'factor': 2\.0} here; give it"):
    check_same(old, new, 'run')
  with pytest.raises(ValueError, match=r'bald is .* give it another'):
    check_same({}, {'priorities': {'bald': {'name': 'ucb'}}}, 'run')


def test_no_recipe():
  with pytest.raises(ValueError, match='active_learning is None; set'):
    Recipe.from_config(tiny.epinet())


def test_the_table_is_of_means_and_standard_errors():
  def rounds(*accuracies):
    return [{'labels': 5 * i, 'accuracy': a} for i, a in enumerate(accuracies)]

  of = {'bald': [rounds(0.0, 0.5), rounds(0.5, 1.0)], 'margin': [rounds(1, 1)]}
  found = [' '.join(line.split()) for line in curves.table(of).splitlines()]
  assert found[1:] == [
      'bald 0.5000 +- 0.2500 0.7500 +- 0.2500',
      'margin 1.0000 +- 0.0000 1.0000 +- 0.0000',
  ]


def test_regret_has_a_table_of_its_own():
  rounds = [{'labels': 5, 'accuracy': 0.5, 'regret': 0.25}]
  of = {'double_thompson': [rounds]}
  assert [line.split() for line in curves.table(of).splitlines()] == [
      ['regret', 'from', '5', 'to', '5', 'labels', 'after', '5'],
      ['double_thompson', *2 * ['0.2500', '+-', '0.0000']],
      ['accuracy', 'from', '5', 'to', '5', 'labels', 'after', '5'],
      ['double_thompson', *2 * ['0.5000', '+-', '0.0000']],
  ]
  of['uniform'] = [[{'labels': 5, 'accuracy': 0.5}]]  # of an older version
  assert 'regret' not in curves.table(of)


CONFIG = f"""
from tests import tiny

def get_config(arg=''):
  config = tiny.epinet(active_learning={RECIPE})
  config.num_steps = 2
  return config
"""


@pytest.fixture(scope='module')
def command():
  """Runs the command line."""
  script = tiny.ROOT / 'flax_enn' / 'active_learning' / '__main__.py'
  modules = ('jax', 'flax_enn.training.trainer', 'flax_enn.active_learning')
  with commands.interpreter(modules) as run:
    yield lambda folder, *args: run(folder, [script, *args])


@pytest.mark.slow
def test_command_line(command, tmp_path):
  (tmp_path / 'active.py').write_text(CONFIG)
  args = '--config=active.py', '--workdir=run'
  code, said = command(tmp_path, *args)
  assert code == 0 and 'entropy' in said and 'uniform' in said, said
  run = tmp_path / 'run'
  assert (run / 'active_learning.png').stat().st_size > 1000
  results = json.loads((run / 'results.json').read_text())
  assert {p: [*seeds] for p, seeds in results.items()} == {
      'entropy': ['0'], 'uniform': ['0'],
  }  # fmt: skip
  # Cut off in the middle, and with another seed.
  cut = {p: {'0': seeds['0'][:1]} for p, seeds in results.items()}
  (run / 'results.json').write_text(json.dumps(cut))
  code, said = command(tmp_path, *args, '--config.active_learning.seeds=2')
  assert code == 0, said
  again = json.loads((run / 'results.json').read_text())
  assert {p: seeds['0'] for p, seeds in again.items()} == {
      p: seeds['0'] for p, seeds in results.items()
  }
  assert all(len(seeds['1']) == 3 for seeds in again.values())
  code, said = command(tmp_path, *args, '--config.num_steps=3')
  assert code == 2 and 'config.num_steps is 2 there and 3 here' in said, said
  assert json.loads((run / 'results.json').read_text()) == again


@pytest.mark.parametrize(
    'args, message',
    [
        (['--config=active.py'], 'workdir'),
        (['--workdir=run'], 'config'),
        (['--workdir=run', '--config=passive.py'], 'passive.py'),
        (
            ['--workdir=run', '--config=passive.py', '--config.seed=2'],
            'passive.py',
        ),
        (
            ['--workdir=run', '--config=active.py', '--config.seeds=2'],
            "no field 'seeds'\nDid you mean",
        ),
        (['--workdir=run', '--config=active.py', 'more'], "['more']"),
        (['--workdir=trained', '--config=active.py'], 'of another command'),
    ],
)  # fmt: skip
def test_wrong_commands(command, tmp_path, args, message):
  (tmp_path / 'active.py').write_text(CONFIG)
  (tmp_path / 'trained').mkdir()
  (tmp_path / 'trained' / 'model.json').write_text('{}')
  before = tiny.files(tmp_path)
  code, said = command(tmp_path, *args)
  assert code == 2 and message in said and 'Traceback' not in said, said
  assert tiny.files(tmp_path) == before
