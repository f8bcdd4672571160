"""Maps batches over all local devices: padding, the leading device axis, and all calls of `pmap`.

Images that are explained are independent, so there is no axis name and no collective: each device
runs the batch program on its own rows, and results do not depend on the number of devices. Only
training averages gradients over the devices.

Since JAX 0.8 `jax.pmap` is a wrapper of `jit` and `shard_map` in maintenance mode. Its replacement
would be `jax.jit(jax.shard_map(rows, mesh=mesh, in_specs=P("devices"),
out_specs=P("devices")))` over a mesh with one axis. All calls are in this module; a test runs the
same batch through `shard_map`.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np


def map_over_devices(
    function: Callable[..., Any],
    devices: Sequence[jax.Device],
    *,
    num_mapped: int,
    num_shared: int,
) -> jax.stages.Wrapped:
    """Compiles a per-image function for batches spread over devices.

    Args:
        function: pure function of ONE image; it is vmapped over the rows of a device and mapped
            over the devices. Its positional arguments are first the mapped, then the shared
            arguments.
        devices: local devices to use.
        num_mapped: number of leading arguments that differ per image.
        num_shared: number of trailing arguments that are the same for all images (parameters).

    Returns:
        A function of the same arguments. Mapped arguments and results have leading axes
        `[num_devices, rows_per_device]`, see `shard`. Shared arguments have a leading axis of
        devices, see `replicate`; they are on the devices already, so no call moves them. The
        function compiles once per shape; `lower(*arguments).compile()` compiles it before the first
        call.
    """
    rows = jax.vmap(function, in_axes=(0,) * num_mapped + (None,) * num_shared)
    return jax.pmap(rows, devices=list(devices))


def train_over_devices(
    step: Callable[..., Any], devices: Sequence[jax.Device], axis_name: str
) -> Callable[..., Any]:
    """Compiles a training step `(state, images, rows, *shared) -> (state, metrics)`.

    Args:
        step: pure function of the rows of ONE device that averages over `axis_name`.
        devices: local devices to use.
        axis_name: name of the device axis.

    Returns:
        A function of the same arguments. All arguments and results have a leading axis of devices,
        see `replicate` and `shard`, so no step moves shared values. The state is donated.
    """
    return jax.pmap(step, axis_name, devices=list(devices), donate_argnums=(0,))


def replicate(tree: Any, devices: Sequence[jax.Device]) -> Any:
    """Copies every leaf to every device; the result has a leading axis of devices."""
    # PyTorch models and the blur have no leaves; JAX cannot map an empty tree over hosts.
    if not jax.tree.leaves(tree):
        return tree
    copy = jax.pmap(lambda _, tree: tree, in_axes=(0, None), devices=list(devices))
    return copy(np.arange(len(devices)), tree)


def unreplicate(tree: Any) -> Any:
    """Returns the first device's copy of every leaf, as NumPy arrays."""

    def first(leaf: jax.Array) -> np.ndarray:
        # Not `leaf[0]`, which gathers the whole array first.
        return np.asarray(leaf.addressable_shards[0].data).reshape(leaf.shape[1:])

    return jax.tree.map(first, tree)


def slices(batch: Any, length: int) -> Iterator[Any]:
    """Yields a batch, a pytree of arrays `[n, ...]`, in slices of `length` rows or fewer."""
    for start in range(0, len(jax.tree.leaves(batch)[0]), length):
        yield jax.tree.map(lambda array, start=start: array[start : start + length], batch)


def pad(batch: Any, length: int) -> Any:
    """Pads a batch to `length` rows, so that one shape is compiled.

    Padding repeats the last row: it is real data, so it produces no NaN; drop it afterwards.

    Args:
        batch: pytree of arrays `[n, ...]`, `1 <= n <= length`.
        length: number of rows of the result.

    Raises:
        ValueError: the batch is empty or does not fit.
    """

    def extend(array: Any) -> Any:
        n = len(array)
        if not 1 <= n <= length:
            raise ValueError(f"a batch of {n} rows does not fit {length}")
        return array[np.minimum(np.arange(length), n - 1)]

    return jax.tree.map(extend, batch)


def shard(batch: Any, num_devices: int, rows_per_device: int) -> Any:
    """Pads a batch and gives it a leading device axis.

    Args:
        batch: pytree of arrays `[n, ...]`, `1 <= n <= num_devices * rows_per_device`.
        num_devices: length of the first axis of the result.
        rows_per_device: length of the second axis of the result.

    Returns:
        The same tree with arrays `[num_devices, rows_per_device, ...]`.

    Raises:
        ValueError: the batch is empty or does not fit.
    """
    return jax.tree.map(
        lambda array: array.reshape((num_devices, rows_per_device, *array.shape[1:])),
        pad(batch, num_devices * rows_per_device),
    )


def unshard(batch: Any, num_rows: int) -> Any:
    """Undoes `shard`: `[devices, rows_per_device, ...]` on devices -> numpy `[num_rows, ...]`."""

    def join(array: jax.Array) -> np.ndarray:
        rows = np.asarray(array)
        return rows.reshape((-1, *rows.shape[2:]))[:num_rows]

    return jax.tree.map(join, batch)
