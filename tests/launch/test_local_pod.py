"""launch/local_pod.py: its processes, signals, exit statuses and output, with a small program."""

import os
import pathlib
import pty
import shlex
import signal
import subprocess
import sys

import pytest

LAUNCH = pathlib.Path(__file__).parents[2] / "launch"
# Each process prints its flags, and then runs the argument with its number.
MAIN = r"""
import os, signal, sys, time

flags = dict(argument.removeprefix("--").split("=", 1) for argument in sys.argv[1:])
action = flags.get("do" + flags["process_id"], "nothing")

received = []

def hear(number, frame):
    print("received", signal.Signals(number).name)
    received.append(number)

if action == "show":
    print(sys.argv[1:])
    print([os.environ[name] for name in ("JAX_PLATFORMS", "XLA_FLAGS")])
elif action.startswith("exit"):
    sys.exit(int(action.removeprefix("exit")))
elif action == "die":
    os.kill(os.getpid(), signal.SIGKILL)
elif action in ("wait", "late"):
    if action == "late":
        print("ready")
        time.sleep(0.5)  # As long as Python takes to start.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, hear)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    if action == "wait":
        print("ready")
    for _ in range(600):
        time.sleep(0.1)
        if received:
            time.sleep(0.2)  # Is there another one?
            break
elif action == "ignore":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("ready")
    time.sleep(60)
elif action == "progress":
    print("redraws" if sys.stdout.isatty() else "lines")
    for state in ("", " 10%", " 20%", "      ", ""):
        sys.stderr.write("\r" + state)
        sys.stderr.flush()
    sys.stderr.write("an image is broken\n")
    sys.stderr.write("\r 30%")
    sys.stderr.flush()
    time.sleep(0.2)
    sys.stderr.write("\r100%\n")
    print("  indented, ended as on Windows\r")
    print("no end", end="")
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "cfx_jax").mkdir()
    (tmp_path / "cfx_jax" / "__init__.py").touch()
    (tmp_path / "cfx_jax" / "main.py").write_text(MAIN)
    return tmp_path


# Buffered output, the default of Python.
ENVIRONMENT = {name: os.environ[name] for name in os.environ if name != "PYTHONUNBUFFERED"}


def start(folder, *arguments, num_processes=2, options=(), program=None, **settings):
    """Starts a pod whose processes run the main above."""
    return subprocess.Popen(
        [
            *(sys.executable, *(program or [LAUNCH / "local_pod.py"])),
            *(f"--num_processes={num_processes}", "--devices_per_process=3", *options),
            *("--", *arguments),
        ],
        cwd=folder, env=ENVIRONMENT | {"PYTHONPATH": str(folder)} | settings, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


def finish(pod):
    """Returns what a pod wrote and its exit status."""
    written, errors = pod.communicate(timeout=60)
    assert errors == ""
    return written.splitlines(), pod.returncode


def lines_of(written, index):
    return [line.removeprefix(f"[{index}] ") for line in written if line.startswith(f"[{index}]")]


@pytest.mark.parametrize("num_processes", [1, 3])
def test_local_pod_gives_every_process_its_index(num_processes, folder):
    odd = '--config.x=it\'s "odd" $HOME'
    flags_of_run = [f"--do{index}=show" for index in range(num_processes)]
    pod = start(folder, odd, *flags_of_run, num_processes=num_processes, XLA_FLAGS="--a=1 --b")
    written, status = finish(pod)
    assert status == 0
    addresses = set()
    for index in range(num_processes):
        arguments, settings = map(eval, lines_of(written, index))
        assert arguments[: num_processes + 1] == [odd, *flags_of_run]
        address, *rest = arguments[num_processes + 1 :]
        assert rest == [f"--num_processes={num_processes}", f"--process_id={index}"]
        assert settings == ["cpu", "--a=1 --b --xla_force_host_platform_device_count=3"]
        addresses.add(address)
    (address,) = addresses
    name, _, port = address.rpartition(":")
    assert name == "--coordinator_address=localhost"
    assert 1024 <= int(port) < 1 << 16


def test_local_pod_dry_run_prints_equivalent_commands(folder):
    arguments = ["--do0=show", "--do1=show", '--config.x=it\'s "odd" $HOME']
    pod = start(folder, *arguments, options=["--dry_run"], XLA_FLAGS="--a=1 --b")
    printed, status = finish(pod)
    assert (len(printed), status) == (2, 0)
    for index, line in enumerate(printed):
        shown = subprocess.run(
            ["bash", "-c", line], cwd=folder, capture_output=True, text=True, check=True,
            env={"PATH": os.environ["PATH"]},
        ).stdout.splitlines()  # fmt: skip
        words = shlex.split(line)
        assert eval(shown[0]) == words[words.index("cfx_jax.main") + 1 :]
        assert eval(shown[0])[:3] == arguments
        assert eval(shown[0])[-1] == f"--process_id={index}"
        assert eval(shown[1]) == ["cpu", "--a=1 --b --xla_force_host_platform_device_count=3"]


@pytest.mark.parametrize(
    ("actions", "status", "lines"),
    [
        (["nothing", "nothing"], 0, []),
        (["nothing", "exit3"], 3, ["process 1 ended with exit status 3"]),
        (["exit3", "wait"], 3, ["process 0 ended with exit status 3"]),
        (["wait", "exit3", "wait"], 3, ["process 1 ended with exit status 3"]),
        (["wait", "die"], 128 + signal.SIGKILL, ["process 1 was killed by SIGKILL"]),
    ],
)
def test_local_pod_failure_ends_all_and_is_passed_on(actions, status, lines, folder):
    flags_of_run = [f"--do{index}={action}" for index, action in enumerate(actions)]
    written, code = finish(start(folder, *flags_of_run, num_processes=len(actions)))
    assert code == status
    assert lines_of(written, "pod") == lines


def test_local_pod_kills_a_process_that_does_not_end(folder):
    hasty = (
        f"import sys; sys.path.insert(0, {str(LAUNCH)!r}); import local_pod; "
        "local_pod.KILL_AFTER_SECONDS = 0.2; sys.exit(local_pod.main())"
    )
    pod = start(folder, "--do0=ignore", "--do1=exit4", program=["-c", hasty])
    _, status = finish(pod)
    assert status == 4


@pytest.mark.parametrize(
    ("send", "number"),
    [
        (os.kill, signal.SIGINT),
        (os.kill, signal.SIGTERM),
        (os.killpg, signal.SIGINT),  # As a terminal sends Ctrl-C.
    ],
)
def test_local_pod_signals_reach_all_processes_once(send, number, folder):
    with start(folder, "--do0=wait", "--do1=wait") as pod:
        assert {pod.stdout.readline() for _ in range(2)} == {"[0] ready\n", "[1] ready\n"}
        send(pod.pid, number)
        written, status = finish(pod)
    assert sorted(written) == [f"[0] received {number.name}", f"[1] received {number.name}"]
    assert status == 0


def test_local_pod_failure_after_a_signal_leaves_others_time(folder):
    with start(folder, "--do0=wait", "--do1=ignore", "--do2=exit0", num_processes=3) as pod:
        assert {pod.stdout.readline() for _ in range(2)} == {"[0] ready\n", "[1] ready\n"}
        pod.send_signal(signal.SIGINT)  # Process 1 has Python's own way to end on it.
        written, status = finish(pod)
    assert lines_of(written, 0) == ["received SIGINT"]
    assert "KeyboardInterrupt" in lines_of(written, 1)
    assert status == 128 + signal.SIGINT


def test_local_pod_delivers_a_signal_sent_before_the_handler(folder):
    with start(folder, "--do0=late", "--do1=late") as pod:
        assert {pod.stdout.readline() for _ in range(2)} == {"[0] ready\n", "[1] ready\n"}
        pod.send_signal(signal.SIGTERM)
        written, status = finish(pod)
    assert sorted(written) == ["[0] received SIGTERM", "[1] received SIGTERM"]
    assert status == 0


def test_local_pod_prints_the_last_state_of_progress_bars(folder):
    written, _ = finish(start(folder, "--do0=progress", "--do1=progress"))
    expected = [
        "lines", "an image is broken", "100%", "  indented, ended as on Windows", "no end"
    ]  # fmt: skip
    assert lines_of(written, 0) == lines_of(written, 1) == expected
    assert len(written) == 10


def test_local_pod_terminal_shows_the_progress_of_process_0(folder):
    reader, writer = pty.openpty()
    command = [sys.executable, LAUNCH / "local_pod.py", "--num_processes=2"]
    with subprocess.Popen(
        [*command, "--devices_per_process=1", "--", "--do0=progress", "--do1=progress"],
        cwd=folder, env=os.environ | {"PYTHONPATH": str(folder)}, stdout=writer,
    ) as pod:  # fmt: skip
        os.close(writer)
        written = b""
        while chunk := read(reader):
            written += chunk
    os.close(reader)
    assert pod.returncode == 0
    shown = written.decode().replace("\r\n", "\n")
    assert "[0]  30%" in shown
    assert "[1]  30%" not in shown
    # Wiped before anything else is printed: at the end of a line stands nothing but the line.
    screen = [line.rpartition("\r\x1b[K")[2] for line in shown.split("\n")]
    expected = ["an image is broken", "100%", "  indented, ended as on Windows", "no end"]
    assert lines_of(screen, 0) == ["redraws", *expected]
    assert lines_of(screen, 1) == ["lines", *expected]


def read(terminal):
    """Reads from a terminal; nothing once its other side is closed."""
    try:
        return os.read(terminal, 1 << 16)
    except OSError:
        return b""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--num_processes=0", "--devices_per_process=1"], "at least 1, got '0'"),
        (["--num_processes=2", "--devices_per_process=two"], "at least 1, got 'two'"),
        (["--num_processes=2"], "required: --devices_per_process"),
        (["--num_processes=2", "--devices_per_process=2", "--config=a"], "arguments: --config=a"),
    ],
)
def test_local_pod_refuses_wrong_options(arguments, message):
    result = subprocess.run(
        [sys.executable, LAUNCH / "local_pod.py", *arguments],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 2
    assert message in result.stderr
