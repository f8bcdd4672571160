"""Safetensors files of parameters, with a description of their training and a digest."""

import hashlib
import json
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from cfx_jax.weights.formats import recognise
from cfx_jax.weights.layout import check_arrays

_SEPARATOR = "/"
_CARD = "card"
# Suffix of the index file, which lists the safetensors file of each array.
INDEX = ".safetensors.index.json"


def encode_params(params: Any, card: Mapping[str, Any]) -> bytes:
    """Encodes a parameter tree as the content of a safetensors file in float16.

    Args:
        params: nested dict of arrays, below 65504 in magnitude.
        card: JSON values that describe the origin of the parameters, stored in the header.

    Returns:
        The content of the file.

    Raises:
        ValueError: a value does not fit into float16; the message names its array.
    """
    arrays = {}
    for name, value in traverse_util.flatten_dict(params, sep=_SEPARATOR).items():
        with np.errstate(over="ignore"):
            # safetensors writes the memory of an array regardless of its order.
            arrays[name] = np.asarray(value, np.float32).astype(np.float16, order="C")
        if not np.isfinite(arrays[name]).all():
            raise ValueError(f"{name} contains values that are not finite in float16")
    # Sort the arrays and store the card as a single entry (safetensors shuffles entries), so that
    # equal parameters give equal files.
    metadata = {_CARD: json.dumps(card, sort_keys=True)}
    return bytes(save(dict(sorted(arrays.items())), metadata=metadata))


def read_params(
    path: str | os.PathLike[str], template: Any, digest: str | None = None
) -> dict[str, Any]:
    """Reads a file that `encode_params` created for a network.

    Args:
        path: path of the file.
        template: tree of the parameters of the network, of arrays or `jax.ShapeDtypeStruct`.
        digest: expected SHA-256 of the file; None accepts any digest.

    Returns:
        Nested dict of float32 arrays with the names and shapes of the template.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is damaged, has another digest, or contains another network; the
            message names the arrays that are missing, unexpected or of another shape.
    """
    path = pathlib.Path(path)
    if digest is not None and (actual := file_digest(path)) != digest:
        raise ValueError(
            f"{path} is truncated or was altered: its SHA-256 is {actual}, expected {digest}; "
            "install the package again"
        )
    arrays = read_arrays(path)
    expected = traverse_util.flatten_dict(template, sep=_SEPARATOR)
    try:
        check_arrays(arrays, {name: leaf.shape for name, leaf in expected.items()})
    except ValueError as error:
        raise ValueError(f"{path} contains the parameters of another network: {error}") from error
    floats = {name: jnp.asarray(arrays[name], jnp.float32) for name in expected}
    return traverse_util.unflatten_dict(floats, sep=_SEPARATOR)


def read_arrays(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads all arrays of a safetensors file by name.

    Raises:
        FileNotFoundError: the file does not exist.
        IsADirectoryError: the path is a folder.
        ValueError: the file is not a complete safetensors file, or has arrays that NumPy does not
            support.
    """
    if os.path.isdir(path):
        raise IsADirectoryError(f"{os.fspath(path)} is a folder; expected a safetensors file")
    try:
        with safe_open(os.fspath(path), framework="numpy") as file:
            names = file.keys()
            return {name: file.get_tensor(name) for name in names}
    except AttributeError as error:  # NumPy has no such type, for example 8-bit floats.
        raise ValueError(
            f"{os.fspath(path)} has arrays of {error.name}, a type that is not read; save them as "
            "float32 or float16"
        ) from error
    # NumPy raises TypeError and ValueError for a type or a shape that it does not support.
    except (SafetensorError, TypeError, ValueError) as error:
        cause = ", for example by an interrupted download" if type(error) is SafetensorError else ""
        if (found := recognise(path)) and found.name != "a safetensors file":
            cause = f", but {found.name}"
        text = f"{os.fspath(path)} is not a complete safetensors file{cause}: {error}"
        raise ValueError(text) from error


def read_shards(index: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads all arrays, by name, of the safetensors files that an index in their folder lists.

    Raises:
        FileNotFoundError: the index or one of the files is missing.
        ValueError: a file is damaged, or the arrays differ from those in the index.
    """
    arrays: dict[str, np.ndarray] = {}
    for shard, names in shard_names(index).items():
        shard_arrays = read_arrays(pathlib.Path(index).parent / shard)
        if differing := sorted(shard_arrays.keys() ^ names):
            raise ValueError(f"{os.fspath(index)}: {shard} and the index differ in {differing}")
        arrays |= shard_arrays
    return arrays


def shard_names(index: str | os.PathLike[str]) -> dict[str, set[str]]:
    """Reads an index and returns the names of the arrays in each file.

    Raises:
        FileNotFoundError: the index does not exist.
        ValueError: the file is not an index, or lists files of another folder.
    """
    path = pathlib.Path(index)
    try:
        shards: dict[str, set[str]] = {}
        for name, shard in json.loads(path.read_bytes())["weight_map"].items():
            if not re.fullmatch(r"[\w.-]+\.safetensors", shard):
                raise ValueError(f"{shard!r} is not a safetensors file in the folder of the index")
            shards.setdefault(shard, set()).add(name)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is not an index of safetensors files: {error}") from error
    return shards


def file_digest(path: str | os.PathLike[str]) -> str:
    """Returns the SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
