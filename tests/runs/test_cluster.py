"""Joining other processes: the meaning of the flags, and errors."""

import dataclasses
import json
import socket
import subprocess
import sys
import threading
import types

import jax
import pytest

import cfx_jax
from cfx_jax.config import ConfigError
from cfx_jax.runs import cluster
from cfx_jax.runs.preemption import StoppedError, StopRequest


@pytest.fixture
def joined(monkeypatch):
    """Replaces `initialize`; gives a function that joins with flags and returns the calls."""
    calls = []
    monkeypatch.setattr(
        jax.distributed, "initialize", lambda *arguments, **_: calls.append(arguments)
    )

    def give(stop=None, **given):
        expected = {
            "distributed": False, "coordinator_address": None, "num_processes": None,
            "process_id": None, "join_seconds": 60.0,
        }  # fmt: skip
        values = types.SimpleNamespace(flag_values_dict=lambda: expected | given)
        monkeypatch.setattr(cluster.flags, "FLAGS", values)
        cluster.join(stop or StopRequest())
        return calls

    preemption_service = jax.config.jax_enable_preemption_service
    yield give
    jax.config.update("jax_enable_preemption_service", preemption_service)


def test_joined_without_flags_is_a_single_process(joined):
    assert joined() == []


def test_joined_lets_jax_detect_slices_and_slurm(joined):
    assert joined(distributed=True) == [(None, None, None)]


@pytest.mark.parametrize("distributed", [False, True])
def test_joined_plain_machines_name_their_coordinator(joined, distributed):
    others = {"coordinator_address": "host:1234", "num_processes": 4, "process_id": 3}
    assert joined(distributed=distributed, **others) == [("host:1234", 4, 3)]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"coordinator_address": "host:1234"}, "go together"),
        ({"num_processes": 2, "process_id": 0}, "go together"),
        ({"coordinator_address": "host:1", "num_processes": 2, "process_id": 2}, "expected 0 to 1"),
        *(
            ({"coordinator_address": address, "num_processes": 2, "process_id": 0}, "HOST:PORT")
            for address in ("host", "host:", ":1", "host:port", "http://host")
        ),
    ],
)
def test_joined_refuses_inconsistent_flags(joined, given, message):
    with pytest.raises(ConfigError, match=message):
        joined(**given)


def test_joined_names_an_incomplete_environment(joined, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("half an environment")

    monkeypatch.setattr(jax.distributed, "initialize", fail)
    with pytest.raises(ConfigError, match=r"cannot join the other processes \(half an environment"):
        joined(distributed=True)


@pytest.fixture
def others_are_late(monkeypatch):
    """JAX waits for them, in C, until the test is over."""
    over = threading.Event()
    monkeypatch.setattr(jax.distributed, "initialize", lambda *_, **__: over.wait())
    yield
    over.set()


def test_joined_stops_on_request_while_waiting(joined, others_are_late):
    stop = StopRequest()
    timer = threading.Timer(0.1, lambda: setattr(stop, "deadline", 0.0))
    timer.start()
    with pytest.raises(StoppedError, match="before anything new was written"):
        joined(stop, distributed=True)
    timer.join()


def test_joined_stops_on_an_earlier_request(joined):
    stop = StopRequest()
    stop.deadline = 0.0
    with pytest.raises(StoppedError):
        joined(stop, distributed=True)


def test_joined_times_out_without_an_answer(joined, others_are_late):
    with pytest.raises(ConfigError, match=r"the environment does not describe them within 0\.01"):
        joined(distributed=True, join_seconds=0.01)


@pytest.mark.parametrize(
    ("host", "index", "message"),
    [
        ("localhost", 1, "process 1 did not reach process 0 at localhost:{port} ([Errno "),
        ("no.such.host.invalid", 1, "did not reach process 0 at no.such.host.invalid:{port} ([Err"),
        ("localhost", 0, "not all 2 processes reached process 0 at localhost:{port} within 0.1"),
    ],
)
def test_joined_names_the_unreached_process_before_jax_aborts(host, index, message):
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "cfx_jax.main", f"--coordinator_address={host}:{port}"),
            *("--num_processes=2", f"--process_id={index}", "--join_seconds=0.1"),
        ],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (ended.returncode, ended.stdout) == (2, "")
    (line,) = ended.stderr.splitlines()
    assert line.startswith("error: cannot join the other processes: ")
    assert message.format(port=port) in line


def test_devices_for_a_host_model_is_one_device(caplog):
    classifier = cfx_jax.Classifier(params=(), apply=lambda params, images: images)
    assert cluster.devices_for(classifier) == jax.local_devices()
    assert not caplog.records
    on_host = dataclasses.replace(classifier, host_weights="5e3a", name="own")
    assert cluster.devices_for(on_host) == jax.local_devices()[:1]
    assert "own runs on the host: one of 8 devices is used" in caplog.text


def test_environment_lists_versions_and_devices():
    found = cluster.environment()
    assert json.loads(json.dumps(found)) == found
    assert found["versions"]["cfx_jax"] == cfx_jax.__version__
    assert found["versions"]["jax"] == jax.__version__
    assert len(found["devices"]) == jax.local_device_count()


@pytest.mark.parametrize("code", [0, 2])
def test_leave_of_a_single_process_is_an_ordinary_exit(code):
    with pytest.raises(SystemExit) as ended:
        cluster.leave(code)
    assert ended.value.code == code


def test_wait_for_others_of_a_single_process_returns_at_once():
    cluster.wait_for_others(StopRequest())


# A process that joins the others and then runs `body`.
MEMBER = """
import sys, time
from absl import flags
from cfx_jax.commands import command_line
from cfx_jax.runs import cluster, preemption

def main():
    index = flags.FLAGS.process_id
    {body}

stop = preemption.listen()
cluster.define_flags()
command_line.run_main(main, stop=stop)
"""


def run_members(body, num_processes):
    """Returns the exit statuses and the outputs of processes that join each other."""
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]
    members = [
        subprocess.Popen(
            [
                *(sys.executable, "-c", MEMBER.format(body=body)),
                *(f"--coordinator_address=localhost:{port}", f"--num_processes={num_processes}"),
                f"--process_id={index}",
            ],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for index in range(num_processes)
    ]  # fmt: skip
    outputs = [member.communicate(timeout=60)[0] for member in members]
    return [member.returncode for member in members], outputs


@pytest.mark.parametrize(
    "body",
    [
        # Process 0 could go first; JAX would abort the other one.
        "time.sleep(0.5 * index); cluster.leave(3)",
        "time.sleep(0.5 * index); cluster.wait_for_others(stop); sys.exit(3)",
    ],
)
def test_leave_does_not_end_other_processes(body):
    assert run_members(body, 2) == ([3, 3], ["", ""])


def test_leave_without_other_processes_is_immediate():
    assert run_members("cluster.leave(3, time.monotonic() + 1000)", 1) == ([3], [""])
