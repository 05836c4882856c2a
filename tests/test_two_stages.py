"""The two stages of ImageNet by the real configs, from JPEGs to results."""

import pytest

from flax_enn.training import train_and_evaluate
from tests.data import fake_tfds
from tests.test_run import get_config


@pytest.mark.slow
def test_imagenet_base_and_epinet(tmp_path):
  data_dir = str(tmp_path / 'data')
  fake_tfds.imagenet(data_dir, n_train=40, n_test=20)
  results = {}
  for name in ('imagenet_resnet', 'imagenet_epinet'):
    full, config = get_config(name), get_config(name, 'smoke')
    config.num_steps = 4
    config.dataset = {
        **full.dataset.to_dict(),
        'data_dir': data_dir,
        'image_size': 32,
        'workers': 1,
    }
    config.init = full.init
    workdir = tmp_path / f'{name}50'
    results[name] = train_and_evaluate(config, workdir)['test']
  base, epinet = results['imagenet_resnet'], results['imagenet_epinet']
  # The base of the second is that of the first, and stayed as it was.
  for metric, value in base['base'].items():
    assert epinet['base'][metric] == pytest.approx(value, rel=1e-5)
  assert epinet['enn']['nll'] != pytest.approx(epinet['base']['nll'], rel=1e-3)
