"""From a learnt map to a region: the smallest of its levels whose hard masks do what is asked.

Learning moves every cell a little at a time and stops after a number of steps, so it leaves a map
that keeps somewhat too little or too much, and is undecided at its slopes. Of the maps

    logits -> k (logits +- b)

with a sharpness k, one number b says how much is kept. `LevelSearch` finds by bisection the b at
which a share tau of hard masks just does what is asked; `cfx_jax.fido.judging` shows it the masks.

Differs from the published code, which has a fixed price and takes what comes out.
"""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp

from cfx_jax.fido.settings import Settings

# Of the level, in logits before they are sharpened.
_FARTHEST = 8.0
# Of the margin, or of the lead that the image itself has, where that is smaller: so much has to be
# left, because the level is chosen by the masks it is tried with.
_RESERVE = 0.25
# In levels: where the reserve costs more, as where only the whole image has it, half of that is
# spent.
_DEAREST = 4.0


@flax.struct.dataclass
class LevelSearch:
    """A search for the level of one learnt map, as far as it has come.

    Attributes:
        cells: float32 `[h, w]`, the learnt map, logits of keeping each cell.
        direction: float32 scalar, `SSR` or `SDR`.
        enough: float32 scalar, lead that is left in reserve.
        low: float32 scalar, a level that keeps too little (of SDR: drops).
        high: float32 scalar, one that holds.
        barely: float32 scalar, the lowest that holds without the reserve.
        settings: the target and the sharpness.
    """

    cells: jax.Array
    direction: jax.Array
    enough: jax.Array
    low: jax.Array
    high: jax.Array
    barely: jax.Array
    settings: Settings = flax.struct.field(pytree_node=False)

    def tried(self) -> jax.Array:
        """Returns the map to be tried next, float32 `[h, w]`."""
        return self._at((self.low + self.high) / 2.0)

    def narrow(self, reached: jax.Array) -> "LevelSearch":
        """Goes on with what hard masks of `tried` did.

        Args:
            reached: float32 `[S]`, for each its lead in the direction that is asked for.

        Returns:
            The search, half as wide.
        """
        level = (self.low + self.high) / 2.0

        def hold(least: jax.Array | float) -> jax.Array:
            share = jnp.mean((reached > least).astype(jnp.float32))
            return share >= self.settings.success_target

        holds = hold(self.enough)
        return dataclasses.replace(
            self,
            low=jnp.where(holds, self.low, level),
            high=jnp.where(holds, level, self.high),
            barely=jnp.where(hold(0.0), jnp.minimum(self.barely, level), self.barely),
        )

    def found(self) -> jax.Array:
        """Returns the map in the end, float32 `[h, w]`, logits of keeping each cell.

        Where no level that was tried does what is asked, as for a class that is predicted from the
        in-fill alone, the one that keeps most (SSR) or least.
        """
        is_dear = self.high - self.barely > _DEAREST
        return self._at(jnp.where(is_dear, self.barely + _DEAREST / 2.0, self.high))

    def _at(self, level: jax.Array) -> jax.Array:
        return self.settings.sharpness * (self.cells + self.direction * level)


def begin_search(
    cells: jax.Array, direction: jax.Array, original: jax.Array, settings: Settings
) -> LevelSearch:
    """Begins the search for the level of a map.

    Args:
        cells: float32 `[h, w]`, logits of keeping each cell.
        direction: float32 scalar, `SSR` or `SDR`.
        original: float32 scalar, `Question.lead` of the target on the image itself.
        settings: the target, the margin and the sharpness.

    Returns:
        The search, before any level is tried.
    """
    low, high = (jnp.asarray(end, jnp.float32) for end in (-_FARTHEST, _FARTHEST))
    enough = _RESERVE * jnp.minimum(settings.margin, jnp.abs(original))
    return LevelSearch(cells, direction, enough, low, high, high, settings)
