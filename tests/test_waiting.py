"""Waits that come to an end (with real processes: faults/test_hosts.py)."""

import itertools
import os
import threading
import time

import pytest

from flax_enn import waiting


@pytest.fixture
def ended(monkeypatch):
  """Exit codes of this process, which goes on all the same."""
  codes = []
  monkeypatch.setattr(os, '_exit', codes.append)
  return codes


def stalls(seconds, number):
  for i in range(3):
    if i == number:
      time.sleep(seconds)
    yield i


def test_no_wait_is_limited_alone(ended):
  assert list(waiting.watched(stalls(0.1, 1))) == [0, 1, 2]
  waiting.meet('nowhere')
  assert not ended


@pytest.mark.parametrize(
    'number, flag', [(None, None), (0, 'start'), (1, 'peer'), (2, 'peer')]
)
def test_batches_must_come_in_time(number, flag, ended, monkeypatch, capsys):
  for key in ('start', 'peer'):
    monkeypatch.setitem(waiting.timeouts, key, 0.05 if key == flag else 60)
  assert list(waiting.watched(stalls(0.3, number))) == [0, 1, 2]
  assert ended == [1] * bool(flag)
  said = capsys.readouterr().err
  assert ('waited 0.05 s for data' in said) == bool(flag)
  assert (f'--{flag}_timeout' in said) == bool(flag)
  timers = [t for t in threading.enumerate() if isinstance(t, threading.Timer)]
  for timer in timers:
    timer.join(1)  # cancelled
    assert not timer.is_alive()


def test_only_the_wait_for_a_batch_counts(ended, monkeypatch):
  monkeypatch.setattr(waiting, 'timeouts', {'start': 0.05, 'peer': 0.05})
  for _ in itertools.islice(waiting.watched(itertools.count()), 2):
    time.sleep(0.2)
  assert not ended


def test_errors_of_data_pass_through(monkeypatch):
  monkeypatch.setattr(waiting, 'timeouts', {'start': 60, 'peer': 60})
  with pytest.raises(ZeroDivisionError):
    list(waiting.watched(1 / i for i in (2, 1, 0)))
