"""The table of networks is what the networks say of themselves."""

import importlib.util

import pytest

from flax_enn import build, kinds
from tests.test_layering import ROOT

_SPEC = importlib.util.spec_from_file_location(
    'network_table', ROOT / 'docs' / 'network_table.py'
)
network_table = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(network_table)


def test_the_page_is_up_to_date():
  text = network_table.PAGE.read_text()
  assert network_table.page(text) == text, 'run python docs/network_table.py'


@pytest.mark.parametrize('name', sorted(network_table.entries()))
def test_its_config_is_one(name):
  source = network_table.entries()[name]['Config']
  config = eval(source, {'dict': dict})  # a line of this repository
  built = build.build(config, kinds.NETWORK, 'config.network', 3)
  assert kinds.NETWORK.accepts(type(built))


def test_an_entry_that_is_missing_is_named():
  with pytest.raises(ValueError, match='no `Cost:`'):
    network_table.parsed('What.\n\nUse: always.\nSource: none.')
