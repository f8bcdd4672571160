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

If either of two parts of the image suffices, a thresholded map may contain one part and,
needlessly, some pixels of the other. A second search therefore uses the connected map (`connect`),
whose regions all consist of one part; `smallest_region` takes the smaller of the two regions. The
second search starts from the result of the first (`limit_connected_search`).

Differs from the published code, which has a fixed price and uses the learnt map unchanged.
"""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp

from cfx_jax.fido.resampling import upsample
from cfx_jax.fido.settings import Settings

# Largest shift of the logits in either direction, before they are sharpened.
_MAX_SHIFT = 8.0
# Largest additional shift that the reserve may cause. If it would cause more, for example because
# only the whole image has this margin, half of this limit is added to the shift found without the
# reserve.
_MAX_RESERVE_SHIFT = 4.0
# Share of the reserve that may be missing. With a confidence of 1, the logit margin of the whole
# image equals the reserve, and rounding would decide whether it suffices.
_TOLERANCE = 1e-3
# Largest relative change of a logit that ranks the cells of equal values in a connected map.
_RANKING = 0.1


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
        is_reached: bool scalar, whether an evaluated shift has reached the target.
        settings: provides the success target and the sharpness.
    """

    cells: jax.Array
    direction: jax.Array
    reserve: jax.Array
    low: jax.Array
    high: jax.Array
    high_without_reserve: jax.Array
    is_reached: jax.Array
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
            is_reached=self.is_reached | is_reached,
        )

    def result(self) -> jax.Array:
        """Returns the map at the shift found, float32 `[h, w]`, logits of keeping each cell.

        If no shift reaches the target, it is the map that keeps most (SSR) or least (SDR). This
        happens, for example, if the in-fill alone is predicted as the target, so that SDR cannot
        flip the prediction.
        """
        return self._shift_cells(self.result_shift())

    def result_shift(self) -> jax.Array:
        """Returns the shift of `result`, float32 scalar."""
        small_reserve = self.high_without_reserve + _MAX_RESERVE_SHIFT / 2.0
        return jnp.where(self._is_costly(), small_reserve, self.high)

    def has_reached(self) -> jax.Array:
        """Returns whether `result` is a map that reached the target with the reserve, bool."""
        return self.is_reached & ~self._is_costly()

    def _is_costly(self) -> jax.Array:
        return self.high - self.high_without_reserve > _MAX_RESERVE_SHIFT

    def _shift_cells(self, shift: jax.Array) -> jax.Array:
        return self.settings.sharpness * (self.cells + self.direction * shift)


def start_searches(
    cells: jax.Array, direction: jax.Array, original: jax.Array, settings: Settings
) -> ThresholdSearch:
    """Starts the threshold searches for a learnt map and for its connected map.

    Args:
        cells: float32 `[h, w]`, logits of keeping each cell.
        direction: float32 scalar, `SSR` or `SDR`.
        original: float32 scalar, `Question.logit_margin` of the target on the original image.
        settings: provides the success target, the confidence, `margin_cap` and the sharpness.

    Returns:
        The two searches over the full interval, with a leading axis of 2.
    """
    maps = jnp.stack([cells, direction * connect(direction * cells)])
    margin = jnp.abs(original)
    if settings.margin_cap:
        margin = jnp.minimum(settings.margin_cap, margin)
    reserve = (1.0 - _TOLERANCE) * settings.confidence * margin
    low, high, reserves, directions = (
        jnp.full(len(maps), value, jnp.float32)
        for value in (-_MAX_SHIFT, _MAX_SHIFT, reserve, direction)
    )
    is_reached = jnp.zeros(len(maps), bool)
    return ThresholdSearch(maps, directions, reserves, low, high, high, is_reached, settings)


def limit_connected_search(searches: ThresholdSearch) -> ThresholdSearch:
    """Limits the search of the connected map to regions that improve the result of the first.

    The connected map is nowhere larger than the learnt map. Its region at a shift is therefore part
    of the region of the learnt map, and fails where that fails. Its largest shift is that at which
    its region has as many cells as the result of the first search.

    Args:
        searches: the two searches, after the last `update` of the first.

    Returns:
        The two searches; the interval of the second is limited.
    """
    learnt, connected = searches.direction[0] * searches.cells
    shift = jax.vmap(ThresholdSearch.result_shift)(searches)[0]
    num_cells = jnp.sum(learnt > -shift)
    ranked = jnp.sort(connected.ravel(), descending=True)
    high = -ranked[jnp.minimum(num_cells, ranked.size - 1)]
    return dataclasses.replace(
        searches,
        low=searches.low.at[1].set(jnp.minimum(searches.low[0], high)),
        high=searches.high.at[1].set(high),
        high_without_reserve=searches.high_without_reserve.at[1].set(high),
    )


def connect(importance: jax.Array) -> jax.Array:
    """Lowers a map so that the cells above any threshold form one part around the maximum.

    Formula: the value of a cell is the largest, over all paths from the maximum to this cell, of
    the smallest value on the path. The cells of a path share sides. This is the morphological
    reconstruction of the map from its maximum by dilation (Vincent, IEEE Transactions on Image
    Processing 1993).

    Args:
        importance: float32 `[h, w]`.

    Returns:
        float32 `[h, w]`, at most `importance`; the same where the map has one peak.
    """

    def dilate(reached: jax.Array) -> jax.Array:
        rows, columns = (
            jax.lax.reduce_window(reached, -jnp.inf, jax.lax.max, window, (1, 1), "SAME")
            for window in ((3, 1), (1, 3))
        )
        return jnp.minimum(importance, jnp.maximum(rows, columns))

    cell = jnp.arange(importance.size).reshape(importance.shape)
    start = jnp.where(cell == jnp.argmax(importance), importance, -jnp.inf)
    return jax.lax.while_loop(lambda reached: jnp.any(dilate(reached) > reached), dilate, start)


def smallest_region(searches: ThresholdSearch, size: tuple[int, int]) -> jax.Array:
    """Returns the map of the search that found the smaller region, float32 `[h, w]`.

    It is that of the connected map if this search has reached the target, and its region is not
    larger.

    Args:
        searches: the two searches of `start_searches` after their last `update`.
        size: image size `(H, W)`.
    """
    learnt, connected = maps = jax.vmap(ThresholdSearch.result)(searches)
    direction = searches.direction[0]
    areas = [jnp.sum(direction * upsample(cells, size) > 0) for cells in maps]
    is_smaller = searches.has_reached()[1] & (areas[1] <= areas[0])
    # The cells behind a lower one have its value in the connected map; the learnt map ranks them.
    lowered = direction * (searches.cells[0] - searches.cells[1])
    ranking = _RANKING * jnp.abs(connected) * lowered / (1.0 + lowered)
    return jnp.where(is_smaller, connected + direction * ranking, learnt)
