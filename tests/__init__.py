"""Tests, and what several of them take: see also `tiny`, `processes`."""

import pytest


def slow(*values, **options):
  """A case of a table that only `make test-all` tries."""
  return pytest.param(*values, marks=pytest.mark.slow, **options)


def long(*values, **options):
  """A further case of what another shows: `make test-long` tries it."""
  return pytest.param(
      *values, marks=[pytest.mark.slow, pytest.mark.long], **options
  )


def thinned(values, every=2):
  """Values of which `make test` tries one in so many, `make test-all` all."""
  return [slow(v) if place % every else v for place, v in enumerate(values)]
