"""Runs: one for each override, in a folder of its own."""

from collections.abc import Mapping
import dataclasses
import json
from typing import Any

from etils import epath
import ml_collections

from flax_enn import build, kinds, run_folder
from flax_enn import config as config_lib
from flax_enn.config_files import load_config, load_module
from flax_enn.sweep.overrides import Override, apply, name, normalized


@dataclasses.dataclass(frozen=True)
class Run:
  """One run of a sweep.

  Attributes:
    override: what differs from the config file.
    config: that it trains.
    workdir: its folder.
  """

  override: Override
  config: ml_collections.ConfigDict
  workdir: epath.Path

  @property
  def finished(self) -> bool:
    """Whether its results are there, and are those of its config."""
    return self.results is not None

  @property
  def results(self) -> dict[str, Any] | None:
    """What is in its `results.json`; None if it has not finished.

    What cannot be read was not finished.
    """
    config, results = (
        self.workdir / name for name in ('config.json', 'results.json')
    )
    try:
      old, found = map(run_folder.read_json, (config, results))
      # Steps and evaluation may change, and do so in config.json first.
      same = old == json.loads(self.config.to_json())
      current = results.stat().mtime >= config.stat().mtime
    except (OSError, ValueError):
      return None
    whole = 'step' in found
    for models in (v for k, v in found.items() if k != 'step'):
      whole &= isinstance(models, dict) and all(
          isinstance(metrics, dict) for metrics in models.values()
      )
    return found if same and current and whole else None


def load_runs(path: str, workdir: epath.PathLike) -> list[Run]:
  """The runs of a config file's `sweep()`, all of them checked.

  Args:
    path: 'configs/NAME.py[:VARIANT]'.
    workdir: where each of them has a folder.

  Raises:
    ValueError: an override does not fit the config, two of them are the same,
      there are none, or a folder holds a run of another config.
  """
  config, sweep = load_config(path), getattr(load_module(path), 'sweep', None)
  if not callable(sweep):
    raise ValueError(
        f'config file {path} defines no sweep(): a function that returns a list'
        " of overrides, such as [{'seed': 0}, {'seed': 1}]"
    )
  found = sweep()
  overrides = [] if found is None else list(found)
  for o in (o for o in overrides if not isinstance(o, Mapping)):
    raise ValueError(f'sweep() of {path} has {o!r}; expected {{field: value}}')
  overrides = [normalized(o) for o in overrides]
  fields = {field for override in overrides for field in override}
  runs: dict[str, Run] = {}
  for override in overrides:
    changed = apply(config, override)
    config_lib.check(changed)
    build.build(changed.network, kinds.NETWORK, 'config.network', outputs=1)
    run = Run(override, changed, epath.Path(workdir) / name(override, fields))
    if run.workdir.name in runs:
      raise ValueError(f'sweep() of {path} has {override} twice')
    runs[run.workdir.name] = run
    run_folder.check_resumable(changed, run.workdir)
  if not runs:
    raise ValueError(f'sweep() of {path} is empty: there is nothing to run')
  return list(runs.values())
