"""Reads compressed formats: `.npz` files of NumPy and checkpoint folders of Orbax.

A few bytes of such a file can declare huge arrays, so the declared size is compared with the stored
size before memory is allocated. Nothing in a file is unpickled.
"""

import io
import json
import math
import os
import pathlib
import zipfile
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np
import tensorstore as ts
from numpy.lib import format as npy

# Largest ratio of declared to stored bytes. Trained weights compress to no less than a half, zeros
# to a thousandth; a hundredth allows files with many zeros.
_MAX_EXPANSION = 100
# Declared bytes that are accepted at any ratio.
_ALWAYS_ACCEPTED_BYTES = 2**26


def read_npz_arrays(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads all arrays of an `.npz` file by name, compressed or not.

    NumPy saves bfloat16 as two bytes without a type (`V2`); such arrays are read as bfloat16.

    Raises:
        ValueError: the file is damaged, declares more than it can contain, or has an array that is
            not numeric, such as pickled Python objects; the message names the array.
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        try:
            return _read_members(file)
        except Exception as error:  # zipfile raises many types for damage, some undocumented.
            text = f"{os.fspath(path)}: not a complete .npz file of numbers: {error}"
            raise ValueError(text) from error


def _read_members(file: BinaryIO) -> dict[str, np.ndarray]:
    size = os.fstat(file.fileno()).st_size
    arrays: dict[str, np.ndarray] = {}
    with zipfile.ZipFile(file) as archive:
        members = [info for info in archive.infolist() if info.filename.endswith(".npy")]
        # Members may overlap in a forged archive directory.
        if sum(info.compress_size for info in members) > size:
            raise ValueError("the declared sizes of the members exceed the file")
        _check_expansion(sum(info.file_size for info in members), size)
        for info in members:
            name = info.filename.removesuffix(".npy")
            if name in arrays:
                raise ValueError(f"two arrays are named {name!r}")
            # Other methods decompress without a limit; NumPy writes only these two.
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f"array {name!r} has compression method {info.compress_type}")
            with archive.open(info) as member:
                # read() would decompress the whole stream, even beyond the declared size.
                data = member.read(info.file_size)
            arrays[name] = _decode_npy(name, data)
    return arrays


def _decode_npy(name: str, data: bytes) -> np.ndarray:
    """Returns the array of one `.npy` file; it shares the memory of `data`."""
    file = io.BytesIO(data)
    try:
        version = npy.read_magic(file)
        # Versions 2 and 3 differ in the encoding of field names, which numbers do not have.
        read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, columns_first, dtype = read_header(file)
    except ValueError as error:
        raise ValueError(f"array {name!r} has no valid NumPy header: {error}") from error
    dtype = _check_dtype(name, dtype)
    start = file.tell()
    if math.prod(shape) * dtype.itemsize != len(data) - start:
        raise ValueError(f"array {name!r} of shape {shape} has {len(data) - start} bytes")
    return np.ndarray(shape, dtype, data, start, order="F" if columns_first else "C")


def _check_dtype(name: str, dtype: np.dtype) -> np.dtype:
    if dtype == np.dtype("V2"):
        return np.dtype(ml_dtypes.bfloat16)
    if dtype.hasobject:
        raise ValueError(f"array {name!r} contains pickled Python objects, which are never loaded")
    if dtype.kind not in "biufc":
        raise ValueError(
            f"array {name!r} is of type {npy.dtype_to_descr(dtype)!r}, expected numbers; save "
            "others, such as 8-bit floats, as float32 or float16"
        )
    return dtype


def read_orbax_arrays(folder: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads all arrays and numbers of an Orbax checkpoint by their dotted path in the tree.

    Orbax stores a tree as Zarr arrays and a description in JSON. Both are read directly, because
    Orbax itself prints the stacks of its threads for a damaged file.

        read_orbax_arrays("checkpoints/1000")  # {"params.conv.kernel": ..., "step": ...}

    Args:
        folder: folder of one tree, or of a step or a run that contains a single tree.

    Returns:
        Arrays by dotted name, without the strings of the tree.

    Raises:
        ValueError: there is no checkpoint, there are several, or the checkpoint is damaged.
    """
    folder = _find_tree(pathlib.Path(folder).absolute())
    try:
        stores = _open_stores(folder, json.loads((folder / "_METADATA").read_bytes()))
        stored = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        _check_expansion(sum(map(_declared_bytes, stores.values())), stored)
        return {name: store.read().result() for name, store in stores.items()}
    except Exception as error:  # From TensorStore, with pages of text, or JSON without a tree.
        text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise ValueError(f"{folder}: not a complete Orbax checkpoint: {text}") from error


def _find_tree(folder: pathlib.Path) -> pathlib.Path:
    """Returns the folder of a tree: the given folder, or the only tree at most two levels below."""
    patterns = ("_METADATA", "*/_METADATA", "*/*/_METADATA")
    trees = [file.parent for pattern in patterns for file in sorted(folder.glob(pattern))]
    if not trees:
        raise ValueError(
            f"{folder}: this folder contains no Orbax checkpoint of a tree (_METADATA)"
        )
    if trees[0] != folder and len(trees) > 1:
        listed = ", ".join(map(str, trees[:5]))
        raise ValueError(f"{folder}: contains {len(trees)} checkpoints; pass one of them: {listed}")
    return trees[0]


def _open_stores(folder: pathlib.Path, description: Any) -> dict[str, ts.TensorStore]:
    """Opens the Zarr arrays of a tree by name, without reading their values."""
    in_database = (folder / "manifest.ocdbt").exists()
    context = ts.Context()  # A shared context opens the database only once.
    stores: dict[str, ts.TensorStore] = {}
    for entry in description["tree_metadata"].values():
        kind = entry["value_metadata"]
        if kind["skip_deserialize"] or kind["value_type"] == "string":
            continue
        name = ".".join(str(key["key"]) for key in entry["key_metadata"])
        if name in stores or ".." in name.split("/"):
            raise ValueError(f"{name!r} names two arrays, or one outside of the folder")
        base = {"driver": "file", "path": f"{folder}/" if in_database else f"{folder}/{name}/"}
        spec = {
            "driver": "zarr3" if description.get("use_zarr3") else "zarr",
            "kvstore": {"driver": "ocdbt", "base": base, "path": f"{name}/"}
            if in_database
            else base,
            # Chunks of zeros may be missing, unless the description excludes it.
            "fill_missing_data_reads": not description.get("store_array_data_equal_to_fill_value"),
        }
        stores[name] = ts.open(spec, open=True, read=True, context=context).result()
    return stores


def _declared_bytes(store: ts.TensorStore) -> int:
    # A chunk is decompressed as a whole, even if the array covers only a part of it.
    chunk: Any = store.chunk_layout.read_chunk.shape or ()
    size = max(math.prod(store.shape), math.prod(length or 1 for length in chunk))
    return size * store.dtype.numpy_dtype.itemsize


def _check_expansion(declared: int, stored: int) -> None:
    if declared > max(_ALWAYS_ACCEPTED_BYTES, _MAX_EXPANSION * stored):
        raise ValueError(
            f"{declared} bytes are declared but only {stored} are stored, beyond the factor of "
            f"{_MAX_EXPANSION} by which weights compress; if this is correct, save them "
            "uncompressed"
        )
