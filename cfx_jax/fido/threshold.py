"""Threshold search: from a learnt map to the smallest region whose hard masks succeed.

Learning moves every cell a little at a time and stops after a fixed number of steps. The learnt map
therefore keeps slightly too little or too much, with probabilities near 1/2 along the edges of the
region. The search considers the family of maps

    logits -> k (logits + b) for SSR,  k (logits - b) for SDR

with a fixed sharpness k. The larger the shift b, the larger is the region that is kept (SSR) or
in-filled (SDR). `ThresholdSearch` finds by bisection the smallest b at which the required share of
hard masks (`success_target`) succeeds with a reserve: the logit margin of the target (SSR) or of
another class (SDR) exceeds `confidence` times the logit margin of the original image, or times
`margin_cap` if that is smaller. `cfx_jax.fido.hard_masks` draws the masks.

Differs from the published code, which has a fixed price and uses the learnt map unchanged.
"""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp

from cfx_jax.fido.settings import Settings

# Largest shift of the logits in either direction, before they are sharpened.
_MAX_SHIFT = 8.0
# Largest additional shift that the reserve may cause. If it would cause more, for example because
# only the whole image has this margin, half of this limit is added to the shift found without the
# reserve.
_MAX_RESERVE_SHIFT = 4.0


@flax.struct.dataclass
class ThresholdSearch:
    """State of the bisection for the shift of one learnt map.

    Attributes:
        cells: float32 `[h, w]`, the learnt map, logits of keeping each cell.
        direction: float32 scalar, `SSR` or `SDR`.
        reserve: float32 scalar, logit margin that a hard mask has to exceed.
        low: float32 scalar, largest shift that did not reach the success target, because it keeps
            (SDR: drops) too little; at first the smallest shift, which is not evaluated.
        high: float32 scalar, smallest shift that has reached the target; at first the largest
            shift, which is not evaluated.
        high_without_reserve: float32 scalar, smallest evaluated shift that has reached the target
            with a reserve of zero; at first the largest shift.
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

        If no shift reaches the target, it is the map that keeps most (SSR) or least (SDR). This
        happens, for example, if the in-fill alone is predicted as the target, so that SDR cannot
        flip the prediction.
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
