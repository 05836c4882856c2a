"""A Gaussian posterior of a trained last layer, in closed form.

Daxberger et al., "Laplace Redux" (arXiv:2106.14806), with the curvature of the
last layer alone. The network is linear in it, so that the curvature is that of
the loss, and for a Gaussian likelihood the posterior is exact.
"""

from collections.abc import Callable, Sequence
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from flax_enn import sharding, step_batch
from flax_enn.core import Example, Index, Output, promote_to_float32
from flax_enn.field_checks import check_positive, check_share
from flax_enn.indexers import PrngIndexer
from flax_enn.networks.backbones.mlp import MLP
from flax_enn.networks.features import run_features
from flax_enn.networks.key_index import draw

# Sums over examples by name; and noise `[F, C]` -> a draw of the weights.
Sums = dict[str, jax.Array]
Draw = Callable[[jax.Array], jax.Array]


class Laplace(nn.Module):
  """`base(x) + dW(z)' (phi(x), 1)`, `dW ~ N(0, (H + prior_precision I)^-1)`.

  phi are the features that the base's own last layer reads, and H is the sum
  over the training examples of `(phi phi') ⊗ L`, times their weights, L the
  curvature of the loss in the outputs: `diag(p) - p p'` of classes with
  probabilities p (the fit is at temperature 1, whatever that of the likelihood
  is), or `I / noise_std^2`. Steps of training add it up in the collection
  `curvature`, at the output of the base, which is `base`, and scale it from the
  examples seen to those in the training split. So a run of one epoch on a
  frozen base is the fit; more epochs give the same H, and a part of one
  estimates it. (By `apply` alone, with `train=True`, H is what was added.)

  Use: uncertainty for a network that is trained already, without training.
  Cost: one more index is a draw of F·C weights and their product; no
    parameters, and the numbers of H in its form.
  Config: dict(name='laplace', features=('hidden_1',), base=dict(name='mlp',
    hiddens=(50, 50), frozen=True))
  Source: arXiv:2106.14806, section 3; low rank: Tropp et al.,
    arXiv:1706.05736.

  Attributes:
    base: a backbone, `(x, *, train) -> (logits [B, C], features)`, that is
      `Frozen` or starts from a trained one.
    features: names of the features that its last layer reads.
    form: of H: `full` (F·C by F·C numbers), `diagonal`, `kronecker` (two
      factors, F by F and C by C: exact for a Gaussian likelihood), or
      `low_rank` (exact where the rank of H is not larger).
    prior_precision: of each weight.
    noise_std: of the targets of a regression; None for classes.
    rank: of the form `low_rank`.
    decay: of what earlier batches have brought, and of their number; below 1
      where the base is still training.
  """

  base: nn.Module
  features: Sequence[str]
  form: str = 'kronecker'
  prior_precision: float = 1.0
  noise_std: float | None = None
  rank: int = 64
  decay: float = 1.0

  def __post_init__(self):
    super().__post_init__()
    noise = () if self.noise_std is None else ('noise_std',)
    rank = ('rank',) if self.form == 'low_rank' else ()
    check_positive(self, 'prior_precision', *noise, *rank)
    check_share(self, 'decay')
    if self.form not in _FORMS:
      raise ValueError(f'form is {self.form!r}; it is one of {sorted(_FORMS)}')

  @property
  def indexer(self) -> PrngIndexer:
    return PrngIndexer()

  @nn.compact
  def __call__(self, x: Any, index: Index, *, train: bool = False) -> Output:
    """Computes `[B, C]` at one index, a key `[]`."""
    logits, phi = run_features(
        self.base, x, self.features, 'Laplace', train=train
    )
    phi = promote_to_float32(phi)
    phi = jnp.pad(phi, ((0, 0), (0, 1)), constant_values=1)
    shape = (phi.shape[1], logits.shape[1])
    add, posterior = _FORMS[self.form]
    sketch = [self._sketch(*shape)] if self.form == 'low_rank' else []
    # The sums do not depend on the index: over every device, as the base.
    rows = step_batch.examples(len(phi), 'Laplace')
    spread = (phi, logits, rows.weight, rows.mask)
    features, outputs, weight, mask = jax.lax.stop_gradient(
        sharding.constrain(spread, 'base_batch')
    )
    found = add(features, self._curvature(outputs), weight, *sketch)
    found = {**found, 'seen': mask.sum()}
    sums = self.variable(
        'curvature', 'sums', jax.tree.map, jnp.zeros_like, found
    )
    total = self.variable('curvature', 'num_examples', jnp.zeros, ())
    if train:
      if not self.is_initializing():
        sums.value = jax.tree.map(
            lambda old, new: self.decay * old + new, sums.value, found
        )
        n = rows.num_examples
        seen = sums.value['seen']
        total.value = seen if n is None else jnp.asarray(n, seen.dtype)
      return Output(logits, base=logits)
    scale = total.value / jnp.maximum(sums.value['seen'], 1)
    whole = jax.tree.map(lambda each: scale * each, sums.value)
    weights = posterior(whole, self.prior_precision, *sketch)
    noise = draw(index, 0, lambda key: jax.random.normal(key, shape))
    return Output(logits + phi @ weights(noise), base=logits)

  def _curvature(self, logits: jax.Array) -> jax.Array:
    """Of the loss in the outputs, `[B, C, C]`."""
    eye = jnp.eye(logits.shape[1])
    if self.noise_std is not None:
      each = eye / self.noise_std**2
      return jnp.broadcast_to(each, (len(logits), *eye.shape))
    p = nn.softmax(logits)
    return p[:, :, None] * (eye - p[:, None])

  def _sketch(self, features: int, classes: int) -> jax.Array:
    """Orthonormal directions `[F, C, R]`, drawn once."""
    rank = min(self.rank, features * classes)

    def init() -> jax.Array:
      orthogonal = nn.initializers.orthogonal()
      key = self.make_rng('frozen')
      drawn = orthogonal(key, (features * classes, rank), jnp.float32)
      return drawn.reshape(features, classes, rank)

    return self.variable('frozen', 'sketch', init).value


