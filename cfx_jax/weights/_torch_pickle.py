"""Reads the tensors of a PyTorch checkpoint without torch and without running its pickle.

A checkpoint is a pickle and therefore a program, which `_pickle_machine` interprets without running
it. This module reads the file format around it. Both layouts that `torch.save` writes are
supported:

    zip      `<name>/data.pkl` and one stored member `<name>/data/<key>` per storage
    legacy   pickles of magic number, protocol, system, object and storage keys, one after
             another; then for each key an int64 element count and the elements

A storage is a flat sequence of elements; a tensor is a view (offset, size, stride) of a storage.
"""

import io
import math
import os
import pathlib
import types
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from cfx_jax.weights._pickle_machine import (
    Dict,
    Opaque,
    Tensor,
    UnsafePickleError,
    WeightsFormatError,
    interpret,
)
from cfx_jax.weights.preprocessing import Preprocessing

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_MODULE_DICTS = ("_parameters", "_buffers", "_modules")  # Attributes of a `torch.nn.Module`.
# A few bytes of pickle can describe an endless structure. These bounds allow checkpoints of about
# 50 000 tensors and bound time and memory for any file.
_MAX_ENTRIES = 200_000
_MAX_OTHER_VALUES = 5_000_000  # Numbers and strings, such as the losses of a training.
_MAX_NAME_LENGTH = 1_000
_MAX_REPEATED_BYTES = 2**26  # A tensor with stride 0 can be larger than the file.


class Checkpoint(NamedTuple):
    """The content of a weights file.

    Attributes:
        arrays: arrays by name; the names of nested dicts are joined by dots.
        opaque: class names, by name, of the objects in place of arrays; the objects are not
            created.
        preprocessing: properties from the config files next to the weights.
    """

    arrays: Mapping[str, np.ndarray]
    opaque: Mapping[str, str] = types.MappingProxyType({})
    preprocessing: Preprocessing = Preprocessing()


