"""Warm start: modules of a new run take their variables from another run.

  config.init = dict(
      workdir='../digits_base',     # relative to this run's own workdir
      step='latest',                # or 'best', or a number
      modules={'base': 'base'},     # module here -> module there
  )

A module's variables lie in `params/MODULE`, `batch_stats/MODULE` … or, where it
is wrapped in `Frozen`, in `frozen/MODULE/params`, `frozen/MODULE/batch_stats` …
Either side may have either form: usually a trained base becomes a frozen one.
With `file` in place of `workdir`, it is a file of another library: `foreign`.
"""

from collections.abc import Mapping
from typing import Any

from absl import logging
from etils import epath
import jax
import numpy as np

from flax_enn import build
from flax_enn.checkpoints import errors, foreign, layout, source_run
from flax_enn.checkpoints.partial_read import read_arrays

_FIELDS = {
    'workdir': {'workdir', 'step', 'modules'},
    'file': {'file', 'modules', 'sha256'},
}


def check_init(
    init: Mapping[str, Any] | None, workdir: epath.PathLike, state: Any = None
) -> None:
  """Checks `config.init` before anything is compiled.

  Args:
    init: `config.init`; None or empty for a run that starts from scratch.
    workdir: this run's own folder.
    state: the train state, its abstract values are enough. Without it only
      the source is checked, not whether it fits.

  Raises:
    ValueError: there is no such run, checkpoint or module, or what is there
      does not fit the state.
    DamagedCheckpointError: the source is damaged.
    StorageError: the source cannot be read now.
  """
  if not init:
    return
  if _check_fields(init) == 'file':
    found = foreign.variables(init, workdir)
    if state is not None:
      _match_foreign(init, found, _targets(state))
    return
  path = source_run.checkpoint(init, workdir)
  saved = _saved(path)
  if state is not None:
    _match(init, path, saved, _targets(state))
  else:
    for module in init['modules'].values():
      _module(saved, module, path)


def warm_start(
    state: Any, init: Mapping[str, Any] | None, workdir: epath.PathLike
) -> Any:
  """Puts variables of another run into a fresh train state.

  Reads only the modules that are named, whatever mesh they were saved from.
  The optimizer's state stays as it is.

  Args:
    state: a train state of global arrays; what is read goes where they lie.
    init: `config.init`; None or empty returns the state as it is.
    workdir: this run's own folder.

  Returns:
    The state with the named modules replaced.

  Raises:
    ValueError, DamagedCheckpointError, StorageError: as `check_init`.
  """
  if not init:
    return state
  variables, source = _targets(state), _check_fields(init)
  if source == 'file':
    found = foreign.variables(init, workdir)
    for target, value in _match_foreign(init, found, variables).items():
      variables[target] = foreign.place(value, variables[target])
  else:
    path = source_run.checkpoint(init, workdir)
    # One read per module: two from the same one must not share arrays.
    for pairs in _match(init, path, _saved(path), variables):
      variables |= _read(path, pairs, variables)
  logging.info('Warm start of %s from %s', [*init['modules']], init[source])
  placed = jax.tree_util.tree_map_with_path(
      lambda p, _: variables[layout.path_name(p)], _variables(state)
  )
  return state.replace(**placed)


def _read(
    path: epath.Path, pairs: Mapping[str, str], targets: Mapping[str, jax.Array]
) -> dict[str, jax.Array]:
  """Reads the source of each target, to where that target lies."""
  arrays = read_arrays(
      path,
      {
          source: jax.ShapeDtypeStruct(
              targets[target].shape,
              targets[target].dtype,
              sharding=targets[target].sharding,
          )
          for target, source in pairs.items()
      },
  )
  return {target: arrays[source] for target, source in pairs.items()}


def _check_fields(init: Mapping[str, Any]) -> str:
  """Whether `config.init` names a `workdir` or a `file`."""
  source = 'file' if 'file' in init else 'workdir'
  known = _FIELDS[source]
  if unknown := set(init) - known:
    raise ValueError(
        f'there is no field {sorted(unknown)}; known: {sorted(known)}'
    )
  if missing := {source, 'modules'} - set(init):
    raise ValueError(f'it needs the fields {sorted(missing)}')
  if not init['modules']:
    raise ValueError(
        "modules is empty; expected {'module here': 'module there'}"
    )
  return source


def _match_foreign(
    init: Mapping[str, Any],
    found: Mapping[str, Mapping[str, np.ndarray]],
    targets: Mapping[str, Any],
) -> dict[str, np.ndarray]:
  """Path in this run's state -> its value, checked to fit."""
  values = {}
  for module, arrays in found.items():
    here = _module(targets, module, 'the network of this run')
    specs = {
        name: layout.to_stored_spec(targets[full])
        for name, full in here.items()
    }
    with build.located(f'modules.{module}: {init["file"]}'):
      foreign.check_fit(arrays, specs)
    values |= {full: arrays[name] for name, full in here.items()}
  return values


def _saved(path: epath.Path) -> layout.Leaves:
  return errors.read(path, lambda: layout.tree_metadata(path))


def _variables(state: Any) -> dict[str, Any]:
  return {'params': state.params, 'collections': state.collections}


def _targets(state: Any) -> dict[str, Any]:
  return layout.flatten_with_names(_variables(state))


def _match(
    init: Mapping[str, Any],
    path: epath.Path,
    saved: layout.Leaves,
    targets: Mapping[str, Any],
) -> list[dict[str, str]]:
  """Pairs the arrays of this run with those of the source, and checks them.

  Returns:
    Of each module: path in this run's state -> path in the source's.
  """
  pairs = []
  for target, source in init['modules'].items():
    here = _module(targets, target, 'the network of this run')
    there = _module(saved, source, path)
    if wrong := layout.differences(
        {name: saved[full] for name, full in there.items()},
        {
            name: layout.to_stored_spec(targets[full])
            for name, full in here.items()
        },
    ):
      raise ValueError(
          f'modules.{target}: module {source!r} of {path} does not fit module'
          f' {target!r} of this network:{layout.format_list(wrong)}\n'
          'give both runs the same module, or change `workdir`'
      )
    pairs.append({full: there[name] for name, full in here.items()})
  return pairs


def _module(
    leaves: Mapping[str, Any], module: str, where: str | epath.Path
) -> dict[str, str]:
  """The variables of one module, as if it were a network of its own.

  Args:
    leaves: arrays by path, those of `_variables` and possibly others.
    module: name of the module, `a/b` for one within another.
    where: what has these leaves, for the error.

  Returns:
    Path as in `module.init` (`params/Dense_0/kernel`) -> path in `leaves`.
  """
  frozen = f'collections/frozen/{module}/'
  # Within `Frozen` the collections lie below the module, else above it.
  wrapped = any(path.startswith(f'{frozen}params/') for path in leaves)
  found, known = {}, set()
  for path in leaves:
    root, _, inner = path.partition('/')
    if root not in ('params', 'collections'):
      continue
    collection, _, rest = (
        ('params', '', inner) if root == 'params' else inner.partition('/')
    )
    known.add(rest.partition('/')[0])
    if wrapped and path.startswith(frozen):
      found[path.removeprefix(frozen)] = path
    elif rest.startswith(f'{module}/'):
      found[f'{collection}/{rest.removeprefix(f"{module}/")}'] = path
  if not found:
    raise ValueError(
        f'modules names {module!r}, but {where} has no such module;'
        f' it has {sorted(known)}'
    )
  return found
