"""Times two things in turn, so that a noisy machine hits both alike."""

import statistics
import time
from collections.abc import Callable

import jax


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
