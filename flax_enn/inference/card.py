"""What a bundle says about itself: `card.json` for programs, README.md."""

from collections.abc import Iterable, Mapping
import datetime
from importlib import metadata
import json
import platform
import string
import sys
from typing import Any

from etils import epath
import jax
from jax import export

from flax_enn import build, run_folder
from flax_enn.checkpoints import catalogue, layout
from flax_enn.inference import bundle
from flax_enn.inference.stored import Stored
from flax_enn.model import Model

_PACKAGES = ('flax', 'jax', 'jaxlib', 'numpy', 'safetensors')


def create(
    folder: epath.Path,
    found: Stored,
    seed: int | None,
    exported: Mapping[str, export.Exported],
    files: Mapping[str, bytes],
) -> dict[str, Any]:
  """The content of `card.json`.

  Args:
    folder: of the run or bundle that is exported.
    found: what was read there.
    seed: of the indices; None for that of the run's evaluation, or of the
      bundle.
    exported: from `stablehlo.export_functions`.
    files: content of the others by name.
  """
  config = run_folder.read_json(folder / 'config.json')
  if bundle.is_bundle(folder):
    old = bundle.read_card(folder)
    metrics, source = old.get('metrics', {}), old.get('imported')
    seed = old['seed'] if seed is None else seed
  else:
    metrics, source = _metrics(folder, found.step), None
    if (folder / run_folder.IMPORT).exists():
      source = catalogue.read_card(folder)
  first = next(iter(exported.values()))
  return {
      'format': bundle.FORMAT,
      'created': datetime.date.today().isoformat(),
      'network': config['network']['name'],
      'likelihood': build.describe(found.model.likelihood),
      'data': config['dataset'],
      'step': found.step,
      'num_indices': len(found.indices),
      'seed': seed,
      'metrics': metrics,
      **({'imported': source} if source else {}),
      'versions': {
          'python': platform.python_version(),
          'flax_enn': sys.modules['flax_enn'].__version__,
          **{name: metadata.version(name) for name in _PACKAGES},
      },
      'stablehlo': {
          'calling_convention': first.calling_convention_version,
          'platforms': list(first.platforms),
          'functions': {k: _signature(e) for k, e in exported.items()},
      },
      'files': {k: bundle.digest(v) for k, v in sorted(files.items())},
  }


def _metrics(folder: epath.Path, step: int) -> dict[str, Any]:
  """Evaluation -> who (`enn`, `base`) -> metric -> value, of a checkpoint."""
  path = folder / 'results.json'
  if path.exists():
    results = run_folder.read_json(path)
    if results.pop('step', None) == step:
      return results
  scores = layout.scores(folder)
  return {'scores': {'enn': scores[step]['metrics']}} if step in scores else {}


def _signature(exported: export.Exported) -> dict[str, Any]:
  """Shapes of what a function takes beside the files, and of its results."""

  def shown(tree: Any, avals: Any) -> Any:
    texts = [f'{a.dtype}[{", ".join(map(str, a.shape))}]' for a in avals]
    return jax.tree.unflatten(tree, texts)

  (_, _, *inputs), _ = shown(exported.in_tree, exported.in_avals)
  return {
      'inputs': dict(zip(('x', 'y'), inputs)),
      'results': shown(exported.out_tree, exported.out_avals),
  }


def readme(name: str, card: Mapping[str, Any], model: Model) -> str:
  """The content of `README.md` of a bundle of this name."""
  stablehlo = card['stablehlo']
  functions = stablehlo['functions']
  rows = [['function', 'of weights, indices and', 'results'], ['---'] * 3]
  for function, of in functions.items():
    inputs = ', '.join(of['inputs'])
    rows.append([f'`{function}`', inputs, _results(of['results'])])
  texts = {k: str(v) for k, v in card.items() if not isinstance(v, Mapping)}
  return _README.substitute(
      texts,
      name=name,
      data=json.dumps(card['data'], sort_keys=True),
      metrics=_metric_tables(card['metrics']),
      functions=_table(rows),
      names=tuple(functions),
      main='probs' if 'probs' in functions else 'mean_and_std',
      x=_zeros(model.input_spec),
      y=_zeros(model.likelihood.target),
      platforms=', '.join(stablehlo['platforms']),
      calling_convention=stablehlo['calling_convention'],
      jax=card['versions']['jax'],
      versions='\n'.join(f'{k} {v}' for k, v in card['versions'].items()),
      files='\n'.join(f'{v}  {k}' for k, v in card['files'].items()),
  )


def _metric_tables(metrics: Mapping[str, Any]) -> str:
  """A table of each evaluation."""
  tables = []
  for name, values in metrics.items():
    columns = sorted({metric for row in values.values() for metric in row})
    rows = [[name, *columns], ['---'] * (1 + len(columns))]
    for who, row in values.items():
      cells = (row.get(c) for c in columns)
      rows.append([who, *('' if v is None else f'{v:.4f}' for v in cells)])
    tables.append(_table(rows))
  return '\n\n'.join(tables) or 'It was not.'


def _results(found: Any) -> str:
  if isinstance(found, Mapping):
    return ', '.join(f'{k} `{v}`' for k, v in found.items())
  return ', '.join(f'`{v}`' for v in jax.tree.leaves(found))


def _table(rows: Iterable[list[str]]) -> str:
  return '\n'.join(f'| {" | ".join(row)} |' for row in rows)


def _zeros(spec: Any) -> str:
  """Python that makes inputs of seven rows."""
  if isinstance(spec, Mapping):
    return f'{{{", ".join(f"{k!r}: {_zeros(v)}" for k, v in spec.items())}}}'
  if isinstance(spec, (list, tuple)):
    return f'({"".join(f"{_zeros(v)}, " for v in spec)})'
  return f'np.zeros({(7, *spec.shape)}, np.{spec.dtype})'


_README = string.Template("""\
# $name

A network trained by flax_enn (`$network`, step $step), with $num_indices
epistemic indices: as many functions, whose disagreement is what it does not
know. How it was trained is in `config.json`; its data were

    $data

As the run was evaluated:

$metrics

## In Python, with flax_enn

```py
from flax_enn.inference import Predictor

predictor = Predictor.load('.')
predictor.preprocess('image.png')  # and probs, uncertainty, condition …
```

## With jax alone

`pip install jax safetensors flatbuffers`; the last is what jax.export reads
with.

```python
import jax
from jax import export
import numpy as np
from safetensors.numpy import load_file

weights = jax.device_put(load_file('model.safetensors'))
indices = jax.device_put(load_file('indices.safetensors'))
functions = {}
for name in $names:
  with open(name + '.stablehlo', 'rb') as file:
    exported = export.deserialize(bytearray(file.read()))
  functions[name] = jax.jit(exported.call)

x = $x  # any number of rows
y = $y
print(functions['$main'](weights, indices, x))
print(functions['log_joint'](weights, indices, x, y))
```

$functions

`B` is any number of rows. Each is compiled when it first comes, so pad to a few
sizes; memory grows with B. x is what the preprocessing in `preprocessor.json`
makes. Logits are not divided by the temperature; all else is.

## How long it lasts

The StableHLO was exported on $created by jax $jax for $platforms
(calling convention $calling_convention). By its guarantee, jax reads it for six
months from then: it is for deployment. The archive is `config.json`,
`model.json` and the two safetensors files, from which flax_enn makes it again:

```bash
python -m flax_enn.export --workdir=. --out=../$name-again
```

SHA-256 of the files, and the versions that wrote them:

```text
$files

$versions
```
""")
