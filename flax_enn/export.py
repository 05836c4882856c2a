"""Writes what a run has trained as a bundle: files to deploy and to keep.

  python -m flax_enn.export --workdir=runs/digits_epinet --out=bundles/digits

The folder must be new or empty. A bundle needs neither the run nor its data,
and to run it takes jax without flax_enn; docs/serving.md serves one.
`Predictor.load` opens it like a run.
"""

from absl import flags

from flax_enn import checkpoint_flags as asked
from flax_enn import command_line

flags.adopt_module_key_flags(asked)
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
      asked.WORKDIR.value or '',
      asked.OUT.value or '',
      asked.STEP.value,
      num_indices=asked.NUM_INDICES.value,
      seed=asked.SEED.value,
      allow_imports=asked.ALLOW_IMPORTS.value,
      platforms=_PLATFORMS.value,
  )
  print(
      f'{asked.OUT.value}: {card["network"]} at step {card["step"]} with'
      f' {card["num_indices"]} indices, for'
      f' {", ".join(card["stablehlo"]["platforms"])}'
  )


if __name__ == '__main__':
  command_line.main(run, 'workdir', 'out')
