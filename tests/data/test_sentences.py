"""Sentences: their files, the vocabulary that is learned, and its pieces."""

from collections import Counter
import gzip
import itertools
import os
from pathlib import Path
import pickle
import shutil

import jax
import numpy as np
import pytest

from flax_enn.data import in_memory
from flax_enn.data.cola import Cola
from flax_enn.data.loader import Loader
from flax_enn.data.sst2 import Sst2
from flax_enn.data.word_pieces import (
  SPECIAL,
  WordPieces,
  learn_vocabulary,
  split,
)
from flax_enn.inference import Predictor
from flax_enn.training import default_config, train_and_evaluate

TEXTS = [
    'The cats sat, the hats sat.', 'A cat sits on a hat', "That's the cat's",
    'sitting hats; sitting cats', 'naïve cafés', 'the the the',
]  # fmt: skip


def slow_vocabulary(texts, size):
  """Counts all pairs anew for every merge."""
  words = Counter(w for t in texts for w in split(t))
  words = {w: [w[0], *('##' + c for c in w[1:])] for w in words}
  number = Counter(w for t in texts for w in split(t))
  letters = Counter()
  for word, pieces in words.items():
    for piece in pieces:
      letters[piece] += number[word]
  found = list(SPECIAL)
  found += [p for p, _ in sorted(letters.items(), key=lambda i: (-i[1], i[0]))]
  found = found[:size]
  while len(found) < size:
    pairs = Counter()
    for word, pieces in words.items():
      for pair in itertools.pairwise(pieces):
        pairs[pair] += number[word]
    if not pairs or max(pairs.values()) < 2:
      break
    best = min(pairs, key=lambda pair: (-pairs[pair], pair))
    merged = best[0] + best[1].removeprefix('##')
    found += [merged] * (merged not in found)
    for pieces in words.values():
      i = 0
      while i < len(pieces) - 1:
        if (pieces[i], pieces[i + 1]) == best:
          pieces[i : i + 2] = [merged]
        i += 1
  return tuple(found)


@pytest.mark.parametrize('size', [10, 40, 60, 1000])
def test_the_vocabulary_is_that_of_the_slow_way(size):
  found = learn_vocabulary(TEXTS, size)
  assert found == slow_vocabulary(TEXTS, size)
  assert len(set(found)) == len(found) <= size
  assert found == learn_vocabulary(TEXTS[::-1], size)


@pytest.fixture(scope='module')
def pieces():
  return WordPieces(learn_vocabulary(TEXTS, 60), 12)


def test_words_are_cut_into_the_longest_pieces(pieces):
  for word in {w for text in TEXTS for w in split(text)}:
    cut, rest = pieces.cut(word), word
    for i, piece in enumerate(cut):
      prefix = '##' * (i > 0)
      longest = next(
          rest[:n]
          for n in range(len(rest), 0, -1)
          if prefix + rest[:n] in pieces.vocabulary
      )
      assert piece == prefix + longest
      rest = rest[len(longest) :]
    assert not rest
  assert pieces.cut('cat€') == ['[UNK]']


def test_texts_are_framed_padded_and_cut(pieces):
  x = pieces('The cat')
  assert [pieces.vocabulary[i] for i in x['token_ids'][:4]] == [
      '[CLS]', 'the', 'cat', '[SEP]',
  ]  # fmt: skip
  assert x['input_mask'].tolist() == [1] * 4 + [0] * 8
  assert not x['token_ids'][4:].any()
  assert not x['segment_ids'].any()
  long = pieces('the ' * 40)
  assert long['input_mask'].all()
  assert pieces.vocabulary[long['token_ids'][-1]] == '[SEP]'
  many = pieces.of_many(None)(['The cat', b'the ' * 40])
  for name, both in many.items():
    np.testing.assert_array_equal(both, [x[name], long[name]])
    assert both.dtype == np.int32
  with pytest.raises(ValueError, match='a text is int; expected str'):
    pieces(3)


def write(folder):
  """Two splits of each data set, where a word tells the classes apart."""
  rng = np.random.RandomState(0)
  names = ['cats', 'hats', 'dogs', 'logs']
  for name, n in (('train.tsv', 128), ('dev.tsv', 48)):
    labels = rng.randint(2, size=n)
    texts = [
        f'The {rng.choice(names)} {("ran", "were")[label]}\u2028{i % 7}.'
        for i, label in enumerate(labels)
    ]
    cola = [f'gj04\t{y}\t{"*" * (1 - y)}\t{t}' for t, y in zip(texts, labels)]
    (folder / name).write_text('\n'.join(cola) + '\n')
    sst2 = ['sentence\tlabel', *(f'{t} \t{y}' for t, y in zip(texts, labels))]
    (folder / f'{name}.gz').write_bytes(
        gzip.compress('\r\n'.join(sst2).encode())
    )
  return folder


@pytest.fixture
def folder(tmp_path):
  return write(tmp_path)


def test_both_files_are_read(folder):
  cola = Cola(str(folder), vocab_size=50)
  sst2 = Sst2(str(folder), 'train.tsv.gz', 'dev.tsv.gz', vocab_size=50)
  for split_name, n in (('train', 128), ('test', 48)):
    a, b = (d.load(split_name) for d in (cola, sst2))
    assert len(a) == len(b) == n
    np.testing.assert_array_equal(a.y, b.y)
    assert [t.strip() for t in b.x] == a.x.tolist()
    assert set(a.y) == {0, 1}
  assert (cola.length, sst2.length) == (32, 64)
  assert cola.class_names == ('unacceptable', 'acceptable')
  x = cola.preprocess(cola.load('train')[0]['x'])
  forms = jax.tree.map(lambda a: (a.shape, a.dtype), x)
  assert forms == {k: (v.shape, v.dtype) for k, v in cola.input_spec.items()}
  copied = pickle.loads(pickle.dumps(cola))
  assert vars(copied)['preprocess'] == cola.preprocess


