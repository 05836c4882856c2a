"""What a predictor is made from, read from the folder of a run or a bundle."""

from collections.abc import Mapping
import re
from typing import Any, NamedTuple

from etils import epath
import jax
from jax.sharding import Mesh
import ml_collections
import numpy as np

from flax_enn import run_folder, sharding
from flax_enn.checkpoints import layout
from flax_enn.checkpoints.partial_read import read_variables
from flax_enn.checkpoints.source_run import choose_step
from flax_enn.core import Index, Variables
from flax_enn.inference import bundle
from flax_enn.model import Model, num_eval_indices, run_keys

_OUTSIDE = re.compile(r'(?!flax_enn[.:]).*:', re.DOTALL)


class Stored(NamedTuple):
  """A trained model with its indices.

  Attributes:
    model: network, likelihood, inputs, preprocessing.
    variables: of the network.
    indices: `[N, ...]`.
    log_weights: `[N]`, or None for equal ones.
    rules: what lies on which axis of a mesh.
    step: that was trained to.
  """

  model: Model
  variables: Variables
  indices: Index
  log_weights: np.ndarray | None
  rules: sharding.Rules
  step: int


def load(
    folder: epath.PathLike,
    step: int | str,
    mesh: Mesh,
    num_indices: int | None,
    seed: int | None,
    allow_imports: bool,
) -> Stored:
  """Reads a run or a bundle; see `Predictor.load`."""
  folder = epath.Path(folder).expanduser()
  if not folder.exists():
    raise ValueError(
        f'{folder} does not exist; expected the folder of a run or bundle'
    )
  card = bundle.read_card(folder) if bundle.is_bundle(folder) else None
  config = ml_collections.ConfigDict(
      run_folder.read_json(folder / 'config.json')
  )
  if not allow_imports:
    check_no_imports(config.to_dict(), 'config')
    check_no_imports(run_folder.read_json(folder / 'model.json'), 'model.json')
  try:
    model = Model.from_run(folder)
    rules = sharding.create_rules(config.sharding)
    keys, n = run_keys(config.seed), num_eval_indices(config, model)
  except (AttributeError, KeyError, TypeError) as e:
    raise ValueError(
        f'{folder} is not a run of this version of flax_enn: its config lacks'
        f' {e}'
    ) from e
  with sharding.use_mesh(mesh, rules):
    abstract = model.abstract_variables(mesh, rules)
    if card is None:
      steps = layout.steps(folder)
      if not steps:
        raise ValueError(
            f'{folder} has no checkpoint yet; train the run first, or give the'
            ' folder of another'
        )
      number = choose_step(folder, steps, step, latest_if_unscored=True)
      path = layout.checkpoint_dir(folder) / str(number)
      variables = read_variables(path, abstract)
    else:
      number = bundle.choose_step(folder, card, step)
      variables = bundle.read_variables(folder, card, abstract)
      if num_indices is None and seed is None:
        weighted = bundle.read_indices(folder, card, mesh)
        return Stored(model, variables, *weighted, rules, number)
      n = card['num_indices']
      seed = card['seed'] if seed is None else seed
    indices = draw(
        model,
        mesh,
        keys['evaluation'] if seed is None else jax.random.key(seed),
        n if num_indices is None else num_indices,
    )
  return Stored(model, variables, indices, None, rules, number)


def draw(model: Model, mesh: Mesh, key: jax.Array, n: int) -> Index:
  """N indices, the same on any mesh, replicated."""
  if n < 1:
    raise ValueError(f'num_indices is {n}; it must be at least 1')
  sample = jax.jit(
      model.network.indexer.sample,
      static_argnums=1,
      out_shardings=sharding.replicated(mesh),
  )
  return sample(key, n)


def check_no_imports(tree: Any, path: str) -> None:
  """Checks that a config names no class outside of flax_enn.

  Raises:
    ValueError: it does; loading it would import, and so run, other code.
  """
  if isinstance(tree, Mapping):
    name = tree.get('name')
    if isinstance(name, str) and _OUTSIDE.match(name):
      raise ValueError(
          f'{path}.name is {name!r}, a class outside of flax_enn: loading it'
          ' runs the code of that module. Where you trust it, load with'
          ' allow_imports=True (--allow_imports)'
      )
    for key, value in tree.items():
      check_no_imports(value, f'{path}.{key}')
  elif isinstance(tree, (list, tuple)):
    for i, value in enumerate(tree):
      check_no_imports(value, f'{path}[{i}]')
