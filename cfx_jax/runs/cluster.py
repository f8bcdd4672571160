"""Joins and leaves the processes that share one run: a TPU slice, a Slurm job, plain machines.

The processes share no computation. JAX must know all of them to find the devices of a slice, and
each process must know its index to take its own units of work.
"""

import concurrent.futures
import contextlib
import importlib.metadata
import logging
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

import jax
from absl import flags

# JAX has no public API for processes that have left, nor for the address it has found.
from jax._src import distributed

from cfx_jax import numerics
from cfx_jax.classifiers import Classifier
from cfx_jax.config import ConfigError
from cfx_jax.records import RecordReader
from cfx_jax.runs import preemption
from cfx_jax.version import __version__

_DISTRIBUTIONS = ("jax", "jaxlib", "flax", "optax", "numpy", "tensorstore")
_MAX_POLL_SECONDS = 16.0  # Longest pause between polls of files.
_SECONDS_TO_LEAVE = 0.25
_SECONDS_BETWEEN_CHECKS = 0.05  # Polling interval for signals of other processes.
# Longest time, on a busy machine, from the signal "left" of a process to its end.
_SECONDS_TO_EXIT = 1.0
_PLAIN = ("coordinator_address", "num_processes", "process_id")
# Variables that JAX needs in a Slurm job; `srun` sets all of them, `sbatch` and `salloc` do not.
_SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")
_logger = logging.getLogger(__name__)
_PLATFORMS = "jax_platforms"  # The setting of JAX that JAX_PLATFORMS sets.
_joined = threading.Event()


def define_flags() -> None:
    """Defines the flags that describe the other processes."""
    flags.DEFINE_bool(
        "distributed", False, "Join the other processes of this TPU slice or Slurm job."
    )
    flags.DEFINE_string(
        "coordinator_address", None, "HOST:PORT of process 0, to join processes on plain machines."
    )
    flags.DEFINE_integer(
        "num_processes", None, "Number of processes; with --coordinator_address.", lower_bound=1
    )
    flags.DEFINE_integer(
        "process_id", None, "Index of this process; with --coordinator_address.", lower_bound=0
    )
    flags.DEFINE_float(
        "join_seconds", 300.0, "How long to wait for the other processes.", lower_bound=0.0
    )


def join(stop: preemption.StopRequest) -> None:
    """Joins the other processes that the flags describe; call it before JAX is used.

    Every command calls it, including those that always run in one process, because none of them can
    continue without a device. Afterwards `jax.process_index()` of `jax.process_count()` identifies
    this process, and `jax.local_devices()` are its own devices.

    Args:
        stop: stop request, checked while waiting for the others.

    Raises:
        ConfigError: the flags are inconsistent, the other processes do not respond, or JAX has no
            device.
        StoppedError: the command was requested to stop.
    """
    stop.check()
    # Commands that always run in one process do not define these flags.
    given = flags.FLAGS.flag_values_dict()
    address, number, index = map(given.get, _PLAIN)
    plain = (address, number, index)
    if plain != (None, None, None):
        _check_plain(*plain)
    if given.get("distributed") or None not in plain:
        # This service of JAX would handle SIGTERM itself.
        jax.config.update("jax_enable_preemption_service", False)
        _connect(plain, given["join_seconds"], stop)
        stop.goes_last = _others() != [] and distributed.global_state.process_id == 0
    try:
        jax.local_devices()
    except Exception as error:  # Its message is empty if the platform has no plugin.
        raise ConfigError(_no_device(error)) from error


