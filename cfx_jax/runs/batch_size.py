"""How many images a device takes at once: planned from the memory the compiled programs need."""

import math

import jax
import psutil

from cfx_jax.runs.solver import Solver

# The rest is for what the analysis of one program does not count: batches on their way, libraries.
_DEVICE_SHARE = 0.9
_HOST_SHARE = 0.5
# Beyond that a CPU gains nothing, and the progress bar stands still for long.
_MOST_ON_A_CPU = 4


def compile_to_fit(solver: Solver, most: int, limit: int | None = None) -> int:
    """Compiles the programs of a solver for as many images as fit on a device.

    Args:
        solver: compiled or not; in the end it is, for the size found.
        most: images a device has to do in a unit of work; no larger batch is tried.
        limit: bytes the programs may take on a device; None takes what the device has free.

    Returns:
        The bytes they do take; more than the limit if one image alone does.
    """
    device = jax.local_devices()[0]
    limit = device_memory(device) if limit is None else limit
    size = min(most, _MOST_ON_A_CPU) if device.platform == "cpu" else most
    while True:
        size = even_batch(size, most)
        try:
            needed = solver.compile(size)
        except jax.errors.JaxRuntimeError as error:  # Some compilers look at the memory, too.
            if not is_out_of_memory(error) or size == 1:
                raise
            needed = 2 * limit
        if needed <= limit or size == 1:
            return needed
        size = smaller_batch(size, needed, limit)


def device_memory(device: jax.Device) -> int:
    """Returns the bytes a program may take on a device.

    A device that does not tell, a CPU, shares the free memory of the host with the others here.
    """
    stats = device.memory_stats()
    if stats and "bytes_limit" in stats:
        return int(_DEVICE_SHARE * stats["bytes_limit"])
    free = psutil.virtual_memory().available
    return int(_HOST_SHARE * free / jax.local_device_count())


def smaller_batch(size: int, needed: int, limit: int) -> int:
    """Returns the next size to try, at least 1, when a program for `size` images does not fit.

    Args:
        size: images at once, at least 2.
        needed: bytes the program takes for them.
        limit: bytes there are, fewer than `needed`.

    Returns:
        The size that fits if memory grows in proportion, and less than `size` in any case. Some of
        the memory does not grow, so the result rather fits than not.
    """
    return max(1, min(size - 1, size * limit // needed))


def even_batch(size: int, most: int) -> int:
    """Returns the least batch size that cuts `most` images into as many batches as `size` does."""
    return math.ceil(most / math.ceil(most / size))


def is_out_of_memory(error: Exception) -> bool:
    """Tells whether an error of JAX means that memory did not suffice."""
    return isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error)