def read_torch_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Reads every tensor of a PyTorch checkpoint by its dotted name.

    Neither torch nor the pickle of the file is run. Nested dicts, and the modules of a pickled
    network, give names such as `state_dict.conv.weight`; other values are ignored. Tensors that
    share a storage share memory, and a tensor saved with permuted axes is a strided view.

        arrays = read_torch_checkpoint("efficientnet-lite0.pth").arrays
        arrays["_fc.weight"].shape  # (1000, 1280)

    Args:
        path: path of a file written by `torch.save`, in the zip or the legacy layout.

    Returns:
        Arrays in the order of the file, bfloat16 as `ml_dtypes.bfloat16`, and the class names of
        other objects in the file.

    Raises:
        WeightsFormatError: the file is damaged, truncated or not a PyTorch checkpoint of tensors.
        UnsafePickleError: the file refers to a name that could run code; the message contains it.
        OSError: the file cannot be read.
    """
    data = pathlib.Path(path).read_bytes()
    try:
        root, storages = _read_zip(data) if data.startswith(b"PK") else _read_legacy(data)
        if isinstance(root, list | tuple):  # For example state dicts of a network and an optimizer.
            root = Dict(entries=list(enumerate(root)))
        if not isinstance(root, Dict) or (not root.entries and not isinstance(root, Opaque)):
            raise WeightsFormatError("contains no dict of tensors; expected a saved state dict")
        arrays: dict[str, np.ndarray] = {}
        opaque = {"": root.name} if isinstance(root, Opaque) else {}
        for name, value in _iterate_values(root):
            if isinstance(value, Opaque):
                opaque[name] = value.name
                continue
            if name in arrays:
                raise WeightsFormatError(f"two tensors are named {name!r}; expected one")
            arrays[name] = _make_array(name, value, storages, max(len(data), _MAX_REPEATED_BYTES))
        return Checkpoint(arrays, opaque)
    except (WeightsFormatError, UnsafePickleError) as error:
        raise type(error)(f"{os.fspath(path)}: {error}") from error


def _read_legacy(data: bytes) -> tuple[Any, dict[str, np.ndarray]]:
    stream = io.BytesIO(data)
    if not data.startswith(b"\x80"):
        raise WeightsFormatError("neither layout of torch.save; expected a .pth or .pt checkpoint")
    if interpret(stream).value != _MAGIC:
        raise WeightsFormatError(
            "a pickle that torch.save did not write, such as one of pickle.dump; expected its "
            "checkpoint: load the file where it was written and save model.state_dict() with "
            "torch.save"
        )
    if interpret(stream).value != _PROTOCOL:
        raise WeightsFormatError(f"unknown protocol of the legacy layout; expected {_PROTOCOL}")
    interpret(stream)  # Sizes of C types, which are not needed: elements are always little-endian.
    root, described = interpret(stream)
    keys = interpret(stream).value
    if not (isinstance(keys, list) and all(isinstance(key, str) for key in keys)):
        raise WeightsFormatError("no list of storage keys after the object; expected torch.save's")
    start = stream.tell()
    storages = {}
    for key in keys:
        storage = described.get(key)
        if storage is None or key in storages:
            raise WeightsFormatError(f"storage key {key[:40]!r} is listed twice or never used")
        count = int.from_bytes(data[start : start + 8], "little", signed=True)
        start, stop = start + 8, start + 8 + storage.num_bytes
        if count != storage.count or stop > len(data):
            raise WeightsFormatError(
                f"storage {key[:40]!r} is declared with {storage.count} elements, has a count of "
                f"{count}, and {max(0, len(data) - start)} bytes are left; the file is truncated "
                "or damaged"
            )
        storages[key] = np.array(memoryview(data)[start:stop], np.uint8)
        start = stop
    return root, storages


def _read_zip(data: bytes) -> tuple[Any, dict[str, np.ndarray]]:
    members = _zip_members(data)
    pickles = [name for name in members if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(pickles) != 1:
        raise WeightsFormatError("a zip file without one `*/data.pkl`; expected torch.save's")
    folder = pickles[0].removesuffix("data.pkl")
    big_endian = members.get(f"{folder}byteorder", b"little") == b"big"
    root, described = interpret(io.BytesIO(members[pickles[0]]))
    storages = {}
    for key, storage in described.items():
        raw = members.pop(f"{folder}data/{key}", None)
        if raw is None or len(raw) != storage.num_bytes:
            raise WeightsFormatError(
                f"storage {key[:40]!r} has {'no' if raw is None else len(raw)} bytes; "
                f"expected {storage.num_bytes}"
            )
        storages[key] = np.array(memoryview(raw), np.uint8)
        if big_endian:
            word = storage.dtype.itemsize // (2 if storage.dtype.kind == "c" else 1)
            storages[key].view(f"u{word}").byteswap(inplace=True)
    return root, storages


def _zip_members(data: bytes) -> dict[str, bytes]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            infos = archive.infolist()
            if any(
                info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size
                for info in infos
            ):
                raise WeightsFormatError("compressed members; torch.save stores them uncompressed")
            # Members may overlap in a forged archive directory, but together they must fit the
            # file.
            if sum(info.file_size for info in infos) > len(data):
                raise WeightsFormatError(
                    "the declared sizes of the members exceed the file; it is damaged"
                )
            if len({info.filename for info in infos}) != len(infos):
                raise WeightsFormatError("two members have the same name; expected each once")
            return {info.filename: archive.read(info) for info in infos}
    except WeightsFormatError:
        raise
    except Exception as error:  # zipfile raises many types for damage, some undocumented.
        raise WeightsFormatError(f"damaged zip file ({error}); expected torch.save's") from error


def _iterate_values(root: Dict) -> Iterator[tuple[str, Tensor | Opaque]]:
    """Yields names and values of nested dicts in file order.

    The walk is not recursive, since the file determines the depth.
    """
    visited = others = 0
    walks = [("", _entries(root))]
    while walks:
        prefix, entries = walks[-1]
        for key, value in entries:
            if not isinstance(value, Tensor | Dict):
                others += 1
                if others > _MAX_OTHER_VALUES:
                    raise WeightsFormatError(
                        f"more than {_MAX_OTHER_VALUES} entries other than tensors"
                    )
                continue
            visited += 1
            is_name = type(key) is str or (type(key) is int and abs(key) < 2**63)
            name = f"{prefix}{key}" if is_name else f"{prefix}({type(key).__name__})"
            if visited > _MAX_ENTRIES or len(name) > _MAX_NAME_LENGTH:
                raise WeightsFormatError(
                    f"more than {_MAX_ENTRIES} entries, or a name over {_MAX_NAME_LENGTH} long; "
                    "expected a state dict, not dicts that contain one another repeatedly"
                )
            if not is_name:  # Networks are saved under names or numbers only.
                yield name, Opaque(name=f"dict entry with a {type(key).__name__} as key")
                continue
            if isinstance(value, Tensor | Opaque):
                yield name, value
            if isinstance(value, Dict):
                walks.append((f"{name}.", _entries(value)))
                break
        else:
            walks.pop()


def _entries(value: Dict) -> Iterator[tuple[Any, Any]]:
    """Yields the entries of a dict, or the contents of a pickled `torch.nn.Module`."""
    yield from value.entries
    if isinstance(value, Opaque) and isinstance(value.state, Dict):
        for key, attribute in value.state.entries:
            if key in _MODULE_DICTS and isinstance(attribute, Dict):
                yield from attribute.entries
            else:
                yield key, None


def _make_array(
    name: str, tensor: Tensor, storages: dict[str, np.ndarray], max_bytes: int
) -> np.ndarray:
    storage, size = tensor.storage, tensor.size
    if storage.key not in storages:
        raise WeightsFormatError(f"the storage of {name!r} is missing from the file")
    # The stride of an axis of length 1 is never used and may be invalid for NumPy.
    strides = tuple(0 if n == 1 else s for n, s in zip(size, tensor.stride, strict=True))
    last = sum((n - 1) * s for n, s in zip(size, strides, strict=True))
    if tensor.offset + (0 if 0 in size else last + 1) > storage.count:
        raise WeightsFormatError(
            f"offset {tensor.offset}, size {size}, stride {tensor.stride} of {name!r} reach beyond "
            f"the {storage.count} elements of its storage"
        )
    itemsize = storage.dtype.itemsize
    if math.prod(max(1, n) for n in size) * itemsize > max_bytes:
        raise WeightsFormatError(f"size {size} of {name!r} is far larger than the file")
    if 0 in size:
        return np.empty(size, storage.dtype)
    return np.ndarray(
        size,
        storage.dtype,
        buffer=storages[storage.key],
        offset=tensor.offset * itemsize,
        strides=tuple(s * itemsize for s in strides),
    )
