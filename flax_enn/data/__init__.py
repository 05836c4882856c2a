"""Data sets by name, and streams of `Batch`es from them."""

from flax_enn.data.base import ArraySource, Dataset, DataSpec, Element, Source
from flax_enn.data.batching import abstract_batch, blank_batch
from flax_enn.data.in_memory import Taken
from flax_enn.data.loader import Loader
from flax_enn.data.prefetching import BatchesThenBlanks, prefetch
from flax_enn.data.preprocess import Identity, Pixels, Preprocess, Standardize

__all__ = [
    'ArraySource',
    'BatchesThenBlanks',
    'DataSpec',
    'Dataset',
    'Element',
    'Identity',
    'Loader',
    'Pixels',
    'Preprocess',
    'Source',
    'Standardize',
    'Taken',
    'abstract_batch',
    'blank_batch',
    'prefetch',
]
