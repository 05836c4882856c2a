"""What could not be read, in the folder of a run."""

from etils import epath
import jax

from flax_enn.skipped import Skipped


def test_a_process_writes_its_own_and_begins_with_those_of_all(
    tmp_path, monkeypatch
):
  folder = epath.Path(tmp_path) / 'train'
  first = Skipped(folder)
  assert not first and not folder.exists()
  first[3] = 'torn'
  monkeypatch.setattr(jax, 'process_index', lambda: 1)
  second = Skipped(folder)
  second[12] = 'cut off'
  assert dict(Skipped(folder)) == {3: 'torn', 12: 'cut off'}
  assert {p.name for p in folder.iterdir()} == {'0.json', '1.json'}
