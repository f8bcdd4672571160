"""Runs a Slurm cluster of two nodes on one machine, without root and munge, to try launch/slurm.sh.

    python launch/local_slurm.py --folder=/tmp/slurm [--gpus=4]

It needs the programs of Slurm (Debian: `apt-get install --no-install-recommends slurm-wlm`), prints
the environment variable with which `sbatch` and the other commands use this cluster, and runs it
until SIGINT or SIGTERM. The GPUs are simulated, so set JAX_PLATFORMS=cpu. The partition `high`
pre-empts jobs of `low`, which end `--grace` seconds after SIGTERM.
"""

import argparse
import contextlib
import getpass
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

_TIMEOUT_SECONDS = 30.0
_DAEMONS = ("slurmctld", "slurmd")
_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
# Both nodes have the address of this machine, but different ports. JAX connects to the first node,
# in the order of their names, by its name, so this node has the name of the machine. All daemons
# run as one user without authentication. The CPUs are simulated, too.
_CONF = """\
ClusterName=here
SlurmctldHost={host}
SlurmctldPort={ports[0]}
AuthType=auth/none
CredType=cred/none
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdSpoolDir={folder}/%n
SlurmdPidFile={folder}/%n.pid
SlurmdParameters=config_overrides
SlurmdTimeout=10
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
GresTypes=gpu
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
ReturnToService=2
KillWait=15
SchedulerParameters=sched_interval=1,bf_interval=1
NodeName={nodes[0]} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=16 Gres=gpu:{gpus}
NodeName={nodes[1]} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=16 Gres=gpu:{gpus}
PartitionName=low Nodes=ALL Default=YES PriorityTier=1 GraceTime={grace}
PartitionName=high Nodes=ALL PriorityTier=10
"""
# Any existing device can represent a GPU.
_GPUS = ("null", "zero", "full", "random")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the cluster until a signal; returns the exit status."""
    options = _parse(argv)
    lacking = [name for name in _DAEMONS if shutil.which(name, path=_PATH) is None]
    if lacking:
        print(f"error: {' and '.join(lacking)} not found; install Slurm", file=sys.stderr)
        return 2
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit(0))
    folder = options.folder.resolve()
    nodes = _write_settings(folder, options.gpus, options.grace)
    environment = os.environ | {"PATH": _PATH, "SLURM_CONF": f"{folder}/slurm.conf"}
    with _daemons(folder, nodes, environment):
        idle = "".join(f"{node} idle\n" for node in nodes)
        states = ["sinfo", "--noheader", "--Node", "--partition=low", "--format=%N %t"]
        if not _wait(lambda: _ask(states, environment) == idle):
            print(f"error: the nodes did not start; see {folder}/*.log", file=sys.stderr)
            return 1
        print(f"export SLURM_CONF={folder}/slurm.conf", flush=True)
        while True:
            signal.pause()


def _wait(condition: Callable[[], bool]) -> bool:
    """Waits for a condition; returns whether it has come true."""
    give_up = time.monotonic() + _TIMEOUT_SECONDS
    while not condition():
        if time.monotonic() > give_up:
            return False
        time.sleep(0.05)
    return True


def _ask(command: Sequence[str], environment: Mapping[str, str]) -> str:
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False
    ).stdout


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Holds a Slurm cluster of two nodes on this machine.", allow_abbrev=False
    )
    parser.add_argument("--folder", type=pathlib.Path, required=True, help="for its files")
    parser.add_argument("--gpus", type=int, choices=range(1, len(_GPUS) + 1), default=2)
    parser.add_argument("--grace", type=int, default=15, help="seconds, of a job of `low`")
    return parser.parse_args(argv)


def _write_settings(folder: pathlib.Path, gpus: int, grace: int) -> list[str]:
    """Writes the configuration files; returns the names of the nodes."""
    host = socket.gethostname().partition(".")[0]
    nodes = [host, f"{host}z"]
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(socket.create_server(("", 0))) for _ in range(3)]
        ports = [server.getsockname()[1] for server in servers]
    for name in ("state", *nodes):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "slurm.conf").write_text(
        _CONF.format(
            host=host,
            ports=ports,
            user=getpass.getuser(),
            folder=folder,
            nodes=nodes,
            gpus=gpus,
            grace=grace,
        )
    )
    (folder / "gres.conf").write_text(
        "".join(f"NodeName={','.join(nodes)} Name=gpu File=/dev/{name}\n" for name in _GPUS[:gpus])
    )
    return nodes


@contextlib.contextmanager
def _daemons(
    folder: pathlib.Path, nodes: Sequence[str], environment: Mapping[str, str]
) -> Iterator[None]:
    """Runs the controller and a daemon per node; at the end terminates them and their jobs."""
    commands = {"slurmctld": ["slurmctld", "-D"]}
    commands |= {node: ["slurmd", "-D", "-N", node] for node in nodes}
    daemons = []
    try:
        for name, command in commands.items():
            with (folder / f"{name}.log").open("w") as log:
                daemon = subprocess.Popen(
                    command,
                    env=environment,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # Else Ctrl-C ends them before their jobs.
                )
            daemons.append(daemon)
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        _ask(["scancel", "--user", getpass.getuser()], environment)
        _wait(lambda: not _ask(["squeue", "--noheader"], environment))
        for daemon in daemons:
            daemon.terminate()
        if not _wait(lambda: None not in [daemon.poll() for daemon in daemons]):
            for daemon in daemons:
                daemon.kill()


if __name__ == "__main__":
    sys.exit(main())
