"""Data sets by name, and streams of `Batch`es from them."""

from flax_enn.data.base import Dataset, Element, HeldOut, Source
from flax_enn.data.loader import eval_batches, prefetch, train_batches

__all__ = [
    'Dataset',
    'Element',
    'HeldOut',
    'Source',
    'eval_batches',
    'prefetch',
    'train_batches',
]
