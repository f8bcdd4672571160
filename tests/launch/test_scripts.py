"""The scripts in launch/: their output, their commands, and their errors."""

import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys

import pytest

from cfx_jax.runs.preemption import StoppedError

LAUNCH = pathlib.Path(__file__).parents[2] / "launch"
SCRIPTS = sorted(LAUNCH.glob("*.sh"))
STOPPED = f"0 {StoppedError(0.0)}"
FRUITLESS = f"0 {StoppedError(0.0, num_written=0)}"
ARGUMENTS = [
    "--config=configs/imagenet.py",
    "--workdir=gs://bucket/run 1",
    """--config.data.path=it's a "folder"; $HOME `id` * \\""",
    "--config.classifier.weights=é",
    "",
]
VARIABLES = {
    "tpu_vm.sh": {"PROJECT": "p", "ZONE": "z"},
    "tpu_slice.sh": {"PROJECT": "p", "ZONE": "z", "ACCELERATOR_TYPE": "v6e-16"},
    "gke_xpk.sh": {"PROJECT": "p", "ZONE": "z", "CLUSTER": "c", "ACCELERATOR_TYPE": "v6e-16"},
    "slurm.sh": {"SLURM_JOB_ID": "7", "SLURM_GPUS_ON_NODE": "4"},
}

# Records how it was called. The next line of `states` answers "describe", the next line of `runs`,
# an exit status and a text, answers what runs main.
TOOL = r"""#!/usr/bin/env bash
printf '%s\0' "${0##*/}" "$@" $'\n' >>"$FAKE/calls"
next() { head -n 1 "$FAKE/$1"; sed -i 1d "$FAKE/$1"; }
case "${0##*/} $*" in
  git\ *\ status\ *) cat "$FAKE/uncommitted" ;;
  *\ describe\ *)
    state=$(next states)
    case $state in
      ABSENT) echo 'ERROR: (gcloud) NOT_FOUND: Resource was not found.' >&2; exit 1 ;;
      ERROR) echo 'ERROR: no network' >&2; exit 1 ;;
    esac
    echo "$state" ;;
  *cfx_jax.main*)
    read -r status text <<<"$(next runs)"
    echo "$text" >&2
    exit "${status:-0}" ;;
esac
"""


class Machine:
    """A machine whose gcloud, xpk, sbatch, srun, scontrol and git only record their calls."""

    def __init__(self, folder):
        self.folder = folder
        self.tools = folder / "tools"
        self.tools.mkdir()
        for name in ("gcloud", "xpk", "sbatch", "srun", "scontrol", "git"):
            (self.tools / name).write_text(TOOL)
            (self.tools / name).chmod(0o755)
        for name in ("states", "runs", "uncommitted", "calls"):
            (folder / name).touch()

    def answer(self, name, lines):
        (self.folder / name).write_text("".join(f"{line}\n" for line in lines))

    def run(self, script, *arguments, output=subprocess.PIPE, **variables):
        environment = {
            "PATH": f"{self.tools}:{os.environ['PATH']}",
            "FAKE": str(self.folder),
            "TMPDIR": str(self.folder),
            "POLL_SECONDS": "0",
            "LC_ALL": "C.UTF-8",
        }
        return subprocess.run(
            ["bash", LAUNCH / script, *arguments],
            env=environment | variables, text=True, check=False, timeout=60, stdout=output,
            stderr=output,
        )  # fmt: skip

    def calls(self):
        calls = (self.folder / "calls").read_text().split("\n\0")[:-1]
        return [call.split("\0")[:-1] for call in calls]

    def verbs(self):
        """Returns the verbs of the calls of gcloud, and the commands that run main."""
        names = {"describe", "create", "delete", "scp", "ssh"}
        calls = [call for call in self.calls() if call[0] == "gcloud"]
        verbs = [next(word for word in call if word in names) for call in calls]
        return [
            "run" if "cfx_jax.main" in call[-1] else verb
            for verb, call in zip(verbs, calls, strict=True)
        ]


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def commands(printed):
    return [shlex.split(line) for line in printed.splitlines()]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_pass_shellcheck(script):
    shellcheck = shutil.which("shellcheck", path=pathlib.Path(sys.executable).parent)
    found = subprocess.run(
        [shellcheck, "--external-sources", script], capture_output=True, text=True, check=False
    )
    assert (found.returncode, found.stdout) == (0, "")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_can_be_parsed_by_bash(script):
    subprocess.run(["bash", "-n", script], check=True)


