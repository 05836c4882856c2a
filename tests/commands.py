"""Command lines of the repository, many of them in one interpreter."""

import contextlib
import json
import subprocess
import sys

from tests import tiny

# Imports what they need once; each command then runs as `python SCRIPT ARG …`
# does, in a fork.
_PROGRAM = '''
import importlib, json, os, runpy, sys, tempfile, traceback, warnings

warnings.filterwarnings('ignore', 'os.fork')  # no backend has threads yet

for module in sys.argv[1:]:
  importlib.import_module(module)


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


for line in sys.stdin:
  folder, command, env = json.loads(line)
  with tempfile.TemporaryFile() as said:
    child = os.fork()
    if not child:
      os.dup2(said.fileno(), 1)
      os.dup2(said.fileno(), 2)
      os.chdir(folder)
      os.environ.update(env)
      code = run(*command)
      sys.stdout.flush()
      sys.stderr.flush()
      os._exit(code)
    _, status = os.waitpid(child, 0)
    said.seek(0)
    code = os.waitstatus_to_exitcode(status)
    print(json.dumps((code, said.read().decode())), flush=True)
'''
MODULES = ('jax', 'ml_collections.config_flags', 'flax_enn.training')


@contextlib.contextmanager
def interpreter(modules=MODULES, env=None):
  """Yields what runs a command: its folder and words -> exit code, output.

  Args:
    modules: that are imported once, for all commands.
    env: environment of the interpreter, by default that of `tiny`; a command
      adds its own, which no module has seen when it was imported.
  """
  process = subprocess.Popen(
      [sys.executable, '-c', _PROGRAM, *modules],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      env=env or tiny.environment(),
      cwd=tiny.ROOT,
      text=True,
  )

  def run(folder, command, **env) -> tuple[int, str]:
    asked = json.dumps([str(folder), list(map(str, command)), env])
    print(asked, file=process.stdin, flush=True)
    code, said = json.loads(process.stdout.readline())
    return code, said

  with process:
    yield run
    process.stdin.close()
    assert process.wait() == 0


def answers(commands) -> list[tuple[int, str]]:
  """Exit code and output of each command.

  Args:
    commands: for each the folder it runs in, and a script with its arguments.
  """
  with interpreter() as run:
    return [run(*command) for command in commands]
