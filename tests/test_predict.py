"""The command line that predicts: files in, tables and a picture out."""

import csv
import io
import json
import re
import subprocess
import sys

from absl import flags
from absl.testing import flagsaver
import matplotlib.image
import numpy as np
from PIL import Image
import pytest

from flax_enn import predict
from flax_enn.data.preprocess import Pixels
from flax_enn.inference import Predictor
from tests import tiny

NAMES = ('cat', 'dog', 'cow')


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """An epinet on gray images of three classes with names."""
  folder = tmp_path_factory.mktemp('predict')
  rng = np.random.RandomState(0)
  images = rng.randint(256, size=(32, 4, 4), dtype=np.uint8)
  data = folder / 'data.npz'
  np.savez(
      data, x_train=images[:24], y_train=np.arange(24) % 3,
      x_test=images[24:], y_test=np.arange(8) % 3,
  )  # fmt: skip
  config = tiny.epinet(
      dataset={'name': 'arrays', 'path': str(data)}, num_steps=1
  )
  tiny.untrained(config, folder / 'run', {1: {'nll': 1.1}})
  path = folder / 'run' / 'model.json'
  model = json.loads(path.read_text())
  path.write_text(json.dumps({**model, 'class_names': NAMES}))
  return folder / 'run', images


@pytest.fixture
def images(run, tmp_path):
  """A folder with the first five images as files."""
  folder = tmp_path / 'images'
  folder.mkdir()
  for i, image in enumerate(run[1][:5]):
    Image.fromarray(image).save(folder / f'{i}.png')
  return folder


@pytest.fixture
def command(run, capsys):
  """Runs the command line with flags; what it prints."""

  def call(*paths, **given):
    if not flags.FLAGS.is_parsed():
      flags.FLAGS(['predict'])
    with flagsaver.flagsaver(workdir=str(run[0]), **given):
      predict.run(list(map(str, paths)))
    return capsys.readouterr().out

  return call


def rows(text):
  return list(csv.DictReader(io.StringIO(text)))


def test_numbers_are_those_of_the_predictor(run, images, command):
  found = rows(command(images, format='csv'))
  p = Predictor.load(run[0])
  x = np.stack([Pixels((4, 4, 1))(image[..., None]) for image in run[1][:5]])
  probs, spread = p.probs(x), p.uncertainty(x)
  for i, row in enumerate(found):
    assert row['input'] == str(images / f'{i}.png')
    best = probs[i].argmax()
    assert row['class_1'] == NAMES[best]
    assert float(row['prob_1']) == pytest.approx(probs[i, best])
    for name, values in spread.items():
      assert float(row[name]) == pytest.approx(values[i], abs=1e-6)
  assert len(found) == 5


@pytest.mark.parametrize('as_floats', [False, True])
def test_arrays_and_labels(run, command, tmp_path, as_floats):
  x = run[1][:6]
  np.save(tmp_path / 'x.npy', x)
  np.savez(tmp_path / 'xy.npz', x=x, y=np.arange(6) % 3)
  plain = rows(command(tmp_path / 'x.npy', format='csv'))
  known = rows(command(tmp_path / 'xy.npz', format='csv'))
  assert [r['label'] for r in known] == [*NAMES, *NAMES]
  assert not any(r['label'] for r in plain)
  assert known[4]['input'] == f'{tmp_path}/xy.npz[4]'
  same = [
      {k: v for k, v in r.items() if k not in ('input', 'label')}
      for r in (*plain, *known)
  ]
  assert same[:6] == same[6:]
  if as_floats:
    np.save(tmp_path / 'floats.npy', x[..., None] / 255)
    with pytest.raises(ValueError, match=r'floats.npy\[0\]: .*expected bytes'):
      command(tmp_path / 'floats.npy')


@pytest.mark.slow
def test_evidence_from_a_table(run, images, command, tmp_path):
  np.save(tmp_path / 'more.npy', run[1][5:8])
  table = tmp_path / 'labels.csv'
  table.write_text(
      'input,label\nimages/0.png,dog\nimages/1.png,2\nmore.npy[1],cat\n'
  )
  found = json.loads(command(images, given=str(table), format='json'))
  p = Predictor.load(run[0])
  x = np.stack([p.preprocess(image) for image in run[1][:8]])
  q = p.condition(x[[0, 1, 6]], np.array([1, 2, 0]))
  for row, probs in zip(found['predictions'], q.probs(x[:5])):
    assert row['prob_1'] == pytest.approx(probs.max(), rel=1e-5)


