"""Flags of train.py: what is wrong with them is said before all else."""

import pytest

from tests import commands, tiny

TRAIN = tiny.ROOT / 'train.py'
# Flags -> what is said of them.
WRONG = {
    'none': ([], '--config'),
    'no workdir': (['--config=config.py'], '--workdir'),
    'no such config': (['--config=nowhere.py', '--workdir=x'], 'nowhere.py'),
    'no such flag': (
        ['--config=config.py', '--workdir=x', '--work=y'],
        "Unknown command line flag 'work'",
    ),
    'no such field': (
        ['--config=config.py', '--workdir=x', '--config.batchsize=3'],
        'batchsize',
    ),
    'some of the processes': (
        ['--config=config.py', '--workdir=x', '--num_processes=2'],
        'needs all of --coordinator_address',
    ),
    'number of a process': (
        ['--config=config.py', '--workdir=x', '--num_processes=2',
         '--coordinator_address=localhost:1', '--process_id=2'],
        '--process_id is 2; the 2 processes of --num_processes are 0 to 1',
    ),
    'no port': (
        ['--config=config.py', '--workdir=x', '--num_processes=2',
         '--coordinator_address=localhost', '--process_id=1'],
        "--coordinator_address is 'localhost'; expected HOST:PORT",
    ),
    'no port of process 0': (
        ['--config=config.py', '--workdir=x', '--num_processes=2',
         '--coordinator_address=:1', '--process_id=0'],
        "--coordinator_address is ':1'; expected HOST:PORT",
    ),
    'not of this host': (
        ['--config=config.py', '--workdir=x', '--num_processes=2',
         '--coordinator_address=192.0.2.1:1', '--process_id=0'],
        'process 0 cannot listen at 192.0.2.1:1 (',
    ),
    'unreachable': (
        ['--config=config.py', '--workdir=x', '--num_processes=2',
         '--coordinator_address=localhost:1', '--process_id=1',
         '--start_timeout=1'],
        'no process 0 at --coordinator_address=localhost:1 within 1 sec',
    ),
}  # fmt: skip


ASKED = {case: flags for case, (flags, _) in WRONG.items()}
ASKED['help'] = ['--help']


@pytest.fixture(scope='module')
def answers(tmp_path_factory):
  """Case -> the folder where it was run, its exit code and what it said."""
  folders = [tmp_path_factory.mktemp('folder') for _ in ASKED]
  for folder in folders:
    text = 'from tests.tiny import epinet as get_config\n'
    (folder / 'config.py').write_text(text)
  found = commands.answers(
      (folder, [TRAIN, *flags])
      for folder, flags in zip(folders, ASKED.values())
  )
  return {
      case: (folder, *answer)
      for case, folder, answer in zip(ASKED, folders, found)
  }


@pytest.mark.parametrize('case', WRONG)
def test_wrong_flags(case, answers):
  folder, code, said = answers[case]
  # What has not come may come yet.
  assert code == (1 if case in ('unreachable', 'not of this host') else 2)
  assert WRONG[case][1] in said
  # What a config file raises when it is read is shown with its place.
  assert 'Traceback' not in said or case == 'no such config'
  assert list(tiny.files(folder)) == ['config.py']


def test_help_names_the_flags(answers):
  _, code, said = answers['help']
  assert code in (0, 1), said  # absl has it 1
  assert 'Traceback' not in said
  for flag in ('--config', '--workdir', '--profile_at'):
    assert flag in said, said