@pytest.mark.parametrize("script", VARIABLES)
def test_scripts_dry_run_prints_what_a_run_executes(script, machine):
    dry = machine.run(script, "--dry_run", *ARGUMENTS, **VARIABLES[script])
    assert (dry.returncode, dry.stderr, machine.calls()) == (0, "", [])
    printed = commands(dry.stdout)
    machine.answer("states", ["ABSENT", "ACTIVE"])
    assert machine.run(script, *ARGUMENTS, **VARIABLES[script]).returncode == 0
    if script == "slurm.sh":  # Where sbatch starts the script.
        assert printed.pop(0) == ["sbatch", "launch/slurm.sh", *ARGUMENTS]
    assert machine.calls() == printed


@pytest.mark.parametrize(
    ("script", "before"),
    [
        ("tpu_vm.sh", "cd cfx_jax && ../cfx_env/bin/python -m cfx_jax.main"),
        ("tpu_slice.sh", "cd cfx_jax && ../cfx_env/bin/python -m cfx_jax.main --distributed"),
        ("gke_xpk.sh", "pip install --quiet '.[tpu]' && python -m cfx_jax.main --distributed"),
    ],
)
def test_scripts_pass_arguments_through_both_shells(script, before, machine):
    printed = machine.run(script, "--dry_run", *ARGUMENTS, **VARIABLES[script]).stdout
    (run,) = [line for line in commands(printed) if "cfx_jax.main" in line[-1]]
    remote = run[-1].removeprefix("--command=").removesuffix("; exit $?")
    assert remote.startswith(before)
    assert shlex.split(remote) == [*shlex.split(before), *ARGUMENTS]
    echoed = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {remote.removeprefix(before)}"], capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    assert echoed.stdout.split("\0")[:-1] == ARGUMENTS


@pytest.mark.parametrize(
    ("script", "settings", "expected"),
    [
        ("tpu_vm.sh", {}, ["tpu-vm create cfx-jax", "v6e-8", "version=v2-alpha-tpuv6e", "delete"]),
        ("tpu_vm.sh", {"ACCELERATOR_TYPE": "v4-8", "NAME": "n"}, ["create n", "ubuntu2204-base"]),
        ("tpu_vm.sh", {"ACCELERATOR_TYPE": "v5p-8"}, ["--version=v2-alpha-tpuv5\n"]),
        ("tpu_vm.sh", {"RUNTIME_VERSION": "mine"}, ["--version=mine"]),
        ("tpu_slice.sh", {"SPOT": "1"}, ["queued-resources create", " --spot\n", "--worker=all"]),
        ("tpu_slice.sh", {"ACCELERATOR_TYPE": "v5litepod-64"}, ["runtime-version=v2-alpha-tpuv5-"]),
        ("gke_xpk.sh", {"NUM_SLICES": "2"}, ["--num-slices=2", "--tpu-type=v6e-16", "--cluster=c"]),
        ("gke_xpk.sh", {"MAX_RESTARTS": "3", "BASE_IMAGE": "i"}, ["restarts=3", "-image=i"]),
    ],
)
def test_scripts_read_settings_from_variables(script, settings, expected, machine):
    printed = machine.run(script, "--dry_run", *ARGUMENTS, **VARIABLES[script] | settings).stdout
    assert [part for part in expected if part not in printed] == []


@pytest.mark.parametrize(
    ("script", "name"),
    [(s, name) for s in ("tpu_vm.sh", "tpu_slice.sh", "gke_xpk.sh") for name in VARIABLES[s]],
)
def test_scripts_name_a_missing_variable(script, name, machine):
    rest = {key: value for key, value in VARIABLES[script].items() if key != name}
    result = machine.run(script, *ARGUMENTS, **rest)
    assert result.returncode != 0
    assert f"{name}: is not set; expected" in result.stderr
    assert machine.calls() == []


