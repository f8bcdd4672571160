"""Downloads weights from the Hugging Face hub, `hf://owner/name[/file]`."""

import logging
import pathlib
import posixpath
import re
from collections.abc import Sequence
from typing import Any

from cfx_jax.weights.params_file import INDEX, shard_names
from cfx_jax.weights.preprocessing import CONFIG, PREPROCESSOR

_ADDRESS = re.compile(r"hf://([^/]+/[^/]+)(?:/(.*))?")
_DEFAULT_FILE = "model.safetensors"
_logger = logging.getLogger(__name__)


def is_address(path: str) -> bool:
    """Returns whether a path is an address on the hub."""
    return path.startswith("hf://")


def download(address: str, suffixes: tuple[str, ...]) -> pathlib.Path:
    """Downloads a weights file once; later calls use the cache of huggingface_hub.

    Args:
        address: address `hf://owner/name/file`, or `hf://owner/name` for its `model.safetensors` or
            else the only weights file of the repository.
        suffixes: suffixes of the weights files that can be read.

    Returns:
        Path of the file; the shards of an index and the config files of the repository are in the
        same folder.

    Raises:
        ValueError: the address is malformed, does not name one of several files, or huggingface_hub
            is not installed.
        OSError: the file does not exist or cannot be downloaded.
    """
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise ValueError(f"{address}: expected hf://owner/name or hf://owner/name/file")
    try:
        import huggingface_hub.errors  # An optional dependency.
    except ImportError as error:
        raise ValueError(
            f"{address}: fetching weights needs the package huggingface_hub, which is not "
            "installed: pip install huggingface_hub, or download the file and pass its path"
        ) from error
    try:
        return _fetch(huggingface_hub, match[1], match[2] or "", suffixes)
    except ValueError as error:
        raise ValueError(f"{address}: {error}") from error
    except Exception as error:  # From the hub, its HTTP library or the disk; some fill pages.
        text = " ".join(str(error).split())[:300]
        raise OSError(f"{address}: cannot be fetched: {text}") from error


def _fetch(hub: Any, repository: str, file: str, suffixes: tuple[str, ...]) -> pathlib.Path:
    try:
        path = pathlib.Path(hub.hf_hub_download(repository, file or _DEFAULT_FILE))
    except hub.errors.LocalEntryNotFoundError:  # The hub cannot be reached, so there is no list.
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
            _logger.warning("hf://%s cannot be reached, so its %s is not read", repository, name)
        except hub.errors.EntryNotFoundError:
            pass
    return path


def only_weights(files: Sequence[str], suffixes: tuple[str, ...]) -> str:
    """Returns the only weights file of a folder, or its `model.safetensors`.

    Args:
        files: names of the files in the folder.
        suffixes: suffixes of the weights files that can be read.

    Returns:
        The name of the file.

    Raises:
        ValueError: there are several weights files, or none.
    """
    if _DEFAULT_FILE in files:
        return _DEFAULT_FILE
    known = [file for file in files if file.endswith(suffixes)]
    # The shards of an index are not candidates.
    known = [file for file in known if file.endswith(INDEX)] or known
    if len(known) == 1:
        return known[0]
    if known:
        raise ValueError(f"pass one of its weights files: {', '.join(known)}")
    raise ValueError(f"no weights file that can be read ({', '.join(suffixes)}) among {files}")
