"""Joining and leaving the processes that share one run: a TPU slice, a Slurm job, plain machines.

They share no computation. JAX must know of all of them to find its devices on a slice, and a
process must know which one it is to take its own units of work.
"""

import importlib.metadata
import logging
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

import jax
from absl import flags

from cfx_jax.classifiers import Classifier
from cfx_jax.config import ConfigError
from cfx_jax.records import RecordReader
from cfx_jax.runs import preemption
from cfx_jax.version import __version__

_DISTRIBUTIONS = ("jax", "jaxlib", "flax", "optax", "numpy", "tensorstore")
_MOST_SECONDS_BETWEEN_LOOKS = 16.0
_PLAIN = ("coordinator_address", "num_processes", "process_id")
# What JAX asks of a Slurm job; `srun` sets all of them, `sbatch` and `salloc` not.
_SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")
_NUMBERS = {
    "jax_enable_x64": False,
    "jax_numpy_dtype_promotion": "standard",
    "jax_numpy_rank_promotion": "allow",
    "jax_default_prng_impl": "threefry2x32",
    "jax_threefry_partitionable": True,
}
_logger = logging.getLogger(__name__)
_PLATFORMS = "jax_platforms"  # The setting of JAX that JAX_PLATFORMS sets.


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

    Every command calls it, also one that is always alone: without a device none can go on.
    Afterwards `jax.process_index()` of `jax.process_count()` says which process this is, and
    `jax.local_devices()` are its own devices.

    Raises:
        ConfigError: the flags do not fit together, the others do not answer, or JAX has no device.
    """
    # Of a command that is always alone, there are no such flags.
    given = flags.FLAGS.flag_values_dict()
    address, number, index = map(given.get, _PLAIN)
    plain = (address, number, index)
    if plain != (None, None, None):
        _check_plain(*plain)
    if given.get("distributed") or None not in plain:
        # It would take SIGTERM for itself.
        jax.config.update("jax_enable_preemption_service", False)
        try:
            jax.distributed.initialize(*plain)
        except Exception as error:  # Of whatever reads a half set environment.
            raise ConfigError(
                f"cannot join the other processes ({_environment_problem(error)}); on plain "
                "machines give every process the same --coordinator_address=HOST:PORT and "
                "--num_processes, and its own --process_id"
            ) from error
    try:
        jax.local_devices()
    except Exception as error:  # Of JAX without a plugin for the platform: one without a word.
        raise ConfigError(_no_device(error)) from error


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
    """Says what JAX found, or did not find, of a slice or a job."""
    lacking = [name for name in _SLURM if name not in os.environ]
    if 0 < len(lacking) < len(_SLURM):
        return (
            f"the environment of Slurm is not whole, it lacks {', '.join(lacking)}: start the "
            "processes by srun, as launch/slurm.sh does"
        )
    if "coordinator_address should be defined" in str(error):
        return "no TPU slice and no Slurm job was found"
    reason = " ".join(str(error).split())
    # Of others, such as KeyError, the text alone says nothing.
    return reason if isinstance(error, RuntimeError | ValueError) else f"{error!r}"


def _no_device(error: Exception) -> str:
    reason = " ".join(str(error).split()) or "JAX has no plugin for it"
    asked = getattr(jax.config, _PLATFORMS)
    if not asked:
        return f"JAX finds no device: {reason}"
    return (
        f"JAX finds no device for JAX_PLATFORMS={asked} ({reason}); leave it unset to take what "
        "there is, or install what JAX needs: pip install 'cfx_jax[cuda]' or 'cfx_jax[tpu]'"
    )


def settle_numbers() -> None:
    """Takes back settings of JAX, from environment variables, that would change a run's numbers.

    A run may be gone on with from another shell, and its records are the same then.
    """
    changed = [name for name, value in _NUMBERS.items() if getattr(jax.config, name) != value]
    for name in changed:
        jax.config.update(name, _NUMBERS[name])
        _logger.warning(
            "%s is not followed: every run computes with %s", name.upper(), _NUMBERS[name]
        )


def is_first() -> bool:
    """Tells whether this process is the one of its pod that talks, and writes what is written once.

    Like `environment`, to be called after `join`.
    """
    return jax.process_index() == 0


def devices_for(classifier: Classifier) -> list[jax.Device]:
    """Returns the local devices that a classifier can be mapped over.

    All of them, but one where JAX calls a model back on the host: two devices that wait for their
    turn there may wait for ever.

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
    """Returns what a manifest keeps of where it ran; it may differ when a run is resumed."""
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
