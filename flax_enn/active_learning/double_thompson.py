"""Double Thompson sampling: the pair of items to ask about next."""

import jax
import jax.numpy as jnp


def double_thompson(rewards: jax.Array, key: jax.Array) -> jax.Array:
  """Two different items, each the best as far as is known.

  The first is the best at the first index, the second the best at the first of
  the further indices at which that is another item; or, where all agree, any
  other item. Dwaracherla et al., "Efficient Exploration for LLMs"
  (arXiv:2402.00396); Wu and Liu, "Double Thompson Sampling for Dueling Bandits"
  (arXiv:1604.07101).

  Args:
    rewards: `[N, C]` of C items at N drawn indices: N - 1 tries for the second.
    key: of the draw where no try finds another item.

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
  best = rewards.argmax(1)
  first, others = best[0], best != best[0]
  chance = jax.random.randint(key, (), 0, rewards.shape[1] - 1)
  chance += chance >= first
  second = jnp.where(others.any(), best[others.argmax()], chance)
  return jnp.stack([first, second])
