"""Times two calls alternately, so that other load slows both, or one call repeatedly."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def ratio(
    ours: Callable[[], object],
    theirs: Callable[[], object],
    our_name: str,
    their_name: str,
    repeats: int = 15,
) -> str:
    """Times two calls alternately; each runs once before, for compilation and caches."""
    times: list[tuple[float, ...]] = []
    for _ in range(repeats + 1):
        pair = []
        for call in (ours, theirs):
            start = time.perf_counter()
            jax.block_until_ready(call())
            pair.append(time.perf_counter() - start)
        times.append(tuple(pair))
    first, second = zip(*times[1:], strict=True)
    quotient = statistics.median(a / b for a, b in zip(first, second, strict=True))
    return (
        f"{our_name} {statistics.median(first):.3f} s, {their_name} {statistics.median(second):.3f}"
        f" s, ratio {quotient:.2f}"
    )


def median_seconds(call: Callable[[], object], repeats: int = 5) -> float:
    """Times a call, which runs once before, for compilation and caches."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def seconds_per_image(
    function: Callable[..., jax.Array],
    images: Any,
    *shared: Any,
    number: int = 5,
    repeats: int = 5,
) -> float:
    """Times a network repeatedly on its own result, so that no call is optimised away.

    Args:
        function: maps images `[N, H, W, C]` in [0, 1] and the parameters to a change of the images.
        images: first input.
        *shared: parameters, passed as arguments so that they are not constants of the program.
        number: number of repetitions in a call.
        repeats: number of calls; the median is returned.
    """

    @jax.jit
    def repeat(images: jax.Array, shared: tuple[Any, ...]) -> jax.Array:
        def step(images: jax.Array, _: None) -> tuple[jax.Array, None]:
            return jnp.clip(images + 1e-6 * function(images, *shared), 0.0, 1.0), None

        return jax.lax.scan(step, images, None, length=number)[0]

    return median_seconds(lambda: repeat(images, shared), repeats) / number / len(images)
