"""launch/slurm.sh on a real Slurm: launch/local_slurm.py starts two nodes on this machine."""

import os
import pathlib
import re
import select
import shutil
import subprocess
import sys
import time

import psutil
import pytest

from cfx_jax.runs.preemption import StoppedError

ROOT = pathlib.Path(__file__).parents[2]
PATH = f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin"
HAS_SLURM = shutil.which("slurmctld", path=PATH) and shutil.which("slurmd", path=PATH)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not HAS_SLURM, reason="no slurmctld: apt-get install slurm-wlm"),
]
TWO_NODES = ("--nodes=2", "--gpus-per-node=2", "--cpus-per-task=4")
# Small, but long enough to be disturbed after the first of its 12 units.
SMALL = (
    "--config.generator.name=grey", "--config.explain.objective=ssr",
    "--config.data.max_examples=24", "--config.batch.unit_size=2",
)  # fmt: skip
# Prints the devices that each process is given.
SHOW = """#!/bin/sh
echo "node $SLURM_NODEID: ${JAX_LOCAL_DEVICE_IDS-none} of ${CUDA_VISIBLE_DEVICES-none}"
"""


class Slurm:
    """A cluster, and jobs of launch/slurm.sh on it."""

    def __init__(self, conf, folder, environment):
        self._folder = folder
        self._urged = set()
        self._environment = environment | {
            "SLURM_CONF": conf, "PATH": PATH, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        }  # fmt: skip

    def ask(self, *command, python=None):
        """Runs a command of Slurm; `python` is a program in place of Python."""
        environment = dict(self._environment)
        if python:
            environment["PATH"] = f"{python.parent}:{PATH}"
        ended = subprocess.run(
            command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert ended.returncode == 0, f"{command}: {ended.stderr}"
        return ended.stdout.strip()

    def submit(self, *options, arguments=(), python=None):
        """Submits launch/slurm.sh; returns the number of the job."""
        output = f"--output={self._folder}/%j.log"
        command = ("sbatch", "--parsable", output, *options, ROOT / "launch/slurm.sh", *arguments)
        return self.ask(*command, python=python)

    def output(self, job):
        path = self._folder / f"{job}.log"
        return path.read_text() if path.exists() else ""

    def state(self, job):
        """Returns (state, exit status, number of restarts)."""
        shown = self.ask("scontrol", "show", "job", "--oneliner", job)
        found = dict(re.findall(r"\b(JobState|ExitCode|Restarts)=(\w+)", shown))
        return found["JobState"], int(found["ExitCode"]), int(found["Restarts"])

    def wait(self, job, condition, seconds=120):
        """Waits until the result of `state` meets a condition."""
        give_up = time.monotonic() + seconds
        while not condition(*(seen := self.state(job))):
            assert time.monotonic() < give_up, f"{seen}\n{self.output(job)}"
            time.sleep(0.05)

    def wait_for_start(self, job, restart):
        """Waits until a job runs after `restart` restarts."""

        def runs(state, _, restarts):
            self._urge(job, state, restarts)
            assert not ended(state), self.output(job)
            return (state, restarts) == ("RUNNING", restart)

        self.wait(job, runs)

    def _urge(self, job, state, restarts):
        """Makes a job that was queued again start in 3 s.

        Not at once, because a node refuses a job that it has killed in the same second.
        """
        if state == "PENDING" and restarts and (job, restarts) not in self._urged:
            command = ["scontrol", "update", f"JobId={job}", "StartTime=now+3"]
            # Its state is unknown while its last processes end.
            if not subprocess.run(command, env=self._environment, capture_output=True).returncode:
                self._urged.add((job, restarts))

    def finish(self, job, restarts=0):
        """Waits for the end of a job that was started again so often; returns its exit status."""
        self.wait(job, lambda state, _, n: self._urge(job, state, n) or ended(state))
        _, code, seen = self.state(job)
        assert seen == restarts, self.output(job)
        return code


def ended(state):
    # There are others in between, such as SIGNALING.
    return state in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED")


@pytest.fixture(scope="module")
def slurm(commands, tmp_path_factory):
    folder = tmp_path_factory.mktemp("slurm")
    with (folder / "errors").open("w") as errors:
        cluster = subprocess.Popen(
            [sys.executable, ROOT / "launch/local_slurm.py", f"--folder={folder}", "--gpus=4"],
            stdout=subprocess.PIPE, stderr=errors, text=True,
        )  # fmt: skip
    try:
        ready, _, _ = select.select([cluster.stdout], [], [], 60)
        assert ready, "the cluster does not start"
        variable, _, conf = cluster.stdout.readline().strip().partition("=")
        assert variable == "export SLURM_CONF", (folder / "errors").read_text()
        yield Slurm(conf, folder, commands.environment)
    finally:
        cluster.terminate()
        cluster.stdout.close()
        assert cluster.wait(60) == 0


@pytest.fixture(scope="module")
def expected(commands, files, tmp_path_factory):
    """The bytes of an undisturbed run: two processes with two devices each."""
    workdir = tmp_path_factory.mktemp("expected") / "run"
    commands.run(workdir, *SMALL, pod=(2, 2), num_steps=60)
    return files(workdir)


def num_units(workdir):
    return len(list(workdir.glob("records.zarr/complete/c/*")))


def num_processes(workdir):
    """Counts the processes of a run, not those that start them."""
    commands = [process.info["cmdline"] or [""] for process in psutil.process_iter(["cmdline"])]
    mine = [command for command in commands if f"--workdir={workdir}" in command]
    return sum(pathlib.PurePath(command[0]).name == "python" for command in mine)


def test_slurm_job_disturbed_repeatedly_ends_with_the_same_bytes(
    slurm, commands, files, expected, tmp_path
):
    workdir = tmp_path / "run"
    job = slurm.submit(*TWO_NODES, arguments=commands.arguments(workdir, *SMALL, num_steps=60))
    # While Python starts, and again while it stops.
    slurm.wait(job, lambda *_: num_processes(workdir) == 2)
    slurm.ask("scancel", "--signal=TERM", job)
    slurm.ask("scancel", "--signal=TERM", job)
    slurm.wait_for_start(job, 1)
    assert num_units(workdir) == 0
    # Pre-empted, with fifteen seconds to stop.
    slurm.wait(job, lambda *_: num_units(workdir) >= 1)
    other = slurm.ask(
        "sbatch", "--parsable", "--partition=high", "--exclusive", "--nodes=2", "--wrap=true",
        "--output=/dev/null",
    )  # fmt: skip
    slurm.wait(job, lambda state, _, restarts: restarts == 2 or ended(state))
    kept = num_units(workdir)
    assert 1 <= kept < 12
    assert slurm.finish(other) == 0
    # Queued again by hand: the processes are killed.
    slurm.wait_for_start(job, 2)
    slurm.wait(job, lambda *_: num_units(workdir) > kept)
    slurm.ask("scontrol", "requeue", job)
    assert slurm.finish(job, restarts=3) == 0
    output = slurm.output(job)
    assert output.count("resume with the same command") == 4, output
    assert output.count("queued again") == 2, output
    assert files(workdir) == expected


def test_slurm_wrong_config_ends_two_nodes_with_its_message_and_2(slurm, tmp_path):
    arguments = [f"--workdir={tmp_path}/run", "--config.data.path=/no/such/folder"]
    job = slurm.submit(*TWO_NODES, arguments=["--config=configs/folder.py", *arguments])
    assert slurm.finish(job) == 2
    lines = [line for line in slurm.output(job).splitlines() if not re.match("srun|slurmst", line)]
    assert {line.partition(": ")[0] for line in lines} == {"error"}, slurm.output(job)
    assert "/no/such/folder" in lines[-1]


def stand_in(folder, text):
    """Writes a program that replaces Python."""
    program = folder / "python"
    program.write_text(text)
    program.chmod(0o755)
    return program


@pytest.mark.parametrize(
    ("options", "gpus"),
    [
        ((), 0),
        (("--gpus-per-node=0",), 0),
        (("--gpus-per-node=3",), 3),
        (("--gres=gpu:2", "--nodes=2"), 2),
        (("--gpus=2", "--cpus-per-task=3"), 2),
        (("--gpus-per-node=2", "--cpus-per-gpu=4"), 2),
        (("--exclusive", "--nodes=2"), 4),
        (("--exclusive", "--gpus-per-node=1"), 4),
    ],
)
def test_slurm_process_has_the_gpus_given_to_jax(options, gpus, slurm, tmp_path):
    job = slurm.submit(*options, python=stand_in(tmp_path, SHOW))
    assert slurm.finish(job) == 0
    ids = ",".join(map(str, range(gpus))) or "none"
    nodes = range(2 if "--nodes=2" in options else 1)
    lines = [line for line in slurm.output(job).splitlines() if line.startswith("node ")]
    assert sorted(lines) == [f"node {node}: {ids} of {ids}" for node in nodes]


def test_slurm_job_that_writes_nothing_new_is_abandoned(slurm, tmp_path):
    program = stand_in(tmp_path, f"#!/bin/sh\necho '{StoppedError(0.0, num_written=0)}'\n")
    job = slurm.submit(python=program)
    assert slurm.finish(job, restarts=4) == 1
    assert "not queued again: nothing new was written in 5 starts" in slurm.output(job)
