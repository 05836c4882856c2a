"""Sweeps: a config trained once for each of many overrides.

A config file may define `sweep()`, the list of overrides:

  def sweep():
    return product({'seed': range(3), 'network.prior_scale': (0.5, 1.0, 2.0)})

An override is a dict, field -> value, with the fields as on the command line.
`launch/sweep.py` trains them; `read_rows` has what came out.
"""

import ast
import collections
from collections.abc import Iterable, Mapping, Sequence
import csv
import dataclasses
import hashlib
import itertools
import json
import re
from typing import Any

from etils import epath
import jax
import ml_collections
import numpy as np

from flax_enn import annotations, build, kinds, run_folder
from flax_enn import config as config_lib
from flax_enn.config_files import load_config, load_module

Override = dict[str, Any]
Row = Mapping[str, Any]  # column -> value


def product(values: Mapping[str, Iterable[Any]]) -> list[Override]:
  """Every combination of the values of some fields."""
  return [_override(values, row) for row in itertools.product(*values.values())]


def zip_(values: Mapping[str, Sequence[Any]]) -> list[Override]:
  """The first values of all fields, the second ones, and so on.

  Raises:
    ValueError: one field has more values than another.
  """
  sizes = {field: len(column) for field, column in values.items()}
  if len(set(sizes.values())) > 1:
    raise ValueError(f'zip_ of fields with unequal numbers of values: {sizes}')
  return [_override(values, row) for row in zip(*values.values())]


def _override(fields: Iterable[str], row: Iterable[Any]) -> Override:
  # Configs hold Python's numbers, not those of np.arange.
  return {f: jax.tree.map(annotations.plain, v) for f, v in zip(fields, row)}


def name(override: Mapping[str, Any], fields: Iterable[str] = ()) -> str:
  """`prior_scale=0.5,seed=1`: what differs, as the name of a folder.

  A field goes by its last part, or by all of them where two would be the same.
  No two overrides have one name: where it would be longer than a file system's
  255 bytes, or not say the exact values ('a b' and 'a/b' are both `a-b` there),
  a digest of them ends it.

  Args:
    override: field -> value.
    fields: of all overrides of the sweep.
  """
  override = _override(override, override.values())
  last = collections.Counter(f.rpartition('.')[2] for f in {*fields, *override})
  parts, exact = [], True
  for field, value in override.items():
    short = field.rpartition('.')[2]
    text = value if isinstance(value, str) else str(value).replace(' ', '')
    parts.append(f'{field if last[short] > 1 else short}={text}')
    exact &= repr(_read(text)) == repr(value)
  wanted = ','.join(parts) or 'unchanged'
  found = re.sub(r'[^\w.:+=,(){}\[\]\'"-]', '-', wanted, flags=re.ASCII)
  if exact and found == wanted and len(found) <= 255:
    return found
  digest = hashlib.sha256(repr([*override.items()]).encode()).hexdigest()
  return f'{found[:242]},{digest[:12]}'


def _read(text: str) -> Any:
  """The value that a text in a name stands for; None where that is unclear."""
  try:
    return ast.literal_eval(text)
  except (ValueError, SyntaxError, MemoryError, RecursionError):
    return text if re.fullmatch(r'[\w.:+-]*', text, re.ASCII) else None


def apply(
    config: ml_collections.ConfigDict, override: Mapping[str, Any]
) -> ml_collections.ConfigDict:
  """A copy of a config with other values.

  Raises:
    ValueError: a field that the config does not have, or a value of another
      type.
  """
  changed = config.copy_and_resolve_references()
  for field, value in override.items():
    path, section = 'config', changed
    for part in field.split('.'):
      known = section if isinstance(section, ml_collections.ConfigDict) else {}
      build.check_names([part], known, path, 'this config')
      path, section = f'{path}.{part}', known[part]
    try:
      changed.update_from_flattened_dict({field: value})
    except (TypeError, ValueError) as e:
      raise ValueError(
          f'sweep() sets {path} to {value!r}, but its value is {section!r}, a'
          f' {type(section).__name__}: {e}'
      ) from e
  return changed


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
  overrides = [_override(o, o.values()) for o in overrides]
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


