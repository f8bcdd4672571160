"""SIGTERM, as pre-emption sends it: the run is asked to stop, and is ended if it does not.

Python runs a signal handler between two steps of the main thread, which may be a minute into
compiling. A thread of its own hears the signal at once.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator

GRACE_SECONDS = 8.0
"""Time between the signal and the end of a process that did not stop by itself."""


class StoppedError(Exception):
    """A run that stopped because it was asked to; its message says how to go on.

    Attributes:
        deadline: `time.monotonic()` at which the process is ended if it has not gone by then.
    """

    def __init__(self, deadline: float) -> None:
        super().__init__("stopped by SIGTERM; resume with the same command")
        self.deadline = deadline


class StopRequest:
    """Whether the run was asked to stop.

    Attributes:
        deadline: `time.monotonic()` at which the process is ended; infinite before the request.
    """

    def __init__(self) -> None:
        self.deadline = float("inf")

    def check(self) -> None:
        """Raises `StoppedError` if the run was asked to stop."""
        if self.deadline < float("inf"):
            raise StoppedError(self.deadline)


@contextlib.contextmanager
def watch() -> Iterator[StopRequest]:
    """Listens to SIGTERM; to be entered by the main thread.

    Yields:
        The `StopRequest`, for the run to look at now and then. A process that has not left the
        context `GRACE_SECONDS` after the signal is ended with exit status 0: what it has written by
        then is whole, since records are written unit by unit.
    """
    request, done = StopRequest(), threading.Event()
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def listen() -> None:
        while (heard := os.read(reader, 1)) and heard[0] != signal.SIGTERM:
            pass
        if not heard:
            return
        request.deadline = time.monotonic() + GRACE_SECONDS
        if not done.wait(GRACE_SECONDS):
            # On a line of its own, below whatever a progress bar has left.
            print(f"\n{StoppedError(request.deadline)}", file=sys.stderr, flush=True)
            os._exit(0)

    listener = threading.Thread(target=listen, daemon=True)
    handler = signal.signal(signal.SIGTERM, lambda *_: None)
    wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    listener.start()
    try:
        yield request
    finally:
        done.set()
        signal.set_wakeup_fd(wakeup)
        signal.signal(signal.SIGTERM, handler)
        os.close(writer)
        listener.join()
        os.close(reader)