def test_joint(run, command, tmp_path):
  x, y = run[1][:4], np.array([0, 1, 2, 0])
  np.savez(tmp_path / 'xy.npz', x=x, y=y)
  found = json.loads(command(tmp_path / 'xy.npz', format='json', joint=True))
  p = Predictor.load(run[0])
  inputs = np.stack([p.preprocess(image) for image in x])
  alone = np.log(p.probs(inputs)[np.arange(4), y]).sum()
  assert found['joint']['log_independent'] == pytest.approx(alone, rel=1e-5)
  joint = p.log_joint(inputs, y)
  assert found['joint']['log_joint'] == pytest.approx(joint, rel=1e-5)
  said = command(tmp_path / 'xy.npz', joint=True)
  assert re.search(r'given labels at once -\d+\.\d+, one by one -\d', said)


def test_a_split_and_its_contact_sheet(command, tmp_path):
  sheet, out = tmp_path / 'sheet.png', tmp_path / 'table.txt'
  said = command(split='test', sheet=str(sheet), out=str(out), sheet_size=5)
  assert not said
  lines = out.read_text().splitlines()
  assert lines[0].split()[:3] == ['input', 'label', 'class_1']
  assert lines[1].split()[:2] == ['test[0]', 'cat'] and len(lines) == 9
  picture = matplotlib.image.imread(sheet)
  assert picture.std() > 0.05 and picture.shape[1] > 1000


def truncated(folder):
  path = folder / 'broken.png'
  path.write_bytes((folder / '0.png').read_bytes()[:50])
  return folder


def text_as_image(folder):
  (folder / 'text.png').write_text('hello')
  return folder


def other_size(folder):
  path = folder / 'large.png'
  Image.fromarray(np.zeros((5, 5), np.uint8)).save(path)
  return path


def empty_folder(folder):
  (folder / 'empty').mkdir()
  return folder / 'empty'


def no_x(folder):
  np.savez(folder / 'a.npz', images=np.zeros((2, 4, 4)))
  return folder / 'a.npz'


def wrong_label(folder):
  np.savez(
      folder / 'a.npz', x=np.zeros((2, 4, 4), np.uint8), y=np.array([0, 3])
  )
  return folder / 'a.npz'


@pytest.mark.parametrize(
    'make, message',
    [
        (truncated, r'broken.png: '),
        (text_as_image, r'text.png: not an image'),
        (other_size, r'large.png: .*uint8\[4, 4, 1\]'),
        (empty_folder, r'empty has no image'),
        (lambda f: f / 'none.png', r'none.png is not a file'),
        (lambda f: f / 'none.npy', r'none.npy: no such file'),
        (no_x, r"has \{'images': \[2, 4, 4\]\}; expected inputs x"),
        (wrong_label, r'a.npz: y\[1\] is 3; labels are 0 to 2'),
    ],
)
def test_bad_inputs_are_one_sentence(command, images, tmp_path, make, message):
  out = tmp_path / 'out.csv'
  with pytest.raises(ValueError, match=message):
    command(make(images), format='csv', out=str(out))
  assert not out.exists()


@pytest.mark.parametrize(
    'table, message',
    [
        ('path,label\n0.png,1\n', r"\['path', 'label'\]; expected columns"),
        ('', r'nothing; expected columns'),
        ('input,label\n9.png,1\n', r'9.png is not a file'),
        ('input,label\n0.png,horse\n', r"line 2: label 'horse'; .*cat, dog"),
        ('input,label\n0.png,3\n', r'label\[0\] is 3; labels are 0 to 2'),
        ('input,label\n0.png\n', r"line 2: label ''"),
        ('input,label\nmore.npy[7],1\n', r'more.npy has the rows 0 to 1'),
    ],
)
def test_bad_tables_are_one_sentence(command, images, run, table, message):
  np.save(images / 'more.npy', run[1][:2])
  (images / 'labels.csv').write_text(table)
  with pytest.raises(ValueError, match=message):
    command(images / '0.png', given=str(images / 'labels.csv'))


def test_what_does_not_go_together(command):
  with pytest.raises(ValueError, match='INPUTS or --split'):
    command()
  with pytest.raises(ValueError, match=r'--joint .*--format=table or json'):
    command(split='test', joint=True, format='csv')


@pytest.mark.slow
def test_as_a_program(run, images):
  def call(*args):
    return subprocess.run(
        [sys.executable, '-m', 'flax_enn.predict', *args],
        env=tiny.environment(1), cwd=tiny.ROOT, capture_output=True, text=True,
        check=False,
    )  # fmt: skip

  good = call(f'--workdir={run[0]}', str(images))
  assert good.returncode == 0 and len(good.stdout.splitlines()) == 6, good
  bad = call(f'--workdir={images}', str(images))
  assert bad.returncode == 2 and bad.stdout == ''
  assert bad.stderr.startswith('ValueError: ') and 'Traceback' not in bad.stderr
  assert call('--workdri=x').returncode == 2
  assert call('--help').returncode == 0
