"""Times two things in turn, so that a noisy machine hits both alike, or one over and over."""

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
    """Times two calls in turn; both run once before, for compilation and caches."""
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


def seconds_a_row(
    function: Callable[..., jax.Array],
    rows: Any,
    *shared: Any,
    number: int = 5,
    repeats: int = 5,
) -> float:
    """Times a network over and over on its own result, as a run does, so that none is left out.

    Args:
        function: maps rows `[N, H, W, C]` in [0, 1], and what is shared, to what is added to them.
        rows: where it starts.
        *shared: parameters; inside of the function they would be constants of the program.
        number: how often in a call.
        repeats: number of calls; the median counts.
    """

    @jax.jit
    def repeat(rows: jax.Array, shared: tuple[Any, ...]) -> jax.Array:
        def step(rows: jax.Array, _: None) -> tuple[jax.Array, None]:
            return jnp.clip(rows + 1e-6 * function(rows, *shared), 0.0, 1.0), None

        return jax.lax.scan(step, rows, None, length=number)[0]

    return median_seconds(lambda: repeat(rows, shared), repeats) / number / len(rows)