def _connect(
    plain: tuple[str | None, int | None, int | None], seconds: float, stop: preemption.StopRequest
) -> None:
    """Joins in a separate thread, because JAX meanwhile ignores signals and aborts on a timeout."""
    joined: concurrent.futures.Future[None] = concurrent.futures.Future()

    def initialize() -> None:
        try:
            # The timeout is in whole seconds, and longer than the wait below.
            jax.distributed.initialize(*plain, initialization_timeout=int(seconds) + 600)
            joined.set_result(None)
        except Exception as error:
            joined.set_exception(error)

    threading.Thread(target=initialize, daemon=True).start()
    give_up = time.monotonic() + seconds
    while not concurrent.futures.wait([joined], _SECONDS_BETWEEN_CHECKS).done:
        stop.check()
        if time.monotonic() > give_up:
            raise ConfigError(
                f"cannot join the other processes: {_who_is_missing()} within {seconds:g} s; "
                "--join_seconds=N waits longer"
            )
    try:
        joined.result()
        _joined.set()
    except Exception as error:  # An incomplete environment may raise any type.
        raise ConfigError(
            f"cannot join the other processes ({_environment_problem(error)}); on plain "
            "machines give every process the same --coordinator_address=HOST:PORT and "
            "--num_processes, and its own --process_id"
        ) from error


def _who_is_missing() -> str:
    state = distributed.global_state
    if state.coordinator_address is None:
        return "the environment does not describe them"
    host, _, port = state.coordinator_address.rpartition(":")
    if state.process_id:
        try:
            socket.create_connection((host.strip("[]"), int(port)), 5.0).close()
        except OSError as error:
            return f"process {state.process_id} did not reach process 0 at {host}:{port} ({error})"
    return f"not all {state.num_processes} processes reached process 0 at {host}:{port}"


def _check_plain(address: str | None, num_processes: int | None, process_id: int | None) -> None:
    if address is None or num_processes is None or process_id is None:
        raise ConfigError(
            "--coordinator_address, --num_processes and --process_id go together; on a TPU slice "
            "and under Slurm, --distributed alone finds them"
        )
    if not re.fullmatch(r"(\S*[^\s:\]]|\[\S+\]):\d+", address):
        raise ConfigError(f"--coordinator_address is {address!r}; expected HOST:PORT of process 0")
    if process_id >= num_processes:
        raise ConfigError(
            f"--process_id is {process_id}; expected 0 to {num_processes - 1}, since "
            f"--num_processes is {num_processes}"
        )


def _environment_problem(error: Exception) -> str:
    """Describes why JAX did not find the processes of a slice or a job."""
    lacking = [name for name in _SLURM if name not in os.environ]
    if 0 < len(lacking) < len(_SLURM):
        return (
            f"the environment of Slurm is incomplete, it lacks {', '.join(lacking)}: start the "
            "processes with srun, as launch/slurm.sh does"
        )
    if "coordinator_address should be defined" in str(error):
        return "no TPU slice and no Slurm job was found"
    reason = " ".join(str(error).split())
    # The text of other errors, such as KeyError, needs the type.
    return reason if isinstance(error, RuntimeError | ValueError) else f"{error!r}"


def _no_device(error: Exception) -> str:
    reason = " ".join(str(error).split()) or "JAX has no plugin for it"
    platforms = getattr(jax.config, _PLATFORMS)
    if not platforms:
        return f"JAX finds no device: {reason}"
    return (
        f"JAX finds no device for JAX_PLATFORMS={platforms} ({reason}); leave it unset to use any "
        "device, or install what JAX needs: pip install 'cfx_jax[cuda]' or 'cfx_jax[tpu]'"
    )


def resolve_numbers() -> None:
    """Resets settings of JAX, from environment variables, that would change or end a run.

    So a run that is resumed from another shell writes the same records.
    """
    for name, value in numerics.COMMAND_CONFIG.items():
        if getattr(jax.config, name) != value:
            jax.config.update(name, value)
            _logger.warning("%s is ignored: every run computes with %s", name.upper(), value)


def is_first() -> bool:
    """Returns whether this is process 0, which alone shows progress and writes shared files.

    Call it after `join`.
    """
    return jax.process_index() == 0


