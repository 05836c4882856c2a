"""Writes what a run has trained as a bundle: files to deploy and to keep.

  python -m flax_enn.export --workdir=runs/digits_epinet --out=bundles/digits

A bundle needs neither the run nor its data, and to run it takes jax without
flax_enn; docs/serving.md serves one. `Predictor.load` opens it like a run.
"""

from absl import flags

from flax_enn import command_line

_WORKDIR = flags.DEFINE_string(
    'workdir', None, 'Folder of the run, or of a bundle to export again.'
)
_OUT = flags.DEFINE_string(
    'out', None, 'Folder of the bundle: a new one, or an empty one.'
)
_STEP = flags.DEFINE_string(
    'step', 'best', "Step of the checkpoint: a number, 'best' or 'latest'."
)
_NUM_INDICES = flags.DEFINE_integer(
    'num_indices',
    None,
    "Epistemic indices: as many as in the run's own evaluation by default.",
    lower_bound=1,
)
_SEED = flags.DEFINE_integer(
    'seed', None, "Seed of them: those of the run's own evaluation by default."
)
_ALLOW_IMPORTS = flags.DEFINE_bool(
    'allow_imports',
    False,
    'Whether the config may name classes outside of flax_enn, whose code runs.',
)
_PLATFORMS = flags.DEFINE_list(
    'platforms',
    ['cpu', 'cuda', 'tpu'],
    'What the StableHLO is for: some of cpu, cuda, tpu and rocm.',
)


def run(arguments: list[str]) -> None:
  """Exports what the flags say."""
  if arguments:
    raise ValueError(f'unknown arguments {arguments}; expected flags alone')
  # Imported here so that --help and a wrong flag answer at once.
  import jax

  from flax_enn.inference import export_bundle

  # StableHLO names source files: not where they lie on this machine.
  jax.config.update('jax_hlo_source_file_canonicalization_regex', '.*/')
  card = export_bundle(
      _WORKDIR.value or '',
      _OUT.value or '',
      _STEP.value,
      num_indices=_NUM_INDICES.value,
      seed=_SEED.value,
      allow_imports=_ALLOW_IMPORTS.value,
      platforms=_PLATFORMS.value,
  )
  print(
      f'{_OUT.value}: {card["network"]} at step {card["step"]} with'
      f' {card["num_indices"]} indices, for'
      f' {", ".join(card["stablehlo"]["platforms"])}'
  )


if __name__ == '__main__':
  command_line.main(run, 'workdir', 'out')
