"""Reads the formats that compress: `.npz` files of NumPy and checkpoint folders of Orbax.

A few bytes of them can announce arrays without end, so what is announced is compared with what is
there before memory is taken. Nothing in a file is unpickled.
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

# Trained weights shrink to no less than half, zeros to a thousandth: a hundredth leaves room for
# files that hold many of them.
_MAX_EXPANSION = 100
_ALWAYS_FITS = 2**26


def read_npz_arrays(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads all arrays of an `.npz` file by name, compressed or not.

    NumPy saves bfloat16 as two bytes without a type (`V2`); these are bfloat16 again.

    Raises:
        ValueError: the file is damaged, announces more than it can hold, or has an array that is
            not of numbers, such as pickled Python objects; the message names it.
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        try:
            return _npz_arrays(file)
        except Exception as error:  # zipfile answers damage with a dozen types, some undocumented
            text = f"{os.fspath(path)}: not a whole .npz file of numbers: {error}"
            raise ValueError(text) from error


def _npz_arrays(file: BinaryIO) -> dict[str, np.ndarray]:
    size = os.fstat(file.fileno()).st_size
    arrays: dict[str, np.ndarray] = {}
    with zipfile.ZipFile(file) as archive:
        members = [info for info in archive.infolist() if info.filename.endswith(".npy")]
        # Members may overlap in a forged directory.
        if sum(info.compress_size for info in members) > size:
            raise ValueError("members are announced larger than the file")
        _check_expansion(sum(info.file_size for info in members), size)
        for info in members:
            name = info.filename.removesuffix(".npy")
            if name in arrays:
                raise ValueError(f"two arrays are named {name!r}")
            # Other methods inflate without a bound; NumPy writes these two.
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f"array {name!r} has compression method {info.compress_type}")
            with archive.open(info) as member:
                # read() would inflate all of a stream, even of one that announces less.
                data = member.read(info.file_size)
            arrays[name] = _npy_array(name, data)
    return arrays


def _npy_array(name: str, data: bytes) -> np.ndarray:
    """The array of one `.npy` file; it shares the memory of `data`."""
    file = io.BytesIO(data)
    try:
        version = npy.read_magic(file)
        # Versions 2 and 3 differ in the encoding of names of fields, which numbers have not.
        read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, columns_first, dtype = read_header(file)
    except ValueError as error:
        raise ValueError(f"array {name!r} has no header of NumPy's: {error}") from error
    dtype = _number_dtype(name, dtype)
    start = file.tell()
    if math.prod(shape) * dtype.itemsize != len(data) - start:
        raise ValueError(f"array {name!r} of shape {shape} has {len(data) - start} bytes")
    return np.ndarray(shape, dtype, data, start, order="F" if columns_first else "C")


def _number_dtype(name: str, dtype: np.dtype) -> np.dtype:
    if dtype == np.dtype("V2"):
        return np.dtype(ml_dtypes.bfloat16)
    if dtype.hasobject:
        raise ValueError(f"array {name!r} holds pickled Python objects, which are never loaded")
    if dtype.kind not in "biufc":
        raise ValueError(
            f"array {name!r} is of type {npy.dtype_to_descr(dtype)!r}, expected numbers; save "
            "others, such as 8-bit floats, as float32 or float16"
        )
    return dtype


def read_orbax_arrays(folder: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads all arrays and numbers of an Orbax checkpoint by the dotted name of their place.

    Orbax stores a tree as Zarr arrays and a description in JSON, which are read as such: Orbax
    itself prints the stacks of its threads where a file is damaged.

        read_orbax_arrays("checkpoints/1000")  # {"params.conv.kernel": ..., "step": ...}

    Args:
        folder: of one tree, or of a step or a run that holds one.

    Returns:
        Dotted name -> array; the strings of a tree are left out.

    Raises:
        ValueError: there is no checkpoint, more than one, or a damaged one.
    """
    folder = _tree_folder(pathlib.Path(folder).absolute())
    try:
        stores = _open_stores(folder, json.loads((folder / "_METADATA").read_bytes()))
        stored = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        _check_expansion(sum(map(_announced_bytes, stores.values())), stored)
        return {name: store.read().result() for name, store in stores.items()}
    except Exception as error:  # of TensorStore, pages long, or of JSON that describes no tree
        text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise ValueError(f"{folder}: not a whole Orbax checkpoint: {text}") from error


def _tree_folder(folder: pathlib.Path) -> pathlib.Path:
    """The folder of a tree: itself, or the only one at most two levels below."""
    patterns = ("_METADATA", "*/_METADATA", "*/*/_METADATA")
    found = [file.parent for pattern in patterns for file in sorted(folder.glob(pattern))]
    if not found:
        raise ValueError(f"{folder}: this folder holds no Orbax checkpoint of a tree (_METADATA)")
    if found[0] != folder and len(found) > 1:
        listed = ", ".join(map(str, found[:5]))
        raise ValueError(f"{folder}: holds {len(found)} checkpoints; give one of them: {listed}")
    return found[0]


def _open_stores(folder: pathlib.Path, description: Any) -> dict[str, ts.TensorStore]:
    """Opens the Zarr arrays of a tree by name, without reading their numbers."""
    in_database = (folder / "manifest.ocdbt").exists()
    context = ts.Context()  # opens the database once
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
            # Chunks of zeros may have been left out, if the description does not deny it.
            "fill_missing_data_reads": not description.get("store_array_data_equal_to_fill_value"),
        }
        stores[name] = ts.open(spec, open=True, read=True, context=context).result()
    return stores


def _announced_bytes(store: ts.TensorStore) -> int:
    # A chunk is inflated whole, however little of it the array covers.
    chunk: Any = store.chunk_layout.read_chunk.shape or ()
    size = max(math.prod(store.shape), math.prod(length or 1 for length in chunk))
    return size * store.dtype.numpy_dtype.itemsize


def _check_expansion(announced: int, stored: int) -> None:
    if announced > max(_ALWAYS_FITS, _MAX_EXPANSION * stored):
        raise ValueError(
            f"{announced} bytes are announced in {stored} stored ones, beyond the {_MAX_EXPANSION} "
            "times that weights shrink; save them uncompressed if this is right"
        )
