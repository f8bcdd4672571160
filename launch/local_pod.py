"""Rehearses a pod on one machine: several processes of `cfx_jax.main`, each with CPU devices.

    python launch/local_pod.py --num_processes=2 --devices_per_process=4 -- \
        --config=configs/folder.py --workdir=runs/pod

Lines come out as `[process] line`; on a terminal, the progress of process 0 stands below them.
SIGTERM and SIGINT are passed on to all processes. When one fails, the others are ended, and its
exit status is that of the pod.
"""

import argparse
import codecs
import os
import pty
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Sequence

KILL_AFTER_SECONDS = 15.0
_SECONDS_BETWEEN_LOOKS = 0.05
_SECONDS_FOR_LAST_LINES = 5.0


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the pod, or only prints its commands; returns the exit status."""
    options = _parse(argv)
    devices = f"--xla_force_host_platform_device_count={options.devices_per_process}"
    settings = {
        "JAX_PLATFORMS": "cpu",
        "PYTHONUNBUFFERED": "1",
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {devices}".strip(),
    }
    shared = [
        *(sys.executable, "-m", "cfx_jax.main", *options.arguments),
        f"--coordinator_address=localhost:{_free_port()}",
        f"--num_processes={options.num_processes}",
    ]
    commands = [[*shared, f"--process_id={index}"] for index in range(options.num_processes)]
    if not options.dry_run:
        return _run(commands, os.environ | settings)
    for command in commands:
        print(*(f"{name}={shlex.quote(value)}" for name, value in settings.items()), end=" ")
        print(shlex.join(command))
    return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Rehearses a pod on one machine, on CPU devices.",
        usage="%(prog)s --num_processes=N --devices_per_process=M [--dry_run] -- ARGUMENTS",
        allow_abbrev=False,
    )
    parser.add_argument("--num_processes", type=_positive, required=True, metavar="N")
    parser.add_argument("--devices_per_process", type=_positive, required=True, metavar="M")
    parser.add_argument("--dry_run", action="store_true", help="print the commands, run nothing")
    parser.add_argument("arguments", nargs="*", help="of python -m cfx_jax.main, after --")
    return parser.parse_args(argv)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


def _free_port() -> int:
    with socket.create_server(("localhost", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def _run(commands: Sequence[Sequence[str]], environment: dict[str, str]) -> int:
    """Runs all commands at once; returns the exit status of the first one to fail, or 0."""
    received: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: received.append(number))
    # A process hears SIGTERM once it listens, also one that was sent while Python started.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    started = [_start(command, environment, index) for index, command in enumerate(commands)]
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    processes = [process for process, _ in started]
    screen = _Screen()
    readers = [
        threading.Thread(target=screen.copy, args=(index, output), daemon=True)
        for index, (_, output) in enumerate(started)
    ]
    for reader in readers:
        reader.start()
    code = _wait(processes, received, screen)
    for reader in readers:
        reader.join(_SECONDS_FOR_LAST_LINES)
    return 128 - code if code < 0 else code


def _start(
    command: Sequence[str], environment: dict[str, str], index: int
) -> tuple["subprocess.Popen[bytes]", int]:
    """Starts a process; returns it and where its output is read."""
    # One that writes to a terminal redraws its progress.
    reader, writer = pty.openpty() if _shows_progress(index) else os.pipe()
    if os.isatty(writer):
        termios.tcsetwinsize(writer, termios.tcgetwinsize(sys.stdout.fileno()))
    process = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=writer,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # Else a terminal sends Ctrl-C to them, too.
    )
    os.close(writer)
    return process, reader


def _shows_progress(index: int) -> bool:
    return index == 0 and sys.stdout.isatty()


def _read(descriptor: int) -> bytes:
    """Reads some of an output; nothing once all who write to it have ended."""
    try:
        return os.read(descriptor, 1 << 16)
    except OSError:  # As a terminal says it.
        return b""


def _wait(
    processes: Sequence["subprocess.Popen[bytes]"], received: list[int], screen: "_Screen"
) -> int:
    """Waits for all processes, passes signals on; returns the first return code that is not 0."""
    first_code, passed_on, kill_time = 0, False, float("inf")
    while True:
        while received:
            _send(received.pop(0), processes)
            passed_on = True
        codes = [process.poll() for process in processes]
        index, code = next(((i, code) for i, code in enumerate(codes) if code), (0, 0))
        if code and not first_code:
            first_code = code
            screen.print([f"[pod] process {index} {_say(code)}"])
            if not passed_on:  # Else they are ending already.
                _send(signal.SIGTERM, processes)
                kill_time = time.monotonic() + KILL_AFTER_SECONDS
        if None not in codes:
            return first_code
        if time.monotonic() > kill_time:
            _send(signal.SIGKILL, processes)
        time.sleep(_SECONDS_BETWEEN_LOOKS)


def _say(code: int) -> str:
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"ended with exit status {code}"


def _send(number: int, processes: Sequence["subprocess.Popen[bytes]"]) -> None:
    for process in processes:
        process.send_signal(number)  # Does nothing to one that has ended.


class _Screen:
    """Prints the lines of several processes, and on a terminal the progress of process 0."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._progress = ""

    def copy(self, index: int, output: int) -> None:
        """Prints what a process writes, until it ends."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        label, rest = f"[{index}] ", ""
        while chunk := _read(output):
            *lines, rest = (rest + decoder.decode(chunk)).split("\n")
            rest = _last_state(rest)  # Nothing else of it will ever be seen.
            progress = None
            if _shows_progress(index):
                state = _visible(rest) if rest.startswith("\r") else ""
                progress = state and label + state
            self.print([label + _visible(line) for line in lines], progress)
        if rest:
            self.print([label + _visible(rest)], "" if index == 0 else None)

    def print(self, lines: Sequence[str], progress: str | None = None) -> None:
        """Prints lines, and below them the progress; None leaves that as it is."""
        with self._lock:
            wiped = "\r\x1b[K" if self._progress else ""
            if progress is not None:  # Cut, since a line that is wrapped cannot be wiped.
                self._progress = progress[: shutil.get_terminal_size().columns - 1]
            ended = "".join(f"{line}\n" for line in lines)
            print(f"{wiped}{ended}{self._progress}", end="", flush=True)


def _last_state(text: str) -> str:
    """Returns a line that is written over and over from its last carriage return on."""
    return text[max(0, text.rstrip("\r").rfind("\r")) :]


def _visible(line: str) -> str:
    return _last_state(line).strip("\r").rstrip()


if __name__ == "__main__":
    sys.exit(main())
