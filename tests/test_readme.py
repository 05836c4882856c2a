"""What README.md and the configs tell a newcomer to do can be done.

Python blocks run in order in one folder, each in a process of its own. A block
that starts with `# NAME.py` is saved there under this name, so that later
blocks may import it; and a comment behind a `print` is what it prints.
"""

import configparser
import importlib
from pathlib import Path
import re
import shlex
import subprocess
import sys

import pytest

from flax_enn.evaluation import table
from flax_enn.training import load_config, train_and_evaluate
from tests import commands as commands_lib
from tests import test_laws, tiny

README = (tiny.ROOT / 'README.md').read_text()
DOCS = '\n'.join(p.read_text() for p in sorted(tiny.ROOT.glob('docs/*.md')))
DOCSTRINGS = {
    path.name: path.read_text().split('"""')[1]
    for path in sorted((tiny.ROOT / 'configs').glob('*.py'))
}


def blocks(language, text=README):
  return re.findall(rf'^```{language}\n(.*?)^```$', text, re.M | re.S)


def commands(text):
  """Each command as its words, without `NAME=value` before it and comments."""
  for line in text.replace('\\\n', ' ').splitlines():
    words = shlex.split(line, comments=True)
    while words and re.match(r'\w+=', words[0]):
      words.pop(0)
    if words:
      yield words


def all_commands():
  yield from commands(''.join(blocks('(?:bash|console)')))
  # In docs, other programs have commands too.
  for words in commands(''.join(blocks('bash', DOCS))):
    if 'train.py' in words or any('flax_enn.' in word for word in words):
      yield words
  # Those in running text, and those in a config's docstring.
  for code in re.findall(r'`([^`]+)`', re.sub(r'(?ms)^```.*?^```', '', README)):
    if re.match(r'make( |$)|\S*python train\.py', code):
      yield from commands(' '.join(code.split()))
  for text in DOCSTRINGS.values():
    lines = text.replace('\\\n', ' ').splitlines()
    yield from commands(
        '\n'.join(line for line in lines if line.startswith('  python'))
    )


def question(words):
  """The script with the arguments that say whether a command can be run."""
  match words:
    case [python, ('train.py' | 'launch/sweep.py') as script, *rest] if (
        Path(python).name == 'python'
    ):
      return [[script, *rest]]
    case [python, '-m', module, *rest] if Path(python).name == 'python':
      path = module.replace('.', '/')
      package = (tiny.ROOT / path).is_dir()
      return [[f'{path}/__main__.py' if package else f'{path}.py', *rest]]
    case [python, 'launch/local.py', *rest] if Path(python).name == 'python':
      own, of_train = rest[: rest.index('--')], rest[rest.index('--') + 1 :]
      return [['launch/local.py', *own], ['train.py', *of_train]]
  pytest.fail(f'this test cannot tell whether `{shlex.join(words)}` works')


def failures(found):
  """Command -> what is wrong with it."""
  wrong, asked = {}, []
  for words in map(list, dict.fromkeys(map(tuple, found))):
    command = shlex.join(words)
    if words[0] == 'make':
      make = subprocess.run(
          ['make', '-n', *words[1:]],
          cwd=tiny.ROOT, capture_output=True, text=True, check=False,
      )  # fmt: skip
      if make.returncode:
        wrong[command] = make.stderr
      continue
    asked += [(command, ask) for ask in question(words)]
    # Flags alone do not open the file.
    for name in re.findall(r'--config=([^\s:]+)', command):
      if not (tiny.ROOT / name).is_file():
        wrong[command] = f'there is no {name}'
  answers = commands_lib.answers(
      (tiny.ROOT, [tiny.ROOT / script, *args, '--only_check_args'])
      for _, (script, *args) in asked
  )
  for (command, _), (code, said) in zip(asked, answers):
    if code:
      wrong[command] = said
  return wrong


