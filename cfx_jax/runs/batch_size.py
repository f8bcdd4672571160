"""Finds how many images fit on a device, from the memory that the compiled programs need."""

import logging
import math

import jax
import psutil

from cfx_jax.runs.solver import Solver

# Shares of the memory to use: the analysis of a program does not count transfers and libraries.
_DEVICE_SHARE = 0.9
_HOST_SHARE = 0.5
_logger = logging.getLogger(__name__)
# A larger batch is not faster on a CPU, and the progress bar would rarely move.
_MAX_ON_A_CPU = 4


def compile_to_fit(solver: Solver, most: int, limit: int | None = None) -> int:
    """Compiles the programs of a solver for as many images as fit on a device.

    Args:
        solver: solver to compile; afterwards it is compiled for the size found.
        most: largest batch to try, the number of images per device in a unit of work.
        limit: memory that the programs may take on a device, in bytes; None = its free memory.

    Returns:
        Bytes that the programs take; more than the limit if a single image already needs more.
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

    Some compilers, and the loading of a program, also need device memory. Each time it runs out,
    the batch size is halved, down to 1.

    Returns:
        Bytes that the programs take on a device.
    """
    while True:
        try:
            return solver.compile(size)
        except jax.errors.JaxRuntimeError as error:
            size = half_batch(size, error)


def half_batch(size: int, error: jax.errors.JaxRuntimeError) -> int:
    """Returns half the batch size, rounded up, after memory has run out.

    Raises:
        JaxRuntimeError: the error, if it has another cause or the batch has one image.
    """
    if "RESOURCE_EXHAUSTED" not in str(error) or size == 1:
        raise error
    half = math.ceil(size / 2)
    _logger.warning("out of memory with %d images per device; continuing with %d", size, half)
    return half


def device_memory(device: jax.Device) -> int:
    """Returns the bytes that a program may take on a device.

    CPU devices do not report their memory: they share the free memory of the host.
    """
    stats = device.memory_stats()
    if stats and "bytes_limit" in stats:
        return int(_DEVICE_SHARE * stats["bytes_limit"])
    free = psutil.virtual_memory().available
    return int(_HOST_SHARE * free / jax.local_device_count())


def smaller_batch(size: int, needed: int, limit: int) -> int:
    """Returns the next size to try, at least 1, when a program for `size` images does not fit.

    Args:
        size: number of images, at least 2.
        needed: bytes that the program takes for them.
        limit: bytes available, fewer than `needed`.

    Returns:
        The size that fits if memory is proportional to it, and less than `size` in any case. Part
        of the memory does not depend on the size, so the result may still be too large.
    """
    return max(1, min(size - 1, size * limit // needed))


def even_batch(size: int, most: int) -> int:
    """Returns the smallest batch size that splits `most` images into as many batches as `size`."""
    return math.ceil(most / math.ceil(most / size))
