"""The mesh, and the one table that says which array axis lies on which of it.

Networks, losses and metrics know logical names (`batch`, `index`, `member` …);
only this package knows the axes of the mesh. Every mesh has the axes
`data, index, fsdp`, possibly of size 1. The table is `config.sharding`:

  batch       examples, in work that depends on the index
  base_batch  examples in index-free work (a base, a frozen prior): spread over
              the index axis too, so that its devices do not repeat the work
  index       epistemic indices
  member      members of a trained ensemble
  wide        the wide axis of large kernels

It may name further axes, those that a layer has in
`nn.with_logical_partitioning`. Names that it does not have are replicated.
"""

from jax.sharding import Mesh, NamedSharding, PartitionSpec

from flax_enn.sharding.batches import (
    make_global_batch,
    on_any_device,
    process_shard,
)
from flax_enn.sharding.mesh import (
    AXES,
    DATA_AXIS,
    FSDP_AXIS,
    INDEX_AXIS,
    create_mesh,
)
from flax_enn.sharding.placement import (
    MIN_WIDE_SIZE,
    batch_sharding,
    placed,
    replicated,
    state_shardings,
)
from flax_enn.sharding.rules import (
    DEFAULT_RULES,
    MEMBER,
    Rules,
    constrain,
    constrain_index,
    create_rules,
    spec,
    use_mesh,
)

__all__ = [
    'AXES',
    'DATA_AXIS',
    'DEFAULT_RULES',
    'FSDP_AXIS',
    'INDEX_AXIS',
    'MEMBER',
    'MIN_WIDE_SIZE',
    'Mesh',
    'NamedSharding',
    'PartitionSpec',
    'Rules',
    'batch_sharding',
    'constrain',
    'constrain_index',
    'create_mesh',
    'create_rules',
    'make_global_batch',
    'on_any_device',
    'placed',
    'process_shard',
    'replicated',
    'spec',
    'state_shardings',
    'use_mesh',
]
