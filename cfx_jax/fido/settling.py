"""From a learnt map to a region: the smallest of its levels whose hard masks do what is asked.

Learning moves every cell a little at a time and stops after a number of steps, so it leaves a map
that keeps somewhat too little or too much, and is undecided at its slopes. Of the maps

    logits -> k (logits +- b)

with a sharpness k, one number b says how much is kept. `settle` finds by bisection the b at which a
share tau of hard masks just does what is asked.

Differs from the published code, which has a fixed price and takes what comes out.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from cfx_jax.classifiers import Classifier
from cfx_jax.fido.objective import Problem, classify_infilled
from cfx_jax.fido.settings import SETTLING_MASKS, SETTLING_ROUNDS, Settings
from cfx_jax.generators import Generator

# Of the level, in logits before they are sharpened.
_FARTHEST = 8.0
# Of the margin, or of the lead that the image itself has, where that is smaller: so much has to be
# left, because the level is chosen by the masks it is tried with.
_RESERVE = 0.25
# In levels: where the reserve costs more, as where only the whole image has it, half of that is
# spent.
_DEAREST = 4.0


class _Bounds(NamedTuple):
    """Levels: one that keeps too little (of SDR: drops), one that holds, one that barely does."""

    low: jax.Array
    high: jax.Array
    barely: jax.Array


def settle(
    key: jax.Array,
    cells: jax.Array,
    original: jax.Array,
    problem: Problem,
    classifier: Classifier,
    generator: Generator,
    *,
    settings: Settings,
) -> jax.Array:
    """Shifts and sharpens a learnt map so that just enough of its hard masks do what is asked.

    Args:
        key: random key.
        cells: float32 `[h, w]`, logits of keeping each cell.
        original: float32 scalar, `Classifier.lead` of the target on the image itself.
        problem: the image and what is asked of it.
        classifier: the model explained.
        generator: fills the holes.
        settings: the target, the sharpness and the mask law.

    Returns:
        float32 `[h, w]`, logits of keeping each cell. Where no level that was tried does what is
        asked, as for a class that is predicted from the in-fill alone, the one that keeps most
        (SSR) or least.
    """
    height, width = problem.image.shape[:2]
    enough = _RESERVE * jnp.minimum(settings.margin, jnp.abs(original))

    def at(level: jax.Array) -> jax.Array:
        return settings.sharpness * (cells + problem.direction * level)

    def halve(bounds: _Bounds, key: jax.Array) -> tuple[_Bounds, None]:
        low, high, barely = bounds
        level = (low + high) / 2.0
        pixels = settings.mask_law.keep_map(at(level), (height, width))
        mask_key, fill_key = jax.random.split(key)
        masks = jax.vmap(lambda key: settings.mask_law.draw_hard(key, pixels)[0])(
            jax.random.split(mask_key, SETTLING_MASKS)
        )
        _, logits = classify_infilled(problem, masks, masks, fill_key, classifier, generator)
        reached = problem.direction * classifier.lead(logits, problem.target)

        def hold(least: jax.Array | float) -> jax.Array:
            return jnp.mean((reached > least).astype(jnp.float32)) >= settings.success_target

        holds = hold(enough)
        return _Bounds(
            jnp.where(holds, low, level),
            jnp.where(holds, level, high),
            jnp.where(hold(0.0), jnp.minimum(barely, level), barely),
        ), None

    ends = _Bounds(*(jnp.asarray(end, jnp.float32) for end in (-_FARTHEST, _FARTHEST, _FARTHEST)))
    found, _ = jax.lax.scan(halve, ends, jax.random.split(key, SETTLING_ROUNDS))
    is_dear = found.high - found.barely > _DEAREST
    return at(jnp.where(is_dear, found.barely + _DEAREST / 2.0, found.high))
