"""Command lines of the repository, many of them in one interpreter."""

import json
import subprocess
import sys

from tests import tiny

# Imports what they need once; each command then runs as `python SCRIPT ARG …`
# does, in a fork.
_PROGRAM = '''
import json, os, runpy, sys, tempfile, traceback, warnings
import jax
from ml_collections import config_flags
import flax_enn.training

warnings.filterwarnings('ignore', 'os.fork')  # no backend has threads yet


def run(script, *args):
  try:
    sys.argv, sys.path[0] = [script, *args], os.path.dirname(script)
    runpy.run_path(script, run_name='__main__')
  except SystemExit as e:
    if e.code is not None and not isinstance(e.code, int):
      print(e.code, file=sys.stderr)
      return 1
    return e.code or 0
  except BaseException:
    traceback.print_exc()
    return 1
  return 0


answers = []
for folder, command in json.load(sys.stdin):
  with tempfile.TemporaryFile() as said:
    child = os.fork()
    if not child:
      os.dup2(said.fileno(), 1)
      os.dup2(said.fileno(), 2)
      os.chdir(folder)
      code = run(*command)
      sys.stdout.flush()
      sys.stderr.flush()
      os._exit(code)
    _, status = os.waitpid(child, 0)
    said.seek(0)
    code = os.waitstatus_to_exitcode(status)
    answers.append((code, said.read().decode()))
json.dump(answers, sys.stdout)
'''


def answers(commands) -> list[tuple[int, str]]:
  """Exit code and output of each command.

  Args:
    commands: for each the folder it runs in, and a script with its arguments.
  """
  words = [(str(cwd), list(map(str, command))) for cwd, command in commands]
  done = subprocess.run(
      [sys.executable, '-c', _PROGRAM],
      input=json.dumps(words),
      env=tiny.environment(),
      cwd=tiny.ROOT,
      capture_output=True,
      text=True,
      check=False,
  )
  assert done.returncode == 0, done.stderr
  return [tuple(answer) for answer in json.loads(done.stdout)]