def test_batches_are_taken_at_once(folder, monkeypatch):
  cola = Cola(str(folder), vocab_size=50)
  at_once = next(Loader().train_batches(cola, cola.spec, batch_size=16, seed=0))
  assert at_once.x['token_ids'].shape == (16, 32)
  monkeypatch.setattr(in_memory, '_MOST_BYTES', 0)
  jax.tree.map(
      np.testing.assert_array_equal,
      at_once,
      next(Loader().train_batches(cola, cola.spec, batch_size=16, seed=0)),
  )


BAD = {
    'nowhere.tsv': (None, 'no such file'),
    'empty.tsv': ('', 'no examples'),
    'columns.tsv': ('gj04\t1\tx', '3 columns in line 1; expected 4: source, '),
    'tab.tsv': ('gj04\t1\t\tx\n\ngj04\t1\t\tx\ty', '5 columns in line 3'),
    'label.tsv': ('gj04\t2\t\tx', "the label '2' in line 1"),
    'sentence.tsv': ('gj04\t1\t\t ', 'an empty sentence in line 1'),
    'zipped.tsv.gz': ('gj04\t1\t\tx', 'BadGzipFile'),
}


@pytest.mark.parametrize('name', BAD)
def test_bad_files_are_named(name, folder):
  content, says = BAD[name]
  if content is not None:
    (folder / name).write_text(content)
  with pytest.raises(ValueError, match=f"train '{name}'.*{says}"):
    Cola(str(folder), train=name).load('train')


@pytest.mark.parametrize(
    'content, says',
    [
        ('good\t1\nbad\t0', r"line is \('good', '1'\); expected a header"),
        ('', r'line is \(\); expected a header'),
        ('idx\tsentence\tlabel\n0\tgood\t1', "line is .'idx', 'sentence'"),
        ('sentence\tlabel\n\ngood\t1\na\tb\t1', '3 columns in line 4'),
        ('sentence\tlabel\n\t1', 'an empty sentence in line 2'),
        ('sentence\tlabel\n', 'no examples'),
    ],
)
def test_what_is_no_file_of_sst2(content, says, tmp_path):
  (tmp_path / 'train.tsv').write_text(content)
  with pytest.raises(ValueError, match=f"train 'train.tsv', .*{says}"):
    Sst2(str(tmp_path)).load('train')


def test_a_mark_of_the_byte_order_is_no_part_of_a_header(folder):
  text = gzip.decompress((folder / 'dev.tsv.gz').read_bytes()).decode()
  (folder / 'marked.tsv').write_text(text, encoding='utf-8-sig')
  names = {'train': 'train.tsv.gz', 'test': 'marked.tsv'}
  assert len(Sst2(str(folder), **names).load('test')) == 48


@pytest.mark.parametrize('damage', ['flipped', 'cut off'])
def test_a_damaged_gzip_file_is_named(damage, folder):
  content = (folder / 'train.tsv.gz').read_bytes()
  content, says = {
      'flipped': (content[:10] + b'\xff' + content[11:], 'error: Error -3'),
      'cut off': (content[:60], 'EOFError'),
  }[damage]
  (folder / 'bad.tsv.gz').write_bytes(content)
  with pytest.raises(ValueError, match=f"'bad.tsv.gz', which is not .*{says}"):
    Sst2(str(folder), 'bad.tsv.gz').load('train')


def test_bad_numbers_are_refused():
  with pytest.raises(ValueError, match='length is 2'):
    Cola('x', length=2)


@pytest.mark.slow
def test_a_run_knows_its_vocabulary_without_its_data(tmp_path):
  data = tmp_path / 'data'
  data.mkdir()
  write(data)
  config = default_config()
  config.update(batch_size=16, num_steps=60)
  config.dataset.update(
      name='cola', data_dir=str(data), length=10, vocab_size=60
  )
  config.network = {
      'name': 'deterministic',
      'base': {
          'name': 'bert', 'vocab_size': 60, 'layers': 1, 'hidden': 16,
          'heads': 2, 'intermediate': 16, 'positions': 10, 'dropout': 0.0,
      },
  }  # fmt: skip
  config.objectives = {'data': {'loss': {'name': 'xent'}}}
  config.optimizer.learning_rate = 1e-2
  results = train_and_evaluate(config, tmp_path / 'run')
  assert results['test']['enn']['accuracy'] == 1  # it learns
  texts = Cola(str(data)).load('test')
  shutil.rmtree(data)
  predictor = Predictor.load(tmp_path / 'run')
  x = predictor.model.preprocess.of_many(texts.x)(texts.x[:8])
  probs = predictor.probs(x)
  np.testing.assert_array_equal(probs.argmax(-1), texts.y[:8])
  again = jax.tree.map(lambda *leaves: np.stack(leaves), *(
      predictor.preprocess(str(text)) for text in texts.x[:8]
  ))
  jax.tree.map(np.testing.assert_array_equal, x, again)


def test_the_real_files():
  root = os.environ.get('FLAX_ENN_DATA')
  if not root or not (Path(root) / 'glue').exists():
    pytest.skip('FLAX_ENN_DATA names no folder with glue/')
  cola = Cola(f'{root}/glue', 'cola_train.tsv.gz', 'cola_dev.tsv.gz')
  assert len(cola.load('test')) == 1043
  assert 0.6 < cola.load('train').y.mean() < 0.8
  pieces = cola.preprocess
  assert len(pieces.vocabulary) == 4000
  x = cola.load('test').x
  ids = pieces.of_many(x)(x)['token_ids']
  assert (ids == 1).mean() < 1e-3