@pytest.mark.parametrize("script", ["tpu_vm.sh", "tpu_slice.sh", "gke_xpk.sh"])
@pytest.mark.parametrize(
    "arguments", [[], ["--workdir=runs/a"], ["--workdir=gs://b/a", "--workdir", "runs/a"]]
)
def test_scripts_refuse_results_on_temporary_disks(script, arguments, machine):
    result = machine.run(script, *arguments, **VARIABLES[script])
    assert result.returncode == 2
    assert "expected gs://" in result.stderr
    assert machine.calls() == []


def test_scripts_accept_a_bucket_in_two_words(machine):
    result = machine.run("tpu_vm.sh", "--dry_run", "--workdir", "gs://b/a", PROJECT="p", ZONE="z")
    assert result.returncode == 0


@pytest.mark.parametrize(
    ("states", "runs", "settings", "verbs", "status"),
    [
        (["ABSENT"], [], {}, "describe create scp ssh run delete", 0),
        (["ABSENT"], [], {"KEEP": "1"}, "describe create scp ssh run", 0),
        (["READY"], [], {}, "describe scp ssh run delete", 0),
        (["ABSENT"], ["3 error: no such file"], {}, "describe create scp ssh run", 3),
        (["ABSENT"], [STOPPED], {}, "describe create scp ssh run", 143),
    ],
)
def test_tpu_vm_script_deletes_the_vm_only_after_success(
    states, runs, settings, verbs, status, machine
):
    machine.answer("states", states)
    machine.answer("runs", runs)
    result = machine.run("tpu_vm.sh", *ARGUMENTS, **VARIABLES["tpu_vm.sh"] | settings)
    assert (machine.verbs(), result.returncode) == (verbs.split(), status)
    how_to_delete = "gcloud compute tpus tpu-vm delete cfx-jax --project=p --zone=z --quiet\n"
    assert result.stderr.endswith(how_to_delete) == (status != 0)


ASK = "describe create describe"
TRY = "scp ssh run"