def devices_for(classifier: Classifier) -> list[jax.Device]:
    """Returns the local devices that a classifier can be mapped over.

    These are all local devices, or only the first device if JAX calls the model back on the host:
    two devices that wait for such calls may block each other.

    Args:
        classifier: the model to explain.
    """
    devices = jax.local_devices()
    if classifier.host_weights and len(devices) > 1:
        _logger.warning(
            "%s runs on the host: one of %d devices is used; for more, start as many processes",
            classifier.name, len(devices),
        )  # fmt: skip
        return devices[:1]
    return devices


def environment() -> dict[str, Any]:
    """Returns versions and devices for a manifest; call it after `join`."""
    return {
        "versions": {"cfx_jax": __version__}
        | {name: importlib.metadata.version(name) for name in _DISTRIBUTIONS},
        "devices": [str(device) for device in jax.local_devices()],
    }


def wait_for_units(
    reader: RecordReader, units: Iterable[int], stop: preemption.StopRequest
) -> None:
    """Waits until units are on disk: the records are all that hosts share.

    Args:
        reader: reader of the records.
        units: units to wait for, of any host.
        stop: stop request, checked between polls.

    Raises:
        StoppedError: the run was requested to stop.
    """
    missing = set(units)
    for _ in poll(stop):
        missing -= set(reader.complete_units)
        if not missing:
            return


def poll(stop: preemption.StopRequest) -> Iterator[None]:
    """Yields immediately, and then after increasing pauses, to poll files that hosts share.

    Raises:
        StoppedError: the run was requested to stop.
    """
    pause = 0.25
    while True:
        yield
        stop.check()
        time.sleep(pause)
        # With files in a bucket, a poll may take a while and costs a fee.
        pause = min(2 * pause, _MAX_POLL_SECONDS)


def _others() -> list[int]:
    """Returns the indices of the other processes that this process has joined."""
    state = distributed.global_state
    return [index for index in range(state.num_processes) if index != state.process_id]


def _signal(event: str) -> None:
    state = distributed.global_state
    assert state.client is not None
    state.client.key_value_set(f"cfx_jax/{event}/{state.process_id}", "")


def _have_signalled(event: str) -> bool:
    """Returns whether all processes, including this one, have signalled an event."""
    state = distributed.global_state
    assert state.client is not None
    return len(state.client.key_value_dir_get(f"cfx_jax/{event}/")) == state.num_processes


def wait_for_others(stop: preemption.StopRequest) -> None:
    """Waits until all processes have called this function; process 0 may still write shared files.

    Otherwise the other processes would wait in JAX, which ends a process that waits for over five
    minutes.

    Args:
        stop: stop request, checked meanwhile.

    Raises:
        StoppedError: the command was requested to stop.
    """
    if not _others():
        return
    _signal("done")
    while not _have_signalled("done"):
        stop.check()
        time.sleep(_SECONDS_BETWEEN_CHECKS)


def leave(code: int, deadline: float | None = None) -> None:
    """Ends this process, without waiting for the other processes as JAX would.

    JAX ends processes that lose process 0 with a stack dump, so process 0 leaves last.

    Args:
        code: exit status.
        deadline: latest `time.monotonic()` at which process 0 of several ends; by default
            `GRACE_SECONDS` from now.
    """
    if not jax.distributed.is_initialized():
        sys.exit(code)
    sys.stdout.flush()
    sys.stderr.flush()
    if deadline is None:
        deadline = time.monotonic() + preemption.GRACE_SECONDS
    if _joined.is_set() and _others():
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # A process may be lost.
            _signal("left")
            if distributed.global_state.process_id == 0:
                _outstay_others(deadline - _SECONDS_TO_LEAVE)
    os._exit(code)


def _outstay_others(deadline: float) -> None:
    """Waits until all processes have left, and until the last of them has had time to end."""
    while not _have_signalled("left"):
        if time.monotonic() > deadline:
            return
        time.sleep(_SECONDS_BETWEEN_CHECKS)
    time.sleep(max(0.0, min(_SECONDS_TO_EXIT, deadline - time.monotonic())))
