"""Measures how long devices are idle, as far as the host can observe."""

import time
from collections.abc import Callable
from typing import Any

import jax


class IdleMeter:
    """Meter of an upper bound of the time in which the devices are idle.

    The host observes a program only in `check` and when it starts the next program. A program found
    done may have ended right after the host last saw it run.
    """

    def __init__(self) -> None:
        self._newest: Any = None
        self._first = self._seen_at_work = self._last = time.monotonic()
        self._idle = 0.0

    @property
    def idle_share(self) -> float:
        """Upper bound of the share of the time so far in which the devices were idle."""
        return self._idle / max(self._last - self._first, 1e-9)

    def run(self, program: Callable[..., Any], *arguments: Any) -> Any:
        """Starts a program."""
        now = time.monotonic()
        if self._newest is None:
            self._first = now
        elif self._newest.is_ready():
            self._idle += now - self._seen_at_work
        result = program(*arguments)
        self._newest = jax.tree.leaves(result)[0]
        self._seen_at_work = self._last = time.monotonic()
        return result

    def check(self) -> None:
        """Checks whether the newest program is still running."""
        self._last = time.monotonic()
        if self._newest is not None and not self._newest.is_ready():
            self._seen_at_work = self._last
