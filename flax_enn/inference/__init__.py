"""From a checkpoint to decisions: predictions that say what is not known."""

from flax_enn.inference.export import export_bundle
from flax_enn.inference.predictor import Predictor

__all__ = ['Predictor', 'export_bundle']
