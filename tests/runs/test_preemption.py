"""SIGTERM, sent to real processes: heard at once, and the end of those that do not listen."""

import os
import signal
import subprocess
import sys
import time

import pytest

from cfx_jax.runs import preemption
from cfx_jax.runs.preemption import StoppedError

# Minutes in C, without a step of Python in which a signal handler could run.
DEAF = "import hashlib; hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)"
CHILD = """
import sys, time
from cfx_jax.runs import preemption
preemption.GRACE_SECONDS = 0.3
with preemption.watch() as stop:
    print("ready", flush=True)
    {body}
"""


def run_child(body):
    """Starts a process, sends SIGTERM once it is ready; returns (exit status, output, errors)."""
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD.format(body=body)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=60)
    return process.returncode, output, errors


def test_a_process_that_does_not_come_back_to_python_is_ended():
    assert run_child(DEAF) == (0, "", "\nstopped by SIGTERM; resume with the same command\n")


def test_a_process_that_is_too_slow_to_stop_is_ended():
    body = "\n    ".join(
        ["try:", "    while True: time.sleep(0.01); stop.check()", "finally: time.sleep(100)"]
    )
    code, _, errors = run_child(body)
    assert code == 0
    assert errors.startswith("\nstopped by SIGTERM")


def test_a_request_is_raised_where_the_run_looks():
    with preemption.watch() as stop:
        stop.check()
        assert stop.deadline == float("inf")
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(1000):  # The listener is a thread.
            if stop.deadline < float("inf"):
                break
            time.sleep(0.01)
        with pytest.raises(StoppedError, match="resume with the same command") as raised:
            stop.check()
    remaining = raised.value.deadline - time.monotonic()
    assert 0 < remaining <= preemption.GRACE_SECONDS < 10


def test_other_signals_are_left_alone():
    heard = []
    before = signal.signal(signal.SIGUSR1, lambda *_: heard.append("usr1"))
    try:
        with preemption.watch() as stop:
            os.kill(os.getpid(), signal.SIGUSR1)
            time.sleep(0.05)
            stop.check()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert heard == ["usr1"]


def test_what_was_there_before_is_put_back():
    before = signal.getsignal(signal.SIGTERM)
    with preemption.watch():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before
    assert signal.set_wakeup_fd(-1) == -1
