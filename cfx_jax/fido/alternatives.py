"""Several regions of ONE image: each further search avoids the pixels of the earlier regions.

Often more than one region suffices to keep a prediction: one of two dogs, or one half of a face.
A search finds one of them. The next search finds another one: the pixels in and near each earlier
region cost more (`extra_prices`), and expensive cells start outside of the region
(`cfx_jax.fido.optimisation.init`).

A further region is an alternative if it succeeds, and if at most `max_overlap` of its area lies in
any one earlier region. From the first search that finds no alternative on, the status is
`NO_ALTERNATIVE`. If the first search fails, it keeps its own status.

Compare ReX (Chockler et al., ICCV 2021), which searches for several minimal explanations from other
starting points, and structured attention graphs (Shitole et al., NeurIPS 2021).
"""

import jax
import jax.numpy as jnp

from cfx_jax.classifiers import Classifier
from cfx_jax.fido.explanation import Explanation, Status, blank
from cfx_jax.fido.objective import Problem
from cfx_jax.fido.resampling import smooth_cells
from cfx_jax.fido.settings import Settings
from cfx_jax.fido.solution import solve
from cfx_jax.generators import Generator

# Rise of the relative price of a pixel for each earlier region that contains it.
_PRICE_RISE = 8.0
# Distance over which the rise falls off outside of the region, as a share of the shorter side.
_NEARBY = 0.05


def solve_alternatives(
    problem: Problem,
    classifier: Classifier,
    generator: Generator,
    *,
    settings: Settings,
) -> Explanation:
    """Solves a problem several times, each time with raised prices on the regions found before.

    Args:
        problem: the image and its question.
        classifier: the model to explain.
        generator: fills the holes.
        settings: the hyper-parameters of each search; `alternatives` is their number K.

    Returns:
        An `Explanation` with a leading axis K, the smallest region first; without this axis if K is
        1. One of them is that of `solve`. A search that found no alternative, and those after it,
        have the status `NO_ALTERNATIVE` and zeros in all fields of floats; they come last.
    """
    if settings.alternatives == 1:
        return solve(problem, classifier, generator, settings=settings)
    prices = (
        jnp.ones(problem.image.shape[:2], jnp.float32) if problem.prices is None else problem.prices
    )

    def search(
        carry: tuple[jax.Array, jax.Array], index: jax.Array
    ) -> tuple[tuple[jax.Array, jax.Array], Explanation]:
        earlier, is_over = carry
        again = problem._replace(prices=prices + extra_prices(earlier))
        found = solve(again, classifier, generator, settings=settings)
        status = check_alternative(found, earlier, settings.max_overlap)
        status = jnp.where(is_over, Status.NO_ALTERNATIVE, status)
        found = blank(found.replace(status=status), status == Status.NO_ALTERNATIVE, 0.0)
        earlier = earlier.at[index].set(found.region)
        return (earlier, (status != Status.OK) | ~jnp.any(found.region)), found

    start = jnp.zeros((settings.alternatives, *prices.shape), bool), jnp.zeros((), bool)
    found = jax.lax.scan(search, start, jnp.arange(settings.alternatives))[1]
    return sort_by_area(found)


def sort_by_area(found: Explanation) -> Explanation:
    """Sorts K explanations of an image: the smallest region first, then failures, then none."""
    area = jnp.mean(found.region, axis=(1, 2))
    # An area is at most 1. Failed searches come after the regions, and after them those left out.
    rank = jnp.where(found.status == Status.OK, area, 2.0)
    rank = jnp.where(found.status == Status.NO_ALTERNATIVE, 3.0, rank)
    return jax.tree.map(lambda leaf: leaf[jnp.argsort(rank, stable=True)], found)


def extra_prices(earlier: jax.Array) -> jax.Array:
    """Returns by how much the relative prices rise for the search of a further region.

    Args:
        earlier: bool `[R, H, W]`, regions found before; an empty one changes nothing.

    Returns:
        float32 `[H, W]`, `8 sum_r min(1, 2 blur(region_r))`, to add to `Problem.prices`.
    """
    width = _NEARBY * min(earlier.shape[1:])
    nearby = jax.vmap(smooth_cells, in_axes=(0, None))(earlier.astype(jnp.float32), width)
    return _PRICE_RISE * jnp.sum(jnp.minimum(1.0, 2.0 * nearby), axis=0)


def check_alternative(found: Explanation, earlier: jax.Array, max_overlap: float) -> jax.Array:
    """Returns the status of an explanation, given the regions found before it, int32 scalar.

    Args:
        found: explanation of one image.
        earlier: bool `[R, H, W]`, regions found before; if all are empty, the status is as found.
        max_overlap: largest share of the region that may lie in one earlier region.

    Returns:
        The status as found, or `NO_ALTERNATIVE` if a further region fails, is empty or overlaps
        too much.
    """
    shared = jnp.max(jnp.sum(earlier & found.region, axis=(1, 2)))
    area = jnp.sum(found.region)
    fails = (found.status != Status.OK) | (shared > max_overlap * area) | (area == 0)
    is_none = jnp.any(earlier) & fails & (found.status != Status.NON_FINITE)
    return jnp.where(is_none, Status.NO_ALTERNATIVE, found.status).astype(jnp.int32)
