"""Arrays of a weights file, whatever its format."""

import os
import pathlib

import numpy as np

from cfx_jax.weights.params_file import read_arrays
from cfx_jax.weights.torch_pickle import read_torch_arrays

_TORCH = (".pth", ".pt", ".bin", ".ckpt")


def read_weights(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads all arrays of a weights file by name.

    Args:
        path: `.safetensors`, or `.pth`, `.pt`, `.bin` or `.ckpt` of PyTorch.

    Returns:
        Name -> array; the names of nested dicts are joined by dots.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: its format is unknown, or it is damaged; the message names the file.
    """
    suffix = pathlib.Path(path).suffix
    if suffix == ".safetensors":
        return read_arrays(path)
    if suffix in _TORCH:
        return read_torch_arrays(path)
    known = ", ".join((".safetensors", *_TORCH))
    raise ValueError(f"{os.fspath(path)}: unknown format of weights; known are {known}")
