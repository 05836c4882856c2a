"""Tests, and what several of them take: see also `tiny`, `processes`."""

import pytest


def slow(*values, **options):
  """A case of a table that only `make test-all` tries."""
  return pytest.param(*values, marks=pytest.mark.slow, **options)
