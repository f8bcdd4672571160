"""SIGTERM, sent to real processes: received at once, and the end of those that do not stop."""

import pathlib
import signal
import subprocess
import sys

import pytest

from cfx_jax.runs import preemption

STOPPED = "stopped by SIGTERM before anything new was written; resume with the same command\n"
# Minutes in C, without a step of Python in which a signal handler could run.
DEAF = "import hashlib; hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)"
WAIT = "while stop.deadline == float('inf'): time.sleep(0.01)"
# The module alone, since the package takes a second to import.
CHILD = """
import os, signal, sys, time
sys.path.insert(0, {folder!r})
import preemption
preemption.GRACE_SECONDS = {grace}
{before}
stop = preemption.listen()
stop.check()
{setup}
print("ready", flush=True)
{body}
"""


def run_child(*body, before="", setup="", grace=0.3, num_signals=1):
    """Starts a process, sends SIGTERM once it is ready; returns (exit status, output, errors)."""
    folder = str(pathlib.Path(preemption.__file__).parent)
    code = CHILD.format(
        folder=folder, body="\n".join(body), before=before, setup=setup, grace=grace
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "ready\n"
    for _ in range(num_signals):
        process.send_signal(signal.SIGTERM)
    # Not with `communicate`, which misses what was buffered with the first line.
    with process:
        output, errors = process.stdout.read(), process.stderr.read()
    return process.returncode, output, errors


def test_preemption_ends_a_process_stuck_outside_python():
    assert run_child(DEAF) == (0, "", f"\n{STOPPED}")


def test_preemption_ends_a_process_that_stops_too_slowly():
    code, _, errors = run_child(
        "try:", "    while True: time.sleep(0.01); stop.check()", "finally: time.sleep(100)"
    )
    assert code == 0
    assert errors.startswith("\nstopped by SIGTERM")


def test_preemption_ends_a_process_that_others_need_later():
    assert preemption.GRACE_SECONDS + 2 < 10
    before = "slept = []; time.sleep = slept.append; os._exit = lambda code: None"
    code, output, _ = run_child(
        "while not slept: pass",
        "print(slept)",
        before=before,
        setup="stop.goes_last = True",
        grace=2,
    )
    assert (code, output) == (0, "[4.0]\n")


@pytest.mark.parametrize(
    ("num_written", "expected"),
    [(0, STOPPED), (2, "stopped by SIGTERM; resume with the same command\n")],
)
def test_preemption_raises_the_request_at_a_check(num_written, expected):
    code, output, errors = run_child(
        WAIT,
        "try: stop.check()",
        "except preemption.StoppedError as stopped:",
        "    print(stopped, 0 < stopped.deadline - time.monotonic() <= 60)",
        setup=f"stop.num_written = {num_written}",
        grace=60,
    )
    assert (code, output, errors) == (0, expected.replace("\n", " True\n"), "")


def test_preemption_receives_a_signal_sent_while_blocked():
    before = (
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM]); "
        "os.kill(os.getpid(), signal.SIGTERM); assert signal.sigpending() == {signal.SIGTERM}"
    )
    code, output, _ = run_child(WAIT, "print('stopped')", before=before, num_signals=0, grace=60)
    assert (code, output) == (0, "stopped\n")


def test_preemption_ignores_repeated_and_late_signals():
    code, output, errors = run_child(
        WAIT,
        "import atexit",
        # Python ends threads first, and then calls this.
        "atexit.register(lambda: (os.kill(os.getpid(), signal.SIGTERM), time.sleep(0.01)))",
        "print('stopped')",
        num_signals=3,
        grace=60,
    )
    assert (code, output, errors) == (0, "stopped\n", "")


def test_preemption_leaves_other_signals_alone():
    code, output, _ = run_child(
        "signal.signal(signal.SIGUSR1, lambda *_: print('usr1'))",
        "os.kill(os.getpid(), signal.SIGUSR1)",
        "time.sleep(0.05)",
        "stop.check()",
        num_signals=0,
    )
    assert (code, output) == (0, "usr1\n")


def test_preemption_installs_its_handler_once():
    code, output, _ = run_child("print(preemption.listen() is stop)", num_signals=0)
    assert (code, output) == (0, "True\n")
