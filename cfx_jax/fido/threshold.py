"""Threshold search: from a learnt map to the smallest region whose hard masks succeed.

Learning moves every cell a little at a time and stops after a fixed number of steps. The learnt map
therefore keeps slightly too little or too much, with probabilities near 1/2 along the edges of the
region. In the family of maps

    logits -> k (logits +- b)

(+ for SSR, - for SDR) with a sharpness k, the shift b controls how much is kept. `ThresholdSearch`
finds by bisection the smallest b at which the required share of hard masks (`success_target`)
succeeds by a reserve: the logit margin exceeds `confidence` times that of the original image, or
times `margin_cap` if that is smaller. `cfx_jax.fido.hard_masks` draws the masks.

Differs from the published code, which has a fixed price and uses the learnt map unchanged.
"""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp

from cfx_jax.fido.settings import Settings

# Largest shift of the logits, before they are sharpened.
_MAX_SHIFT = 8.0
# Largest shift that the reserve may cost. Where it costs more, for example because only the whole
# image has this margin, half of this shift is added to the one found without the reserve.
_MAX_RESERVE_SHIFT = 4.0


@flax.struct.dataclass
class ThresholdSearch:
    """State of the bisection for the shift of one learnt map.

    Attributes:
        cells: float32 `[h, w]`, the learnt map, logits of keeping each cell.
        direction: float32 scalar, `SSR` or `SDR`.
        reserve: float32 scalar, logit margin that a hard mask has to exceed.
        low: float32 scalar, a shift that keeps (SDR: drops) too little to reach the success target.
        high: float32 scalar, smallest shift that has reached the target; at first the largest
            shift, which is not evaluated.
        high_without_reserve: float32 scalar, the same with a reserve of zero.
        settings: provides the success target and the sharpness.
    """

    cells: jax.Array
    direction: jax.Array
    reserve: jax.Array
    low: jax.Array
    high: jax.Array
    high_without_reserve: jax.Array
    settings: Settings = flax.struct.field(pytree_node=False)

    def candidate(self) -> jax.Array:
        """Returns the next map to evaluate, float32 `[h, w]`."""
        return self._shift_cells((self.low + self.high) / 2.0)

    def update(self, margins: jax.Array) -> "ThresholdSearch":
        """Halves the interval, given the logit margins of hard masks of `candidate`.

        Args:
            margins: logit margins of the hard masks times the direction, float32 `[S]`.

        Returns:
            The search with half the interval.
        """
        shift = (self.low + self.high) / 2.0

        def reaches_target(min_margin: jax.Array | float) -> jax.Array:
            share = jnp.mean((margins > min_margin).astype(jnp.float32))
            return share >= self.settings.success_target

        is_reached = reaches_target(self.reserve)
        return dataclasses.replace(
            self,
            low=jnp.where(is_reached, self.low, shift),
            high=jnp.where(is_reached, shift, self.high),
            high_without_reserve=jnp.where(
                reaches_target(0.0),
                jnp.minimum(self.high_without_reserve, shift),
                self.high_without_reserve,
            ),
        )

    def result(self) -> jax.Array:
        """Returns the map at the shift found, float32 `[h, w]`, logits of keeping each cell.

        If no shift reaches the target, for example because SDR cannot flip a class predicted
        from the in-fill alone, it is the map that keeps most (SSR) or least (SDR).
        """
        is_costly = self.high - self.high_without_reserve > _MAX_RESERVE_SHIFT
        return self._shift_cells(
            jnp.where(is_costly, self.high_without_reserve + _MAX_RESERVE_SHIFT / 2.0, self.high)
        )

    def _shift_cells(self, shift: jax.Array) -> jax.Array:
        return self.settings.sharpness * (self.cells + self.direction * shift)


def start_search(
    cells: jax.Array, direction: jax.Array, original: jax.Array, settings: Settings
) -> ThresholdSearch:
    """Starts the threshold search for a learnt map.

    Args:
        cells: float32 `[h, w]`, logits of keeping each cell.
        direction: float32 scalar, `SSR` or `SDR`.
        original: float32 scalar, `Question.logit_margin` of the target on the original image.
        settings: provides the success target, the confidence, `margin_cap` and the sharpness.

    Returns:
        The search over the full interval.
    """
    low, high = (jnp.asarray(end, jnp.float32) for end in (-_MAX_SHIFT, _MAX_SHIFT))
    reserve = settings.confidence * jnp.minimum(settings.margin_cap, jnp.abs(original))
    return ThresholdSearch(cells, direction, reserve, low, high, high, settings)