def read_rows(runs: Iterable[Run]) -> list[Row]:
  """A row for each finished run: what was swept, and its results.

  A metric of the run's own evaluation is in the column `enn_METRIC` or
  `base_METRIC`, that of another one in `NAME_enn_METRIC`.
  """
  rows: list[Row] = []
  for run in runs:
    results = run.results
    if results is None:
      continue
    own = 'validation' if run.config.dataset.get('holdout') else 'test'
    row: Override = {**run.override, 'step': results.pop('step'), 'split': own}
    for evaluation, models in results.items():
      prefix = '' if evaluation == own else f'{evaluation}_'
      for model, metrics in models.items():
        row |= {f'{prefix}{model}_{k}': value for k, value in metrics.items()}
    rows.append(row)
  return rows


def write_table(rows: Sequence[Row], path: epath.PathLike) -> None:
  """Writes all rows as comma-separated values."""
  fields = list(dict.fromkeys(field for row in rows for field in row))
  with epath.Path(path).open('w') as file:
    table = csv.DictWriter(file, fields, lineterminator='\n')
    table.writeheader()
    table.writerows(rows)


def plot(
    rows: Sequence[Row],
    swept: Sequence[str],
    metric: str,
    path: epath.PathLike,
) -> None:
  """Draws the ENN's metric, and the base's where there is one, as `path`.

  The first swept field of numbers but the seed is the axis, each combination of
  the others a line; over seeds there are a mean and its standard error.

  Args:
    rows: of `read_rows`.
    swept: the fields.
    metric: METRIC, or NAME.METRIC of an evaluation that is not the run's own.
    path: of the picture.

  Raises:
    ValueError: the results have no such metric.
  """
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  evaluation, _, short = metric.rpartition('.')
  prefix = f'{evaluation}_' if evaluation else ''
  if not any(f'{prefix}enn_{short}' in row for row in rows):
    matches = (re.match('(.*_)?enn_(.*)', k) for row in rows for k in row)
    known = {f'{(m[1] or "")[:-1]}.{m[2]}'.lstrip('.') for m in matches if m}
    raise ValueError(f'metric {metric}: the results have {sorted(known)}')
  numbers = [f for f in swept if all(_is_number(row.get(f)) for row in rows)]
  axis = next((f for f in numbers if f != 'seed'), (numbers or ['run'])[0])
  others = [f for f in swept if f not in (axis, 'seed')]
  figure = Figure(figsize=(6.4, 4.2), layout='constrained')
  FigureCanvasAgg(figure)
  ax = figure.subplots()
  for model, style in (('enn', '-'), ('base', ':')):
    lines: dict[str, dict[float, list[float]]] = {}
    for i, row in enumerate(rows):
      if (value := row.get(f'{prefix}{model}_{short}')) is None:
        continue
      label = ', '.join([model, *(f'{f}={row.get(f)}' for f in others)])
      at = lines.setdefault(label, {})
      at.setdefault(float(row.get(axis, i)), []).append(value)
    for label, points in sorted(lines.items()):
      x = sorted(points)
      means = [np.mean(points[at]) for at in x]
      errors = [_standard_error(points[at]) for at in x]
      ax.errorbar(x, means, errors, label=label, fmt=f'o{style}', capsize=3)
  places = sorted({float(row.get(axis, i)) for i, row in enumerate(rows)})
  if places[0] > 0 and places[-1] / places[0] > 10:
    ax.set_xscale('log')
  ax.set(xlabel=axis, ylabel=metric)
  ax.spines[['top', 'right']].set_visible(False)
  ax.legend(frameon=False)
  with epath.Path(path).open('wb') as file:
    figure.savefig(file, dpi=120)


def _is_number(value: Any) -> bool:
  return isinstance(value, (int, float)) and not isinstance(value, bool)


def _standard_error(values: Sequence[float]) -> float:
  if len(values) < 2:
    return 0.0
  return float(np.std(values, ddof=1) / np.sqrt(len(values)))