def _add_full(
    phi: jax.Array, curvature: jax.Array, weight: jax.Array
) -> Sums:
  weighted = weight[:, None] * phi
  return {'full': jnp.einsum('bf,bcd,bg->fcgd', weighted, curvature, phi)}


def _draw_full(sums: Sums, precision: float) -> Draw:
  features, classes = sums['full'].shape[:2]
  size = features * classes
  matrix = sums['full'].reshape(size, size) + precision * jnp.eye(size)
  factor = jnp.linalg.cholesky(matrix)

  def weights(noise: jax.Array) -> jax.Array:
    found = jax.scipy.linalg.solve_triangular(
        factor, noise.reshape(-1), trans='T', lower=True
    )
    return found.reshape(noise.shape)

  return weights


def _add_diagonal(
    phi: jax.Array, curvature: jax.Array, weight: jax.Array
) -> Sums:
  each = weight[:, None] * jnp.diagonal(curvature, axis1=1, axis2=2)
  return {'diagonal': jnp.square(phi).T @ each}


def _draw_diagonal(sums: Sums, precision: float) -> Draw:
  scale = jax.lax.rsqrt(sums['diagonal'] + precision)
  return lambda noise: scale * noise


def _add_kronecker(
    phi: jax.Array, curvature: jax.Array, weight: jax.Array
) -> Sums:
  return {
      'features': (weight[:, None] * phi).T @ phi,
      'outputs': jnp.tensordot(weight, curvature, 1),
      'weight': weight.sum(),
  }


def _draw_kronecker(sums: Sums, precision: float) -> Draw:
  a, left = jnp.linalg.eigh(sums['features'])
  total = jnp.maximum(sums['weight'], jnp.finfo(a.dtype).tiny)
  g, right = jnp.linalg.eigh(sums['outputs'] / total)
  values = jnp.maximum(a, 0)[:, None] * jnp.maximum(g, 0)
  scale = jax.lax.rsqrt(values + precision)
  return lambda noise: left @ (scale * noise) @ right.T


def _add_low_rank(
    phi: jax.Array, curvature: jax.Array, weight: jax.Array, sketch: jax.Array
) -> Sums:
  projected = jnp.einsum('b,bf,fcr->bcr', weight, phi, sketch)
  return {'sketch': jnp.einsum('bf,bcd,bdr->fcr', phi, curvature, projected)}


def _draw_low_rank(sums: Sums, precision: float, sketch: jax.Array) -> Draw:
  size = sketch.shape[-1]
  omega, image = (a.reshape(-1, size) for a in (sketch, sums['sketch']))
  # Nyström: H is close to Y (O' Y)^-1 Y', shifted so that there is an inverse.
  tiny = jnp.finfo(image.dtype)
  shift = tiny.eps * jnp.linalg.norm(image) + tiny.tiny**0.5
  image += shift * omega
  core = omega.T @ image
  factor = jnp.linalg.cholesky((core + core.T) / 2)
  root = jax.scipy.linalg.solve_triangular(factor, image.T, lower=True).T
  vectors, values, _ = jnp.linalg.svd(root, full_matrices=False)
  values = jnp.maximum(jnp.square(values) - shift, 0)
  shrink = jax.lax.rsqrt(1 + values / precision) - 1

  def weights(noise: jax.Array) -> jax.Array:
    flat = noise.reshape(-1)
    flat += vectors @ (shrink * (flat @ vectors))
    return flat.reshape(noise.shape) / precision**0.5

  return weights


_FORMS: dict[str, tuple[Callable[..., Sums], Callable[..., Draw]]] = {
    'full': (_add_full, _draw_full),
    'diagonal': (_add_diagonal, _draw_diagonal),
    'kronecker': (_add_kronecker, _draw_kronecker),
    'low_rank': (_add_low_rank, _draw_low_rank),
}


def example() -> Example:
  """A tiny posterior of a last layer, for the tests of the laws."""
  net = Laplace(MLP(hiddens=(6,), classes=3), ('hidden_0',), decay=0.9)
  x = jax.random.normal(jax.random.key(0), (8, 4))
  return Example(net, x, index_free=('base',))
