"""Joining and leaving the processes that share one run: a TPU slice, a Slurm job, plain machines.

They share no computation. JAX must know of all of them to find its devices on a slice, and a
process must know which one it is to take its own units of work.
"""

import importlib.metadata
import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

import jax
from absl import flags

import cfx_jax
from cfx_jax.config import ConfigError
from cfx_jax.records import RecordReader
from cfx_jax.runs import preemption

_DISTRIBUTIONS = ("jax", "jaxlib", "flax", "optax", "numpy", "tensorstore")
_MOST_SECONDS_BETWEEN_LOOKS = 16.0


def define_flags() -> None:
    """Defines the flags that tell of other processes."""
    flags.DEFINE_bool(
        "distributed", False, "Join the other processes of this TPU slice or Slurm job."
    )
    flags.DEFINE_string(
        "coordinator_address", None, "HOST:PORT of process 0, to join processes on plain machines."
    )
    flags.DEFINE_integer(
        "num_processes", None, "How many there are; with --coordinator_address.", lower_bound=1
    )
    flags.DEFINE_integer(
        "process_id", None, "Which one this is; with --coordinator_address.", lower_bound=0
    )


def join() -> None:
    """Joins the other processes that the flags tell of; to be called before JAX is used.

    Afterwards `jax.process_index()` of `jax.process_count()` says which process this is, and
    `jax.local_devices()` are its own devices.

    Raises:
        ConfigError: the flags do not fit together, or the others do not answer.
    """
    given = flags.FLAGS
    plain = (given.coordinator_address, given.num_processes, given.process_id)
    if plain == (None, None, None):
        if not given.distributed:
            return
    elif None in plain:
        raise ConfigError(
            "--coordinator_address, --num_processes and --process_id go together; on a TPU slice "
            "and under Slurm, --distributed alone finds them"
        )
    elif given.process_id >= given.num_processes:
        raise ConfigError(
            f"--process_id is {given.process_id}; expected 0 to {given.num_processes - 1}, since "
            f"--num_processes is {given.num_processes}"
        )
    # It would take SIGTERM for itself.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(*plain)
    except (RuntimeError, ValueError) as error:
        raise ConfigError(
            f"cannot join the other processes ({error}); on plain machines give every process the "
            "same --coordinator_address=HOST:PORT and --num_processes, and its own --process_id"
        ) from error


def is_first() -> bool:
    """Tells whether this process is the one of its pod that talks, and writes what is written once.

    Like `environment`, to be called after `join`.
    """
    return jax.process_index() == 0


def environment() -> dict[str, Any]:
    """Returns what a manifest keeps of where it ran; it may differ when a run is resumed."""
    return {
        "versions": {"cfx_jax": cfx_jax.__version__}
        | {name: importlib.metadata.version(name) for name in _DISTRIBUTIONS},
        "devices": [str(device) for device in jax.local_devices()],
    }


def wait_for_units(
    reader: RecordReader, units: Iterable[int], stop: preemption.StopRequest
) -> None:
    """Waits until units are on disk: the records are all that hosts share.

    Args:
        reader: of the records.
        units: to wait for, of any host.
        stop: looked at between looks.

    Raises:
        StoppedError: the run was asked to stop.
    """
    missing = set(units)
    for _ in keep_looking(stop):
        missing -= set(reader.complete_units)
        if not missing:
            return


def keep_looking(stop: preemption.StopRequest) -> Iterator[None]:
    """Yields at once and then after longer and longer pauses, to look at files that hosts share.

    Raises:
        StoppedError: the run was asked to stop.
    """
    pause = 0.25
    while True:
        yield
        stop.check()
        time.sleep(pause)
        # A look may take a while, and costs a fee, where the files lie in a bucket.
        pause = min(2 * pause, _MOST_SECONDS_BETWEEN_LOOKS)


def leave(code: int, deadline: float = 0.0) -> None:
    """Ends this process; where there are others, without waiting for them as JAX would.

    Args:
        code: exit status.
        deadline: `time.monotonic()` until which process 0 of several stays: it answers the others,
            and those that lose it are ended with an error.
    """
    if not jax.distributed.is_initialized():
        sys.exit(code)
    sys.stdout.flush()
    sys.stderr.flush()
    if jax.process_index() == 0:
        time.sleep(max(0.0, deadline - time.monotonic()))
    os._exit(code)