def test_commands_work():
  found = list(all_commands())
  assert ['make', 'train'] in found
  assert ['make', 'test'] in found
  assert not failures(found)


WRONG = """
make trian
python train.py --config=configs/digit_base.py --workdir=runs/x
python train.py --config=configs/digits_base.py --work=runs/x
python train.py --config=configs/digits_base.py:jiont --workdir=x
python train.py --config=configs/digits_base.py --workdir=x --config.batchsize=3
"""


def test_a_command_that_does_not_work_is_found():
  wrong = list(commands(WRONG))
  assert set(failures(wrong)) == set(map(shlex.join, wrong))


def test_every_config_has_its_command_and_numbers():
  for name, text in DOCSTRINGS.items():
    assert re.search(rf'--config=configs/{name}[: ]', text), name
    assert 'Expected' in text, name


@pytest.mark.slow
def test_python_blocks_run(tmp_path, monkeypatch):
  # The digits are prepared there, whoever runs this.
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path / 'data'))
  config = load_config('configs/digits_epinet.py:joint')
  config.update(num_steps=20)
  config.eval.num_indices = 50
  train_and_evaluate(config, tmp_path / 'runs' / 'digits_epinet')
  sources = blocks('python')
  assert len(sources) >= 3
  for i, source in enumerate(sources):
    name = re.match(r'# (\w+\.py)\n', source)
    path = tmp_path / (name[1] if name else f'block_{i}.py')
    path.write_text(source)
    process = tiny.python(path, cwd=tmp_path)
    printed, _ = process.communicate()
    assert process.returncode == 0, printed
    for line in re.findall(r'^print\(.*\)  # (.*)$', source, re.M):
      assert line in printed.splitlines(), source


def test_the_network_of_the_readme_keeps_the_laws(tmp_path, monkeypatch):
  (source,) = [s for s in blocks('python') if 'def example()' in s]
  (tmp_path / 'readme_network.py').write_text(source)
  monkeypatch.syspath_prepend(tmp_path)
  module = importlib.import_module('readme_network')
  monkeypatch.setitem(
      sys.modules, 'flax_enn.networks.readme_network', module
  )
  test_laws.test_has_the_interface('readme_network')
  test_laws.test_law_index_free('readme_network')
  test_laws.test_law_frozen('readme_network')
  test_laws.test_law_joint('readme_network')
  test_laws.test_law_devices('readme_network')


def test_the_table_is_what_is_printed():
  (text,) = [block for block in blocks('text') if 'enn/base' in block]
  names, *rows = [line.split() for line in text.splitlines()]
  numbers = {who: map(float, values) for who, *values in rows[:2]}
  metrics = {who: dict(zip(names, v)) for who, v in numbers.items()}
  assert table(metrics) == text.rstrip('\n')


def test_links_and_paths_exist():
  pages = [tiny.ROOT / 'README.md', *tiny.ROOT.glob('docs/*.md')]
  links = [  # from the page that they are on
      page.parent / link
      for page in pages
      for link in re.findall(r'\]\(([^)#\s]+)\)', page.read_text())
      if '://' not in link
  ]
  named = re.findall(
      r'`((?:flax_enn|configs|tests|docs|benchmarks)/[\w/.]*)`', README + DOCS
  )
  paths = [tiny.ROOT / path for path in named]
  assert links and paths
  assert not [path for path in [*links, *paths] if not path.exists()]


def test_pictures_are_small():
  pictures = list((tiny.ROOT / 'docs').rglob('*.png'))
  assert pictures
  for path in pictures:
    assert path.stat().st_size < 250_000, path
    assert str(path.relative_to(tiny.ROOT)) in README


def test_extras_exist():
  config = configparser.ConfigParser()
  config.read(tiny.ROOT / 'setup.cfg')
  named = re.findall(r'the extras (`.*?) are', README, re.S)[0] + '`train`'
  extras = set(re.findall(r'`(\w+)`', named))
  assert extras <= set(config['options.extras_require'])
