"""Arrays of a weights file, whatever its format and wherever it is."""

import os
import pathlib

import numpy as np

from cfx_jax.weights import hub
from cfx_jax.weights.archives import read_npz_arrays, read_orbax_arrays
from cfx_jax.weights.params_file import INDEX, read_arrays, read_shards
from cfx_jax.weights.torch_pickle import read_torch_arrays

_READERS = {
    ".safetensors": read_arrays,
    INDEX: read_shards,
    ".npz": read_npz_arrays,
    **dict.fromkeys((".pth", ".pt", ".bin", ".ckpt"), read_torch_arrays),
}


def read_weights(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads all arrays of a weights file by name; nothing in it is run.

    Args:
        path: `.safetensors`, the `.safetensors.index.json` of several ones, `.npz`, or `.pth`,
            `.pt`, `.bin` or `.ckpt` of PyTorch; the folder of an Orbax checkpoint; or
            `hf://owner/name[/file]` for a file on the Hugging Face hub.

    Returns:
        Name -> array; the names of nested dicts are joined by dots.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: it cannot be read or fetched.
        ValueError: its format is unknown, or it is damaged; the message names the file.
    """
    local = local_path(path)
    if local.is_dir():
        return read_orbax_arrays(local)
    for suffix, read in _READERS.items():
        if local.name.endswith(suffix):
            return read(local)
    raise ValueError(
        f"{os.fspath(path)}: unknown format of weights; known are {', '.join(_READERS)} and the "
        "folder of an Orbax checkpoint"
    )


def local_path(path: str | os.PathLike[str]) -> pathlib.Path:
    """Returns the path of a weights file on this disk, fetched there from `hf://` if need be."""
    text = os.fspath(path)
    return hub.download(text, tuple(_READERS)) if hub.is_address(text) else pathlib.Path(text)
