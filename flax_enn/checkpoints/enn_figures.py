"""What enn's own notebook printed, to compare an import with.

`enn/colabs/epinet_demo.ipynb` at 303504b9, 8849dabe and fc859850, before its
outputs were stripped: 100 test images of ImageNet (`processed_batch.npzs`), 100
indices of key 0, joint log-loss of tau 10 labels of kappa 2 images, as sampled
by `enn/metrics/joint.py` and not divided by tau.
"""

from collections.abc import Mapping

from etils import epath
import jax
from jax.nn import logsumexp
import jax.numpy as jnp
import numpy as np

from flax_enn import sharding
from flax_enn.checkpoints import catalogue, haiku_pickle, layout
from flax_enn.checkpoints.partial_read import read_variables
from flax_enn.metrics import polyadic_nll
from flax_enn.model import Model
from flax_enn.sampling import over_index

Row = dict[str, float]

_BASE = 'base, logits / 0.8'
# Name of an entry -> what its logits are -> metrics.
FIGURES: dict[str, dict[str, Row]] = {
    'resnet50_imagenet': {
        _BASE: {'accuracy': 0.84, 'nll': 0.7878, 'joint_nll': 8.0236},
    },
    'resnet50_epinet_imagenet': {
        _BASE: {'accuracy': 0.84, 'nll': 0.7878, 'joint_nll': 8.0236},
        'epinet': {'accuracy': 0.84, 'nll': 0.8165, 'joint_nll': 4.8734},
        'epinet, logits / 0.7': {
            'accuracy': 0.84, 'nll': 0.7758, 'joint_nll': 4.1280,
        },
    },
}  # fmt: skip

# A GPU rounds otherwise, and one image of a hundred may change sides by it.
_RELATIVE, _ACCURACY = 0.02, 0.015


def compare(
    folder: epath.PathLike, path: epath.PathLike, num_indices: int = 100
) -> dict[str, Row]:
  """Scores an import as enn's notebook does.

  Args:
    folder: of the import.
    path: a file with `images` and `labels`, as enn's `processed_batch.npzs`.
    num_indices: N; enn's figures are those of 100.

  Returns:
    What the logits are divided by -> metrics.

  Raises:
    ValueError: the folder or the file is of another kind.
    DamagedCheckpointError, StorageError: the checkpoint cannot be read.
  """
  folder = epath.Path(folder).expanduser()
  of = catalogue.read_card(folder)['temperatures']
  model = Model.from_run(folder)
  x, y = _batch(model, path)
  mesh = sharding.create_mesh({}, jax.local_devices()[:1])
  with sharding.use_mesh(mesh, sharding.DEFAULT_RULES):
    abstract = model.abstract_variables(mesh, sharding.DEFAULT_RULES)
    variables = read_variables(
        layout.checkpoint_dir(folder) / str(layout.steps(folder)[-1]), abstract
    )
    indices = _indices(model, num_indices)
    out = jax.jit(
        lambda v, x, z: over_index(lambda one: model.apply(v, x, one), z)
    )(variables, x, indices)
  rows = {f'base, logits / {of["base"]}': _score(out.base[:1] / of['base'], y)}
  if model.network.indexer.size is None:
    rows['epinet'] = _score(out.preds, y)
    tempered = _score(out.preds / of['epinet'], y)
    rows[f'epinet, logits / {of["epinet"]}'] = tempered
  return rows


def differences(
    rows: Mapping[str, Row], figures: Mapping[str, Row]
) -> list[str]:
  """Says in words where what was found is not what enn printed."""
  wrong = []
  for name, figure in figures.items():
    for metric, value in figure.items():
      found = rows.get(name, {}).get(metric, float('nan'))
      most = _ACCURACY if metric == 'accuracy' else _RELATIVE * value
      if not abs(found - value) <= most:
        wrong.append(f'{name}: {metric} is {found:.4f}, enn has {value:.4f}')
  return wrong


def table(rows: Mapping[str, Row]) -> str:
  """Metrics in columns, as Markdown."""
  metrics = [*next(iter(rows.values()))]
  lines = [['', *metrics], ['---'] * (1 + len(metrics))]
  for name, row in rows.items():
    lines.append([name, *(f'{row[m]:.4f}' for m in metrics)])
  return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def _batch(model: Model, path: epath.PathLike) -> tuple[jax.Array, jax.Array]:
  """Images `[B, H, W, 3]` and labels `[B]`."""
  found, _ = haiku_pickle.read(path)
  x, y = found.get('images'), found.get('labels')
  shape, classes = model.input_spec.shape, model.likelihood.outputs
  arrays = isinstance(x, np.ndarray) and isinstance(y, np.ndarray)
  if not arrays or x.shape[1:] != shape or y.shape != x.shape[:1]:
    raise ValueError(
        f'{path} holds {sorted(found)}; expected images [B, *{list(shape)}] and'
        ' labels [B], as processed_batch.npzs of enn has them'
    )
  if y.dtype.kind not in 'iu' or y.min() < 0 or y.max() >= classes:
    raise ValueError(f'{path}: labels are not integers below {classes}')
  return jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.int32)


def _indices(model: Model, n: int) -> jax.Array:
  """`[N, D]` as enn draws them from key 0, and JAX then did."""
  indexer = model.network.indexer
  if indexer.size:
    return indexer.sample(jax.random.key(0), 1)
  shape = jax.eval_shape(lambda: indexer.sample(jax.random.key(0), n)).shape
  with jax.threefry_partitionable(False):
    key = jax.random.key(0, impl='threefry2x32')

    def draw(key: jax.Array) -> jax.Array:
      return jax.random.normal(key, shape[1:], np.float32)

    return jax.vmap(draw)(jax.random.split(key, n))


def _score(logits: jax.Array, y: jax.Array) -> Row:
  """Metrics of `[N, B, C]` logits."""
  log_probs = jax.nn.log_softmax(logits)
  marginal = logsumexp(log_probs, 0) - np.log(len(logits))
  of_label = jnp.take_along_axis(log_probs, y[None, :, None], -1)[..., 0]
  with jax.threefry_partitionable(False):
    joint = polyadic_nll(of_label, y, tau=10, kappa=2)
  return {
      'accuracy': float((marginal.argmax(-1) == y).mean()),
      'nll': -float(jnp.take_along_axis(marginal, y[:, None], -1).mean()),
      'joint_nll': float(joint),
  }
