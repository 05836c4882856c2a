"""Flags of the command lines that read a checkpoint: which, and what of it."""

from absl import flags

WORKDIR = flags.DEFINE_string(
    'workdir', None, 'Folder of a run, or of a bundle that was exported.'
)
STEP = flags.DEFINE_string(
    'step', 'best', "Checkpoint of a run: a number, 'latest' or 'best'."
)
NUM_INDICES = flags.DEFINE_integer(
    'num_indices',
    None,
    "Epistemic indices; by default as many as the run's own evaluation has.",
    lower_bound=1,
)
SEED = flags.DEFINE_integer(
    'seed',
    None,
    "Of the indices; by default they are those of the run's own evaluation.",
)
SPLIT = flags.DEFINE_enum(
    'split', None, ['train', 'validation', 'test'], 'Split of the data set.'
)
OUT = flags.DEFINE_string('out', None, 'Where to write to.')
ALLOW_IMPORTS = flags.DEFINE_bool(
    'allow_imports',
    False,
    "Lets the config of the run name classes outside of flax_enn ('package"
    ".module:Class'), whose code is then run.",
)
