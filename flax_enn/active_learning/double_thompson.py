"""Double Thompson sampling: the pair of items to ask about next."""

import jax
import jax.numpy as jnp


def double_thompson(
    rewards: jax.Array, key: jax.Array, pairs: jax.Array | None = None
) -> jax.Array:
  """Two different items, each the best as far as is known.

  The first is the best at the first index, the second the best at the first of
  the further indices at which that is another item; or, where all agree, any
  other item. Where not all pairs can be asked about, the first is the best of
  the items that are in one of them, and the second is in one with it.
  Dwaracherla et al., "Efficient Exploration for LLMs"
  (arXiv:2402.00396); Wu and Liu, "Double Thompson Sampling for Dueling Bandits"
  (arXiv:1604.07101).

  Args:
    rewards: `[N, C]` of C items at N drawn indices: N - 1 tries for the second.
    key: of the draw where no try finds another item.
    pairs: `[P, 2]` numbers of the items that can be compared, in either order;
      any two by default.

  Returns:
    `[2]` numbers of the items.

  Raises:
    ValueError: there are no two items.
  """
  if rewards.ndim != 2 or rewards.shape[1] < 2:
    raise ValueError(
        f'rewards has the shape {list(rewards.shape)}; expected [N, C], of at'
        ' least two items'
    )
  items = jnp.arange(rewards.shape[1])
  if pairs is None:
    first = rewards[0].argmax()
    others = items != first
  else:
    one, two = jnp.concatenate([pairs, pairs[:, ::-1]]).T
    none = jnp.zeros(len(items), bool)
    first = jnp.where(none.at[one].set(True), rewards[0], -jnp.inf).argmax()
    others = none.at[two].max(one == first)
  best = rewards.argmax(1)
  found = others[best]
  chance = jax.random.categorical(key, jnp.where(others, 0.0, -jnp.inf))
  second = jnp.where(found.any(), best[found.argmax()], chance)
  return jnp.stack([first, second])
