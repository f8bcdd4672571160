"""SIGTERM, as pre-emption sends it: the run is requested to stop, and killed if it does not.

Python runs a signal handler between two steps of the main thread, which may be a minute into
compiling. A thread of its own hears the signal at once.
"""

import functools
import os
import signal
import sys
import threading
import time

GRACE_SECONDS = 7.0
"""Time between the signal and the end of a process that did not stop by itself."""
# Without process 0 the others are ended by JAX with a stack dump. They may hear the signal later
# than it: on a busy machine more than a second, while they compile.
_LONGER = 2.0


class StoppedError(Exception):
    """A run that stopped on request; its message explains how to resume.

    Attributes:
        deadline: `time.monotonic()` at which the process is ended if it has not gone by then.
    """

    def __init__(self, deadline: float, num_written: int = 1) -> None:
        when = "" if num_written else " before anything new was written"
        super().__init__(f"stopped by SIGTERM{when}; resume with the same command")
        self.deadline = deadline


class StopRequest:
    """Whether the run was requested to stop.

    Attributes:
        deadline: `time.monotonic()` at which the process is ended; infinite before the request.
        num_written: units of work that this process has written; whoever writes them counts.
        goes_last: whether other processes are lost without this one: it is ended later.
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
    """Listens to SIGTERM from now until the process has ended; to be called by the main thread.

    A launcher may start the process with SIGTERM blocked, so that none is lost while Python starts:
    one that came before is heard now. There is no way back: what ends after the run, such as the
    connection to other processes, ends as quietly with a signal as without.

    Returns:
        The `StopRequest`, for the run to check now and then. A process that is still there
        `GRACE_SECONDS` after the signal is ended with exit status 0: what it has written by then is
        whole, since records are written unit by unit.
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
    # On a line of its own, below whatever a progress bar has left.
    stopped = StoppedError(request.deadline, request.num_written)
    print(f"\n{stopped}", file=sys.stderr, flush=True)
    os._exit(0)
