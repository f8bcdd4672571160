"""Handles SIGTERM, the signal of pre-emption: requests a stop, and later ends the process.

Python runs a signal handler only between two steps of the main thread, which may be compiling for a
minute. A separate thread receives the signal immediately.
"""

import functools
import os
import signal
import sys
import threading
import time

GRACE_SECONDS = 7.0
"""Time between the signal and the end of a process that has not stopped before."""
# Additional seconds for process 0. JAX ends the other processes with a stack dump when process 0 is
# lost, and they may receive the signal over a second later while they compile on a busy machine.
_LONGER = 2.0


class StoppedError(Exception):
    """Error for a run that stopped on request; its message explains how to resume.

    Attributes:
        deadline: value of `time.monotonic()` at which the process is ended if it is still running.
    """

    def __init__(self, deadline: float, num_written: int = 1) -> None:
        when = "" if num_written else " before anything new was written"
        super().__init__(f"stopped by SIGTERM{when}; resume with the same command")
        self.deadline = deadline


class StopRequest:
    """The state of a request to stop the run.

    Attributes:
        deadline: value of `time.monotonic()` at which the process is ended; infinite before the
            request.
        num_written: units of work that this process has written; the writer increments it.
        goes_last: whether other processes need this one, so that it is ended later.
    """

    def __init__(self) -> None:
        self.deadline = float("inf")
        self.num_written = 0
        self.goes_last = False

    def check(self) -> None:
        """Raises `StoppedError` if the run was requested to stop."""
        if self.deadline < float("inf"):
            raise StoppedError(self.deadline, self.num_written)


@functools.cache
def listen() -> StopRequest:
    """Handles SIGTERM from now until the process ends; call it from the main thread.

    A launcher may start the process with SIGTERM blocked, so that no signal is lost while Python
    starts; that signal is received now. The handler stays after the run, so that a signal during
    the clean-up causes no error.

    Returns:
        The `StopRequest`, which the run checks regularly. A process that is still running
        `GRACE_SECONDS` after the signal is ended with exit status 0: its records are consistent,
        since they are written unit by unit.
    """
    request = StopRequest()
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    threading.Thread(target=_wait_for_signal, args=(reader, request), daemon=True).start()
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    return request


def _wait_for_signal(reader: int, request: StopRequest) -> None:
    while os.read(reader, 1)[0] != signal.SIGTERM:
        pass
    grace = GRACE_SECONDS + (_LONGER if request.goes_last else 0.0)
    request.deadline = time.monotonic() + grace
    time.sleep(grace)
    # On a new line, below a progress bar.
    stopped = StoppedError(request.deadline, request.num_written)
    print(f"\n{stopped}", file=sys.stderr, flush=True)
    os._exit(0)
