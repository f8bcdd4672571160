"""From a learnt map to a region: the smallest of its levels whose hard masks do what is asked.

Learning moves every cell a little at a time and stops after a number of steps, so it leaves a map
that keeps somewhat too little or too much, and is undecided at its slopes. Of the maps

    logits -> k (logits +- b)

with a sharpness k, one number b says how much is kept. `ThresholdSearch` finds by bisection the
smallest b at which a share tau of hard masks succeeds; `cfx_jax.fido.hard_masks` draws the masks.

Differs from the published code, which has a fixed price and takes what comes out.
"""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp

from cfx_jax.fido.settings import Settings

# Largest shift of the logits, before they are sharpened.
_MAX_SHIFT = 8.0
# Share of `margin_cap`, or of the logit margin of the image where that is smaller, that a hard mask
# has to keep in reserve, because the threshold is chosen by the masks it is tried with.
_RESERVE_SHARE = 0.25
# Where the reserve shifts the logits by more than this, as where only the whole image has it, half
# of this is spent on it.
_MAX_RESERVE_COST = 4.0


@flax.struct.dataclass
class ThresholdSearch:
    """A search for the level of one learnt map, as far as it has come.

    Attributes:
        cells: float32 `[h, w]`, the learnt map, logits of keeping each cell.
        direction: float32 scalar, `SSR` or `SDR`.
        reserve: float32 scalar, logit margin kept in reserve.
        low: float32 scalar, a level that keeps too little (of SDR: drops).
        high: float32 scalar, one that holds.
        high_without_reserve: float32 scalar, the lowest that holds without the reserve.
        settings: the target and the sharpness.
    """

    cells: jax.Array
    direction: jax.Array
    reserve: jax.Array
    low: jax.Array
    high: jax.Array
    high_without_reserve: jax.Array
    settings: Settings = flax.struct.field(pytree_node=False)

    def candidate(self) -> jax.Array:
        """Returns the map to be tried next, float32 `[h, w]`."""
        return self._at((self.low + self.high) / 2.0)

    def update(self, reached: jax.Array) -> "ThresholdSearch":
        """Halves the interval, given the logit margins of hard masks of `candidate`.

        Args:
            reached: logit margins of the hard masks times the direction, float32 `[S]`.

        Returns:
            The search, half as wide.
        """
        level = (self.low + self.high) / 2.0

        def passes(least: jax.Array | float) -> jax.Array:
            share = jnp.mean((reached > least).astype(jnp.float32))
            return share >= self.settings.success_target

        passes_here = passes(self.reserve)
        return dataclasses.replace(
            self,
            low=jnp.where(passes_here, self.low, level),
            high=jnp.where(passes_here, level, self.high),
            high_without_reserve=jnp.where(
                passes(0.0),
                jnp.minimum(self.high_without_reserve, level),
                self.high_without_reserve,
            ),
        )

    def result(self) -> jax.Array:
        """Returns the map in the end, float32 `[h, w]`, logits of keeping each cell.

        Where no level that was tried does what is asked, as for a class that is predicted from the
        in-fill alone, the one that keeps most (SSR) or least.
        """
        is_costly = self.high - self.high_without_reserve > _MAX_RESERVE_COST
        return self._at(
            jnp.where(is_costly, self.high_without_reserve + _MAX_RESERVE_COST / 2.0, self.high)
        )

    def _at(self, level: jax.Array) -> jax.Array:
        return self.settings.sharpness * (self.cells + self.direction * level)


def start_search(
    cells: jax.Array, direction: jax.Array, original: jax.Array, settings: Settings
) -> ThresholdSearch:
    """Begins the search for the level of a map.

    Args:
        cells: float32 `[h, w]`, logits of keeping each cell.
        direction: float32 scalar, `SSR` or `SDR`.
        original: float32 scalar, `Question.logit_margin` of the target on the image itself.
        settings: the target, the margin and the sharpness.

    Returns:
        The search, before any level is tried.
    """
    low, high = (jnp.asarray(end, jnp.float32) for end in (-_MAX_SHIFT, _MAX_SHIFT))
    reserve = _RESERVE_SHARE * jnp.minimum(settings.margin_cap, jnp.abs(original))
    return ThresholdSearch(cells, direction, reserve, low, high, high, settings)
