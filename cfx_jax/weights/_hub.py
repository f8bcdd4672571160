"""Weights on the Hugging Face hub: `hf://owner/name[/file]` -> a file on this disk."""

import logging
import pathlib
import posixpath
import re
from collections.abc import Sequence
from typing import Any

from cfx_jax.weights.params_file import INDEX, shard_names
from cfx_jax.weights.preprocessing import CONFIG, PREPROCESSOR

_ADDRESS = re.compile(r"hf://([^/]+/[^/]+)(?:/(.*))?")
_USUAL = "model.safetensors"
_logger = logging.getLogger(__name__)


def is_address(path: str) -> bool:
    """Tells whether a path names weights on the hub."""
    return path.startswith("hf://")


def download(address: str, suffixes: tuple[str, ...]) -> pathlib.Path:
    """Fetches a file of weights once; later calls find it in the cache of huggingface_hub.

    Args:
        address: `hf://owner/name/file`, or `hf://owner/name` for its `model.safetensors` or else
            the only file of weights there.
        suffixes: of the files of weights that can be read.

    Returns:
        Path of the file; the shards of an index, and the facts of the repository, lie beside it.

    Raises:
        ValueError: the address is malformed or names no file where there are several, or
            huggingface_hub is not installed.
        OSError: there is no such file, or it cannot be fetched.
    """
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise ValueError(f"{address}: expected hf://owner/name or hf://owner/name/file")
    try:
        import huggingface_hub.errors  # an optional extra
    except ImportError as error:
        raise ValueError(
            f"{address}: fetching weights takes the package huggingface_hub, which is not "
            "installed: pip install huggingface_hub, or download the file and give its path"
        ) from error
    try:
        return _fetch(huggingface_hub, match[1], match[2] or "", suffixes)
    except ValueError as error:
        raise ValueError(f"{address}: {error}") from error
    except Exception as error:  # of the hub, of its HTTP library, of the disk: pages long, some
        text = " ".join(str(error).split())[:300]
        raise OSError(f"{address}: cannot be fetched: {text}") from error


def _fetch(hub: Any, repository: str, file: str, suffixes: tuple[str, ...]) -> pathlib.Path:
    try:
        path = pathlib.Path(hub.hf_hub_download(repository, file or _USUAL))
    except hub.errors.LocalEntryNotFoundError:  # the hub is out of reach: no list either
        raise
    except hub.errors.EntryNotFoundError:
        if file:
            raise
        file = only_weights(hub.list_repo_files(repository), suffixes)
        path = pathlib.Path(hub.hf_hub_download(repository, file))
    folder = posixpath.dirname(file)
    if file.endswith(INDEX):
        for shard in shard_names(path):
            hub.hf_hub_download(repository, posixpath.join(folder, shard))
    for name in (CONFIG, PREPROCESSOR):
        try:
            hub.hf_hub_download(repository, posixpath.join(folder, name))
        except hub.errors.LocalEntryNotFoundError:
            _logger.warning("hf://%s: out of reach, so its %s is not read", repository, name)
        except hub.errors.EntryNotFoundError:
            pass
    return path


def only_weights(files: Sequence[str], suffixes: tuple[str, ...]) -> str:
    """Returns the file of weights among the names of a folder.

    Raises:
        ValueError: there are several, or none.
    """
    if _USUAL in files:
        return _USUAL
    known = [file for file in files if file.endswith(suffixes)]
    # The shards of an index are no candidates of their own.
    known = [file for file in known if file.endswith(INDEX)] or known
    if len(known) == 1:
        return known[0]
    if known:
        raise ValueError(f"give one of its files of weights: {', '.join(known)}")
    raise ValueError(f"no file of weights that can be read ({', '.join(suffixes)}) among {files}")
