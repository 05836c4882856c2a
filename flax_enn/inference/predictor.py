"""Marginal, joint and conditional predictions of a trained network."""

import dataclasses
from typing import Any, Self

from etils import epath
import jax
from jax.sharding import Mesh

from flax_enn import sharding
from flax_enn.core import Index, Variables
from flax_enn.inference import checked_input, functions, images, stored
from flax_enn.inference.evidence import Evidence
from flax_enn.inference.functions import Functions
from flax_enn.inference.information import gain
from flax_enn.inference.programs import Programs
from flax_enn.model import Model


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Predictor:
  """A trained network with a fixed set of weighted indices.

  The indices are the same for every call, so that one index is one function of
  all inputs: predictions of any call can be combined with those of another.
  Inputs are `[B, ...]` pytrees as the network takes them (see `preprocess`),
  numpy or jax, the same on every process; results are of the same kind. Few
  sizes of B are compiled, each at its first use (see `Programs.pieces`). Memory
  does not grow with N, but for the results of `logits` and `sample`.

  Attributes:
    programs: of the model, for a mesh; what `condition` makes shares them.
    variables: of the network.
    indices: `[N, ...]` epistemic indices.
    log_weights: `[N]` of the indices.
    evidence: what they were conditioned on.
  """

  programs: Programs
  variables: Variables
  indices: Index
  log_weights: jax.Array
  evidence: Evidence

  def __repr__(self) -> str:
    network = type(self.model.network).__name__
    about = f'{self.model.likelihood}, {self.model.input_spec}'
    return f'Predictor({network}, {about}, {self.num_indices} indices)'

  @classmethod
  def create(
      cls,
      model: Model,
      variables: Variables,
      indices: Index,
      log_weights: Any = None,
      *,
      mesh: Mesh | None = None,
      rules: sharding.Rules = sharding.DEFAULT_RULES,
      chunk: int | None = None,
  ) -> Self:
    """Makes a predictor of a model in memory.

    Args:
      model: network, likelihood (with its temperature), inputs, preprocessing.
      variables: of the network.
      indices: `[N, ...]`, from `model.network.indexer.sample`.
      log_weights: `[N]` of the indices; equal ones by default.
      mesh: of devices; all there are, along the batch, by default.
      rules: what lies on which axis of the mesh.
      chunk: indices that are mapped over at once; None bounds their memory.
    """
    mesh = mesh or sharding.create_mesh({'data': -1})
    programs = Programs(model, mesh, rules, Functions(model, chunk))
    weights = programs.put(checked_input.weights(log_weights, len(indices)))
    evidence = Evidence(indices, weights)
    return cls(programs, variables, indices, weights, evidence)

  @classmethod
  def load(
      cls,
      run_or_bundle: epath.PathLike,
      step: int | str = 'best',
      mesh: Mesh | None = None,
      num_indices: int | None = None,
      seed: int | None = None,
      allow_imports: bool = False,
  ) -> Self:
    """Loads what a run has trained, or a bundle that was exported.

    Reads the config and the network's variables, whose fingerprints are
    checked; neither data nor optimizer, and imports no TensorFlow.

    Args:
      run_or_bundle: folder of a run or bundle, local or in a bucket.
      step: a number, `'latest'` or `'best'`, which is the latest where nothing
        was scored. A bundle has one step.
      mesh: from `sharding.create_mesh`; all devices along the batch by default.
      num_indices: N; None takes that of the run's own evaluation or bundle.
      seed: that the indices are drawn from; None takes theirs.
      allow_imports: whether a config may name classes outside of flax_enn,
        `'package.module:Class'`, which imports, and so runs, their code.

    Raises:
      ValueError: there is no run, checkpoint or step, or one that does not fit.
      DamagedCheckpointError: it is not what was saved.
      StorageError: it cannot be read now.
    """
    mesh = mesh or sharding.create_mesh({'data': -1})
    found = stored.load(
        run_or_bundle, step, mesh, num_indices, seed, allow_imports
    )
    parts = found.model, found.variables, found.indices, found.log_weights
    return cls.create(*parts, mesh=mesh, rules=found.rules)

  @property
  def model(self) -> Model:
    """Network, likelihood, inputs and preprocessing."""
    return self.programs.model

  @property
  def num_indices(self) -> int:
    """N."""
    return len(self.indices)

  @property
  def effective_sample_size(self) -> float:
    """How many equally weighted indices would average as well, 1 to N."""
    return float(functions.effective_sample_size(self.log_weights))

  def logits(self, x: Any, indices: Index | None = None) -> Any:
    """`[N, B, C]` outputs of the network, not divided by the temperature.

    Args:
      x: `[B, ...]` inputs.
      indices: `[n, ...]` to use; the predictor's own by default.
    """
    indices = self.indices if indices is None else indices
    checked_input.check_indices(indices, self.indices)
    args = (self.variables, indices), checked_input.inputs(self.model, x)
    found = self.programs.run_pieces(Functions.logits, *args, axis=1)
    return checked_input.as_given(found, x)

  def sample(self, x: Any, key: jax.Array, n: int) -> Any:
    """`[n, B, C]` outputs at n of the indices, drawn by their weights.

    Args:
      x: `[B, ...]` inputs.
      key: to draw with.
      n: how many functions of all inputs, as Thompson sampling asks for.
    """
    weighted = self.indices, self.log_weights
    drawn = self.programs.run(Functions.draw, key, *weighted, n=n)
    return self.logits(x, drawn)

  def summary(self, x: Any) -> dict[str, Any]:
    """All of `probs` (or `mean` and `std`) and `uncertainty`, in one pass."""
    args = self.variables, self.indices, self.log_weights
    arrays = checked_input.inputs(self.model, x)
    found = self.programs.run_pieces(Functions.summary, args, arrays)
    return checked_input.as_given(found, x)

  def probs(self, x: Any) -> Any:
    """`[B, C]` probabilities of the classes, averaged over the indices."""
    checked_input.need_classes(self.model, True, 'probs')
    return self.summary(x)['probs']

  def mean_and_std(self, x: Any) -> tuple[Any, Any]:
    """Mean and standard deviation `[B, dim]` of y, noise included."""
    checked_input.need_classes(self.model, False, 'mean_and_std')
    found = self.summary(x)
    return found['mean'], found['std']

  def uncertainty(self, x: Any) -> dict[str, Any]:
    """How uncertain each prediction is, and of which kind.

    `total` is the sum of `aleatoric` (noise: it stays, however much is learned)
    and `epistemic` (the indices disagree: labels would resolve it): entropies
    `[B]` in nats, beside the other scores of `Functions.summary`, or variances
    `[B, dim]` of a regression.
    """
    known = Functions.PREDICTION
    return {k: v for k, v in self.summary(x).items() if k not in known}

  def log_joint(self, x: Any, y: Any) -> float:
    """`log E_z prod_b p(y_b | x_b, z)`, in nats, of all labels at once.

    Args:
      x: `[B, ...]` inputs.
      y: `[B]` labels, or `[B, dim]` targets.
    """
    examples = checked_input.examples(self.model, x, y)
    args = self.variables, self.indices
    total = self.programs.sum_pieces(Functions.log_likelihood, args, examples)
    return float(functions.log_mean(self.log_weights, total))

  def condition(self, x: Any, y: Any, *, refine: bool = True) -> Self:
    """The predictor that has seen these examples too, by Bayes' rule.

    Each index is weighted by how well it predicts them; nothing is trained.
    Where less than a tenth of them would still count (`effective_sample_size`),
    those of a Gaussian law are drawn anew (see `posterior.sample`), from a
    fixed seed; members of an ensemble are only weighted. The result does not
    depend on the order or pieces of the evidence.

    Args:
      x: `[B, ...]` inputs.
      y: `[B]` labels, or `[B, dim]` targets.
      refine: False keeps the indices, and warns where few of them count.

    Raises:
      ValueError: no index gives these examples a probability above zero.
    """
    x, y = checked_input.examples(self.model, x, y)
    evidence = self.evidence.extended(self.programs, self.variables, x, y)
    indices, weights = evidence.posterior(self.programs, self.variables, refine)
    return dataclasses.replace(
        self, indices=indices, log_weights=weights, evidence=evidence
    )

  def information_gain(
      self, candidates: Any, targets: Any, **options: Any
  ) -> Any:
    """`[M]` mutual information of each candidate's label and the targets'.

    How much, in nats, the label of a candidate is expected to tell about the
    joint labels of all targets: which label would change my mind.

    Args:
      candidates: `[M, ...]` inputs.
      targets: `[T, ...]` inputs.
      **options: of `information.gain`, such as `pairwise=True` (EPIG).
    """
    checked_input.need_classes(self.model, True, 'information_gain')
    belief = self.variables, self.indices, self.log_weights
    given = [checked_input.inputs(self.model, x) for x in (candidates, targets)]
    found = gain(self.programs, belief, *given, **options)
    return checked_input.as_given(found, candidates)

  def preprocess(self, image: Any) -> Any:
    """One input as the network takes it, by the checkpoint's preprocessing.

    Args:
      image: path of an image, a PIL image, or `[H, W]` or `[H, W, channels]`
        uint8; where inputs are not images, one x (a text …) as it is stored.

    Raises:
      ValueError: it is not an image, or of a size that the network cannot take.
    """
    return images.preprocess(self.model, image)