@pytest.mark.parametrize(
    ("states", "runs", "verbs", "status"),
    [
        pytest.param(["ABSENT", "ACTIVE"], ["0"], f"{ASK} {TRY} delete", 0, id="undisturbed"),
        pytest.param(
            ["ABSENT", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"], ["0"],
            f"{ASK} describe describe {TRY} delete", 0, id="waits",
        ),
        pytest.param(["ACTIVE"], ["0"], f"describe {TRY} delete", 0, id="takes over"),
        pytest.param(
            ["ABSENT", "ACTIVE", "SUSPENDED", "SUSPENDED", "ABSENT", "ACTIVE"], ["255", "0"],
            f"{ASK} {TRY} describe describe delete {ASK} {TRY} delete", 0, id="pre-empted",
        ),
        pytest.param(
            ["ABSENT", "ACTIVE", "ACTIVE", "SUSPENDING", "SUSPENDED", "ABSENT", "ACTIVE"],
            [STOPPED, "0"],
            f"{ASK} {TRY} describe describe describe delete {ASK} {TRY} delete", 0,
            id="pre-empted, and stopped in time",
        ),
        pytest.param(
            ["ABSENT", "ACTIVE", *["SUSPENDED"] * 2, "ABSENT", "FAILED", "ABSENT", "ACTIVE"],
            ["255", "0"],
            f"{ASK} {TRY} describe describe delete {ASK} delete {ASK} {TRY} delete", 0,
            id="pre-empted, and at first not replaced",
        ),
        pytest.param(
            ["FAILED", "ABSENT", "ACTIVE"], ["0"],
            f"describe delete {ASK} {TRY} delete", 0, id="left by an earlier launch",
        ),
        pytest.param(["ABSENT", "FAILED"], [], ASK, 1, id="cannot be had"),
        pytest.param(["ABSENT", "ACTIVE"], ["2 error"], f"{ASK} {TRY}", 2, id="user error"),
        pytest.param(
            ["ABSENT", *["ACTIVE"] * 7], ["1 error"],
            f"{ASK} {TRY}{' describe' * 6}", 1, id="run fails, slice stays",
        ),
        pytest.param(
            ["ABSENT", "ERROR", "ERROR", "ACTIVE"], ["0"],
            f"{ASK} describe describe {TRY} delete", 0, id="network gone for a moment",
        ),
        pytest.param(["ERROR"], [], "describe", 1, id="no rights"),
        pytest.param(
            ["ABSENT", *["ERROR"] * 20], [], f"{ASK}{' describe' * 19}", 1, id="network gone",
        ),
    ],
)  # fmt: skip
def test_tpu_slice_script_waits_for_and_replaces_a_slice(states, runs, verbs, status, machine):
    machine.answer("states", states)
    machine.answer("runs", runs)
    result = machine.run("tpu_slice.sh", *ARGUMENTS, **VARIABLES["tpu_slice.sh"])
    assert (machine.verbs(), result.returncode) == (verbs.split(), status)
    assert (machine.folder / "states").read_text() == (machine.folder / "runs").read_text() == ""
    tells_how_to_delete = "queued-resources delete cfx-jax" in result.stderr
    assert tells_how_to_delete == (status != 0 and states != ["ERROR"])


def test_tpu_slice_script_uses_every_host(machine):
    machine.answer("states", ["ACTIVE"])
    machine.run("tpu_slice.sh", *ARGUMENTS, **VARIABLES["tpu_slice.sh"])
    on_hosts = [call for call in machine.calls() if {"scp", "ssh"} & set(call)]
    assert len(on_hosts) == 3
    assert all("--worker=all" in call for call in on_hosts)


def test_scripts_name_uncommitted_changes(machine):
    machine.answer("uncommitted", [" M configs/imagenet.py"])
    result = machine.run("tpu_vm.sh", *ARGUMENTS, **VARIABLES["tpu_vm.sh"])
    assert "these changes are not:\n M configs/imagenet.py\n" in result.stderr


@pytest.mark.parametrize(
    ("answer", "requeued", "status"),
    [
        ("0 done", False, 0), (STOPPED, True, 0), (FRUITLESS, True, 0),
        (f"1{STOPPED[1:]}", False, 1), ("2 e", False, 2), ("143 e", False, 143),
    ],
)  # fmt: skip
def test_slurm_script_requeues_a_stopped_job(answer, requeued, status, machine):
    machine.answer("runs", [answer])
    result = machine.run("slurm.sh", *ARGUMENTS, **VARIABLES["slurm.sh"])
    assert result.returncode == status
    assert answer.split(maxsplit=1)[1] in result.stdout
    calls = machine.calls()
    assert calls.pop(0)[-len(ARGUMENTS) :] == ARGUMENTS
    assert calls == ([["scontrol", "requeue", "7"]] if requeued else [])
    assert [path.name for path in machine.folder.iterdir() if path.name.startswith("tmp.")] == []


def test_slurm_script_abandons_a_job_that_writes_nothing_new(machine):
    """The output file is appended to when the job is queued again."""
    starts = [FRUITLESS, STOPPED, *[FRUITLESS] * 5]
    machine.answer("runs", starts)
    with (machine.folder / "output").open("a") as output:
        statuses = [
            machine.run("slurm.sh", output=output, **VARIABLES["slurm.sh"]).returncode
            for _ in starts
        ]
    assert statuses == [0] * 6 + [1]
    assert len([call for call in machine.calls() if call[0] == "scontrol"]) == 6
    lines = (machine.folder / "output").read_text().splitlines()
    fruitless = "queued again: nothing new was written in"
    assert [line for line in lines if line.startswith("queued")] == [
        f"{fruitless} 1 starts", "queued again", *(f"{fruitless} {n} starts" for n in range(1, 5))
    ]  # fmt: skip
    assert lines[-1].startswith("not queued again: nothing new was written in 5 starts; expected")


def test_slurm_script_refuses_to_start_by_hand(machine):
    result = machine.run("slurm.sh", *ARGUMENTS)
    assert result.returncode == 2
    assert "submit it: sbatch" in result.stderr
    assert machine.calls() == []


@pytest.mark.parametrize(
    ("settings", "gpus", "ids"),
    [
        ({}, 0, None),
        ({"SBATCH_GPUS_PER_NODE": "a100:2"}, 2, "0,1"),
        ({"SBATCH_GPUS_PER_NODE": "a100"}, 1, "0"),
        ({"SBATCH_GPUS_PER_NODE": ""}, 0, None),
        ({"SBATCH_GPUS_PER_NODE": "0"}, 0, None),
        ({"SBATCH_GPUS_PER_NODE": "8", "SLURM_GPUS_ON_NODE": "3"}, 3, "0,1,2"),
    ],
)
def test_slurm_script_gives_a_process_all_gpus_of_its_node(settings, gpus, ids, machine):
    run = commands(machine.run("slurm.sh", "--dry_run", **settings).stdout)[1]
    assert run[:3] == ["srun", "--kill-on-bad-exit=1", f"--gpus-per-node={gpus}"]
    passed_on = [word for word in run if word.startswith("JAX_LOCAL_DEVICE_IDS=")]
    assert passed_on == ([f"JAX_LOCAL_DEVICE_IDS={ids}"] if ids else [])


def test_slurm_script_blocks_sigterm_at_start_where_env_can(machine):
    dry = ("slurm.sh", "--dry_run")
    assert "--block-signal=TERM" in commands(machine.run(*dry).stdout)[1]
    (machine.tools / "env").write_text("#!/bin/sh\nexit 125\n")
    (machine.tools / "env").chmod(0o755)
    run = commands(machine.run(*dry).stdout)[1]
    assert run[run.index("env") + 1] == "python"


def test_slurm_script_options_are_readable_by_slurm():
    text = (LAUNCH / "slurm.sh").read_text()
    options = re.findall(r"^#SBATCH (--.+)$", text, re.MULTILINE)
    # None of GPUs and CPUs: Slurm refuses those that do not fit others of the command line.
    assert set(options) == {
        "--job-name=cfx_jax", "--nodes=1", "--ntasks-per-node=1", "--requeue", "--signal=TERM@60",
        "--open-mode=append",
    }  # fmt: skip
    # Slurm stops looking for options at the first command.
    first_command = re.search(r"^[^#\n]", text, re.MULTILINE).start()
    assert text.rindex("\n#SBATCH") < first_command


def test_slurm_script_works_as_a_lone_copy(machine):
    shutil.copy(LAUNCH / "slurm.sh", machine.folder / "slurm_script")
    for arguments in (["--dry_run"], []):
        ended = machine.run(machine.folder / "slurm_script", *arguments, **VARIABLES["slurm.sh"])
        assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize("slow", ["pip", "python"])
@pytest.mark.parametrize("num_signals", [1, 2])
def test_gke_xpk_script_restarts_stopped_pods(slow, num_signals, machine):
    """XPK runs the command as below: exit status 0 counts as done, 143 as lost."""
    xpk = (
        "_sigterm() (kill -SIGTERM $! 2>/dev/null;); trap _sigterm SIGTERM; ({command}) & PID=$!; "
        "while kill -0 $PID 2>/dev/null; do sleep 0.1; done; wait $PID"
    )
    for name in ("pip", "python"):
        (machine.tools / name).write_text("#!/bin/sh\n")
    (machine.tools / slow).write_text(
        "#!/usr/bin/env bash\ntrap 'exit 0' TERM\necho started\nfor _ in {1..20}; do sleep .1; done"
    )
    for name in ("pip", "python"):
        (machine.tools / name).chmod(0o755)
    machine.run("gke_xpk.sh", *ARGUMENTS, **VARIABLES["gke_xpk.sh"])
    command = machine.calls()[0][-1].removeprefix("--command=")
    with subprocess.Popen(
        ["bash", "-c", xpk.format(command=command)], stdout=subprocess.PIPE,
        env=os.environ | {"PATH": f"{machine.tools}:{os.environ['PATH']}"},
    ) as pod:  # fmt: skip
        assert pod.stdout.readline() == b"started\n"
        for _ in range(num_signals):
            pod.send_signal(signal.SIGTERM)
        assert pod.wait(timeout=30) == 128 + signal.SIGTERM
