"""Reads the arrays of a weights file of any supported format, from disk or from the hub."""

import logging
import os
import pathlib
import re
import zipfile
from collections.abc import Mapping
from typing import Any

from cfx_jax.weights import _hub
from cfx_jax.weights._archives import read_npz_arrays, read_orbax_arrays
from cfx_jax.weights._torch_pickle import Checkpoint, read_torch_checkpoint
from cfx_jax.weights.formats import recognise
from cfx_jax.weights.params_file import INDEX, read_arrays, read_shards, shard_names
from cfx_jax.weights.preprocessing import read_preprocessing

# Suffixes of weights files in a folder and on the hub. The format is detected from the content.
_SUFFIXES = (".safetensors", INDEX, ".npz", ".pth", ".pt", ".bin", ".ckpt", ".pth.tar", ".pkl")
_FORMATS = "safetensors, .npz, a checkpoint of torch.save, and the folder of an Orbax checkpoint"
_HEAD_BYTES = 512
_logger = logging.getLogger(__name__)


def read_weights(path: str | os.PathLike[str]) -> Checkpoint:
    """Reads all arrays of a weights file by name; no code in the file is run.

    The format is detected from the content, for any file name.

    Args:
        path: path of a safetensors file, of the `.safetensors.index.json` of several files, of an
            `.npz` file, or of a file written by `torch.save`; or of a folder with one of them, or
            of an Orbax checkpoint; or `hf://owner/name[/file]` for a file on the Hugging Face hub.
            With the suffix `#PLACE`, such as `best.pth#state_dict_ema`, only the arrays below that
            place are read.

    Returns:
        Arrays under the joined names of nested dicts, class names of objects in place of arrays,
        and properties of the network from the config files next to the weights.

    Raises:
        FileNotFoundError: the file does not exist.
        OSError: the file cannot be read or downloaded.
        ValueError: the file is not a weights file, is damaged, or has no such place; the message
            names the file.
    """
    file, place = split_place(path)
    path = local_path(file)
    checkpoint = _read(path, file)
    checkpoint = checkpoint._replace(
        preprocessing=read_preprocessing(path if path.is_dir() else path.parent)
    )
    if not place:
        return checkpoint
    arrays, opaque = (_select(place, names) for names in (checkpoint.arrays, checkpoint.opaque))
    if not arrays:
        known = dict.fromkeys(re.split(r"[./]", name)[0] for name in checkpoint.arrays)
        raise ValueError(f"{file}: no arrays below {place!r}; there are {', '.join(known)[:300]}")
    return checkpoint._replace(arrays=arrays, opaque=opaque)


def split_place(path: str | os.PathLike[str]) -> tuple[str, str]:
    """Splits `FILE#PLACE`; the place is "" if there is none, or if a file with that name exists."""
    text = os.fspath(path)
    file, _, place = text.rpartition("#")
    return (file, place) if file and not os.path.exists(text) else (text, "")


def local_path(path: str | os.PathLike[str]) -> pathlib.Path:
    """Returns the local path of a weights file; an `hf://` address is downloaded.

    Raises:
        ValueError: the path is an address other than `hf://`.
        OSError: the file cannot be downloaded.
    """
    text = os.fspath(path)
    if _hub.is_address(text):
        return _hub.download(text, _SUFFIXES)
    if address := re.match(r"([a-zA-Z][\w+.-]+):/", text):
        on_hub = re.match(r"https?:/+(?:huggingface\.co|hf\.co)/([^/]+/[^/]+)", text)
        hint = f", or hf://{on_hub[1]}/FILE" if on_hub else ""
        raise ValueError(
            f"{text}: weights are not read from {address[1]}:// addresses; download the file and "
            f"pass its path{hint}"
        )
    return pathlib.Path(text)


def _read(path: pathlib.Path, given: str) -> Checkpoint:
    if path.is_dir():
        return _read_folder(path, given)
    with open(path, "rb") as file:
        head = file.read(_HEAD_BYTES)
    if not head.strip(b"\0"):
        raise ValueError(f"{given}: {'zeros only' if head else 'an empty file'}; download it again")
    # A safetensors file starts with the length of its header; the first bytes of JSON would be far
    # too large a length. Check this before the other formats, since the lowest bytes of the length
    # may be the first bytes of another format: one of 32 lengths ends with 0x80.
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**40:
        return Checkpoint(read_arrays(path))
    if (found := recognise(path)) and found.for_weights:
        raise ValueError(f"{given}: not weights, but {found.name}: {found.for_weights}")
    if head.startswith(b"PK"):
        return _read_archive(path, given)
    if head.startswith(b"\x80"):
        return read_torch_checkpoint(path)
    if head.lstrip().startswith(b"{"):
        return Checkpoint(read_shards(path))
    raise ValueError(f"{given}: unknown format of weights; known are {_FORMATS}")


def _read_archive(path: pathlib.Path, given: str) -> Checkpoint:
    """Reads a zip file written by NumPy or torch."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception as error:  # zipfile raises many types for damage, some undocumented.
        raise ValueError(
            f"{given}: damaged or incomplete, for example by an interrupted download: {error}"
        ) from error
    if any(name.endswith(".npy") for name in names):
        return Checkpoint(read_npz_arrays(path))
    return read_torch_checkpoint(path)


def _read_folder(path: pathlib.Path, given: str) -> Checkpoint:
    """Reads an Orbax checkpoint, or the only weights file in a folder."""
    if (found := recognise(path)) and found.for_weights:
        raise ValueError(f"{given}: not weights, but {found.name}: {found.for_weights}")
    files = sorted(f.name for f in path.iterdir() if f.name.endswith(_SUFFIXES) and f.is_file())
    if not files or (path / "_METADATA").exists():
        return Checkpoint(read_orbax_arrays(path))
    try:
        used = _hub.only_weights(files, _SUFFIXES)
        checkpoint = _read(path / used, given)
        shards = shard_names(path / used) if used.endswith(INDEX) else {}
    except ValueError as error:
        raise ValueError(f"{given}: {error}") from error
    if others := [file for file in files if file != used and file not in shards]:
        _logger.warning("%s: using %s, ignoring %s", given, used, ", ".join(others))
    return checkpoint


def _select(place: str, names: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the entries below a place, without this prefix in their names."""
    places = (f"{place}.", f"{place}/")
    return {n[len(place) + 1 :]: value for n, value in names.items() if n.startswith(places)}
