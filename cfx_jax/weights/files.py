"""Arrays of a weights file, whatever its format and wherever it is."""

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
from cfx_jax.weights.params_file import INDEX, read_arrays, read_shards, shard_names
from cfx_jax.weights.preprocessing import read_preprocessing

# Names under which weights are looked for in a folder and on the hub. What a file is, its content
# says.
_SUFFIXES = (".safetensors", INDEX, ".npz", ".pth", ".pt", ".bin", ".ckpt", ".pth.tar", ".pkl")
_FORMATS = "safetensors, .npz, a checkpoint of torch.save, and the folder of an Orbax checkpoint"
# First bytes of files that are no weights -> what they are and what to do.
_OTHERS = {
    rb"\s*(<\?xml[^>]*>\s*)?<Error\b": "the answer of a bucket that has no such file, or where you "
    "have no access (AccessDenied): log in there and download the file itself",
    rb"\s*<(!doctype|html|head|\?xml|!--)": "a page of HTML, as a server sends it in place of a "
    "file that takes a login or is gone: download the file itself",
    rb"version https://git-lfs": "only the pointer of Git LFS to a file: fetch it with git lfs "
    "pull, or download it",
    rb"\x1f\x8b|BZh|\xfd7zXZ|\x28\xb5\x2f\xfd|7z\xbc\xaf|Rar!": "compressed: unpack it",
    rb"\x89HDF": "an HDF5 file, as Keras writes it: load it there and use "
    "cfx_jax.adapters.from_keras",
    rb".{257}ustar": "a tar archive: unpack it and give a file of it",
}
_HEAD = 512
_logger = logging.getLogger(__name__)


def read_weights(path: str | os.PathLike[str]) -> Checkpoint:
    """Reads all arrays of a weights file by name; nothing in it is run.

    What the file is, its content says, whatever its name.

    Args:
        path: safetensors, the `.safetensors.index.json` of several ones, `.npz`, or what
            `torch.save` wrote; a folder with one of them, or of an Orbax checkpoint; or
            `hf://owner/name[/file]` for a file on the Hugging Face hub. With `#PLACE` behind it,
            only the arrays of that place, such as `best.pth#state_dict_ema`.

    Returns:
        Arrays, under the joined names of nested dicts, what is there instead of some, and what the
        files beside it say about the network.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: it cannot be read or fetched.
        ValueError: it is no file of weights, is damaged, or has no such place; the message names
            the file.
    """
    file, place = split_place(path)
    path = local_path(file)
    checkpoint = _read(path, file)
    checkpoint = checkpoint._replace(
        preprocessing=read_preprocessing(path if path.is_dir() else path.parent)
    )
    if not place:
        return checkpoint
    arrays, opaque = (_below(place, names) for names in (checkpoint.arrays, checkpoint.opaque))
    if not arrays:
        known = dict.fromkeys(re.split(r"[./]", name)[0] for name in checkpoint.arrays)
        raise ValueError(f"{file}: no arrays below {place!r}; there are {', '.join(known)[:300]}")
    return checkpoint._replace(arrays=arrays, opaque=opaque)


def split_place(path: str | os.PathLike[str]) -> tuple[str, str]:
    """Splits `FILE#PLACE`; the place is "" where there is none, or where that is a file's name."""
    text = os.fspath(path)
    file, _, place = text.rpartition("#")
    return (file, place) if file and not os.path.exists(text) else (text, "")


def local_path(path: str | os.PathLike[str]) -> pathlib.Path:
    """Returns the path of a weights file on this disk, fetched there from `hf://` if need be.

    Raises:
        ValueError: it is an address of another kind.
        OSError: it cannot be fetched.
    """
    text = os.fspath(path)
    if _hub.is_address(text):
        return _hub.download(text, _SUFFIXES)
    if address := re.match(r"([a-zA-Z][\w+.-]+):/", text):
        on_hub = re.match(r"https?:/+(?:huggingface\.co|hf\.co)/([^/]+/[^/]+)", text)
        better = f", or give hf://{on_hub[1]}/FILE" if on_hub else ""
        raise ValueError(
            f"{text}: weights are not read from {address[1]}:// addresses; download the file and "
            f"give its path{better}"
        )
    return pathlib.Path(text)


def _read(path: pathlib.Path, given: str) -> Checkpoint:
    if path.is_dir():
        return _read_folder(path, given)
    with open(path, "rb") as file:
        head = file.read(_HEAD)
    if not head.strip(b"\0"):
        raise ValueError(f"{given}: {'zeros only' if head else 'an empty file'}; download it again")
    # The length of the header comes first, which in JSON would be beyond all bounds. Before all
    # others, since its lowest bytes may be the first of theirs: of 32 lengths one ends with 0x80.
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**40:
        return Checkpoint(read_arrays(path))
    for start, what in _OTHERS.items():
        if re.match(start, head, re.IGNORECASE | re.DOTALL):
            raise ValueError(f"{given}: no weights but {what}")
    if head.startswith(b"PK"):
        return _read_archive(path, given)
    if head.startswith(b"\x80"):
        return read_torch_checkpoint(path)
    if head.lstrip().startswith(b"{"):
        return Checkpoint(read_shards(path))
    raise ValueError(f"{given}: unknown format of weights; known are {_FORMATS}")


def _read_archive(path: pathlib.Path, given: str) -> Checkpoint:
    """Reads a zip file, which both NumPy and torch write."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception as error:  # zipfile answers damage with a dozen types, some undocumented
        raise ValueError(
            f"{given}: damaged or not whole, such as a download that was cut off: {error}"
        ) from error
    if any(name.endswith("/constants.pkl") for name in names):
        raise ValueError(
            f"{given}: a program of TorchScript; save the state_dict() of the model with torch.save"
        )
    if any(name.endswith(".npy") for name in names):
        return Checkpoint(read_npz_arrays(path))
    return read_torch_checkpoint(path)


def _read_folder(path: pathlib.Path, given: str) -> Checkpoint:
    """Reads an Orbax checkpoint, or the only file of weights in a folder as the hub has them."""
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
        _logger.warning("%s: %s is used, and not %s", given, used, ", ".join(others))
    return checkpoint


def _below(place: str, names: Mapping[str, Any]) -> dict[str, Any]:
    """The entries whose names begin with a place, under the rest of their names."""
    places = (f"{place}.", f"{place}/")
    return {n[len(place) + 1 :]: value for n, value in names.items() if n.startswith(places)}
