"""How many images a device takes at once: planned from the memory the compiled programs need."""

import logging
import math

import jax
import psutil

from cfx_jax.runs.solver import Solver

# The rest is for what the analysis of one program does not count: batches on their way, libraries.
_DEVICE_SHARE = 0.9
_HOST_SHARE = 0.5
_logger = logging.getLogger(__name__)
# Beyond that a CPU gains nothing, and the progress bar stands still for long.
_MAX_ON_A_CPU = 4


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
    size = min(most, _MAX_ON_A_CPU) if device.platform == "cpu" else most
    while True:
        needed = compile_or_halve(solver, even_batch(size, most))
        size = solver.per_device_batch_size
        if needed <= limit or size == 1:
            return needed
        size = smaller_batch(size, needed, limit)


def compile_or_halve(solver: Solver, size: int) -> int:
    """Compiles the programs of a solver for `size` images on a device.

    Some compilers, and loading a program, need the memory of the device, too: for as long as it
    runs out, half as many images are tried, down to one.

    Returns:
        The bytes the programs take on a device.
    """
    while True:
        try:
            return solver.compile(size)
        except jax.errors.JaxRuntimeError as error:
            size = half_batch(size, error)


def half_batch(size: int, error: jax.errors.JaxRuntimeError) -> int:
    """Returns half a batch size, rounded up, for when memory has run out.

    Raises:
        JaxRuntimeError: the error, if it means something else or the batch is of one image.
    """
    if "RESOURCE_EXHAUSTED" not in str(error) or size == 1:
        raise error
    half = math.ceil(size / 2)
    _logger.warning("out of memory with %d images a device; going on with %d", size, half)
    return half


def device_memory(device: jax.Device) -> int:
    """Returns the bytes a program may take on a device.

    A device that does not report it, a CPU, shares the free memory of the host with the others.
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
