"""Rehearses a pod on one machine: several processes of `cfx_jax.main`, each with CPU devices.

    python launch/local_pod.py --num_processes=2 --devices_per_process=4 -- \
        --config=configs/folder.py --workdir=runs/pod

Each line of output is printed as `[process] line`; a terminal also shows the progress of process 0
below these lines. SIGTERM and SIGINT are forwarded to all processes. If a process fails, the others
are terminated, and the exit status of the script is that of the first process that failed.
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
_POLL_SECONDS = 0.05
_LAST_LINES_SECONDS = 5.0


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the pod or prints its commands; returns the exit status."""
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
    parser.add_argument("arguments", nargs="*", help="arguments of cfx_jax.main, after --")
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
    # A signal that arrives while a process starts Python is delivered once it can handle it.
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
        reader.join(_LAST_LINES_SECONDS)
    return 128 - code if code < 0 else code


def _start(
    command: Sequence[str], environment: dict[str, str], index: int
) -> tuple["subprocess.Popen[bytes]", int]:
    """Starts a process; returns it and the file descriptor of its output."""
    # A process redraws its progress only on a terminal.
    reader, writer = pty.openpty() if _shows_progress(index) else os.pipe()
    if os.isatty(writer):
        termios.tcsetwinsize(writer, termios.tcgetwinsize(sys.stdout.fileno()))
    process = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=writer,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # Otherwise a terminal sends Ctrl-C to the processes, too.
    )
    os.close(writer)
    return process, reader


def _shows_progress(index: int) -> bool:
    return index == 0 and sys.stdout.isatty()


def _read(descriptor: int) -> bytes:
    """Reads available output; returns no bytes once all writers have ended."""
    try:
        return os.read(descriptor, 1 << 16)
    except OSError:  # A pseudo-terminal reports its end by this error.
        return b""


def _wait(
    processes: Sequence["subprocess.Popen[bytes]"], received: list[int], screen: "_Screen"
) -> int:
    """Waits for all processes and forwards signals; returns the first return code other than 0."""
    first_code, is_forwarded, kill_time = 0, False, float("inf")
    while True:
        while received:
            _send(received.pop(0), processes)
            is_forwarded = True
        codes = [process.poll() for process in processes]
        index, code = next(((i, code) for i, code in enumerate(codes) if code), (0, 0))
        if code and not first_code:
            first_code = code
            screen.print([f"[pod] process {index} {_describe_end(code)}"])
            if not is_forwarded:  # Otherwise they are already ending.
                _send(signal.SIGTERM, processes)
                kill_time = time.monotonic() + KILL_AFTER_SECONDS
        if None not in codes:
            return first_code
        if time.monotonic() > kill_time:
            _send(signal.SIGKILL, processes)
        time.sleep(_POLL_SECONDS)


def _describe_end(code: int) -> str:
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"ended with exit status {code}"


def _send(number: int, processes: Sequence["subprocess.Popen[bytes]"]) -> None:
    for process in processes:
        process.send_signal(number)  # Has no effect on a process that has ended.


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
            rest = _last_state(rest)  # The earlier states are overwritten.
            progress = None
            if _shows_progress(index):
                state = _visible(rest) if rest.startswith("\r") else ""
                progress = state and label + state
            self.print([label + _visible(line) for line in lines], progress)
        if rest:
            self.print([label + _visible(rest)], "" if index == 0 else None)

    def print(self, lines: Sequence[str], progress: str | None = None) -> None:
        """Prints lines and, below them, the progress; None keeps the present one."""
        with self._lock:
            erased = "\r\x1b[K" if self._progress else ""
            if progress is not None:  # Truncated, since a wrapped line cannot be erased.
                self._progress = progress[: shutil.get_terminal_size().columns - 1]
            ended = "".join(f"{line}\n" for line in lines)
            print(f"{erased}{ended}{self._progress}", end="", flush=True)


def _last_state(text: str) -> str:
    """Returns the text of a line after its last carriage return."""
    return text[max(0, text.rstrip("\r").rfind("\r")) :]


def _visible(line: str) -> str:
    return _last_state(line).strip("\r").rstrip()


if __name__ == "__main__":
    sys.exit(main())
