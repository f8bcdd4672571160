"""`manifest.json`: describes the run of a folder, and keeps two runs out of one folder.

The file contains the manifest passed to `claim_folder` and, under the key "records", the layout of
the store next to it. It is written once, before the store, and never changed.
"""

import errno
import json
import os
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from cfx_jax.records.storage import RecordsError, Storage

_NAME = "manifest.json"
# This key differs between a run and its resumption, so it is never compared.
_INFORMATIVE = ("environment",)
_MAX_DIFFERENCES = 20


class ManifestMismatchError(RecordsError):
    """Error for a folder that contains a run with other settings."""


def claim_folder(
    storage: Storage,
    manifest: Mapping[str, Any],
    layout: dict[str, Any],
    informative: Collection[str] = (),
) -> None:
    """Writes the manifest of a new run, or checks that an existing manifest describes this run.

    Args:
        storage: the run's folder, created if missing.
        manifest: JSON values that describe the run. Its key "environment" is not compared; the
            value of the first run is kept.
        layout: JSON values that describe the store; compared like the rest.
        informative: paths of values of the manifest that are not compared either, such as
            `config.explain.mode`.

    Raises:
        ManifestMismatchError: the folder contains a run with another manifest or layout; the
            message lists the differences.
        RecordsError: the folder contains something other than a run.
        ValueError: the manifest contains values other than JSON values, or has a key "records".
        OSError: the folder cannot be created or written.
    """
    content = _as_json(manifest) | {"records": layout}
    try:
        _check_writable(storage)
        _create(storage, content)
    except OSError as error:
        reason = f"cannot write into workdir {storage} ({_reason(error)}); choose another --workdir"
        raise OSError(error.errno, reason) from error
    # Compare also after writing, because another process may have written the manifest first.
    _compare(storage, _read(storage), content, informative)


def read_manifest(storage: Storage) -> tuple[dict[str, Any], Any]:
    """Reads the manifest that `claim_folder` wrote.

    Args:
        storage: the run's folder.

    Returns:
        `(manifest, layout)`; tuples have become lists.

    Raises:
        FileNotFoundError: there is no run in the folder.
        RecordsError: the manifest is damaged.
    """
    content = _read(storage)
    layout = content.pop("records")
    return content, layout


def _as_json(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the manifest as it is read back: tuples become lists."""
    if "records" in manifest:
        raise ValueError('the manifest\'s key "records" is reserved for the layout of the store')
    try:
        return json.loads(json.dumps(dict(manifest), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(f"the manifest must contain finite JSON values only: {error}") from error


def _check_writable(storage: Storage) -> None:
    """Creates the folder; raises `OSError` if no file can be written into it."""
    root = storage.root
    if root is None:
        return
    if root.exists() and not root.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "it is a file, not a folder")
    root.mkdir(parents=True, exist_ok=True)
    if not os.access(root, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def _create(storage: Storage, content: dict[str, Any]) -> None:
    # Check the store first: a process that starts now creates the manifest before the store.
    has_store = storage.read("records.zarr/zarr.json") is not None
    if storage.read(_NAME) is not None:
        return
    if has_store:
        raise RecordsError(
            f"{storage} holds records.zarr but no {_NAME}, so it is unknown what was "
            "run; restore the manifest, choose another --workdir, or delete this one"
        )
    storage.create(_NAME, json.dumps(content, indent=2).encode())


def _reason(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno else str(error)


def _compare(
    storage: Storage, stored: dict[str, Any], now: dict[str, Any], informative: Collection[str]
) -> None:
    if not any(_differences(stored, now, {*_INFORMATIVE, *informative})):
        return
    # List the paths in `informative` too, which may explain why the rest differs.
    found = [f"{place}: {what}" for place, what in _differences(stored, now, _INFORMATIVE)]
    if len(found) > _MAX_DIFFERENCES:
        found[_MAX_DIFFERENCES:] = [f"... and {len(found) - _MAX_DIFFERENCES} more"]
    raise ManifestMismatchError(
        f"{storage} holds a run with other settings; nothing in it was changed.\n  "
        + "\n  ".join(found)
        + "\nChoose another --workdir, or delete this one to start over."
    )


def _read(storage: Storage) -> dict[str, Any]:
    place, found = storage.place(_NAME), storage.read(_NAME)
    if found is None:
        raise FileNotFoundError(
            f"{storage} holds no {_NAME}: not the folder of a run, or one whose manifest "
            "was deleted"
        )
    try:
        content = json.loads(found)
    except ValueError as error:
        raise RecordsError(
            f"{place} is not valid JSON ({error}): truncated or edited; restore it, choose another "
            "--workdir, or delete this one"
        ) from error
    if not isinstance(content, dict) or "records" not in content:
        raise RecordsError(f'{place} is not the manifest of a run: it has no entry "records"')
    return content


def _differences(
    stored: Any, now: Any, skipped: Collection[str], path: str = ""
) -> Iterator[tuple[str, str]]:
    """Yields path and description of each difference between JSON values, except `skipped`."""
    if isinstance(stored, list) and isinstance(now, list):
        stored, now = dict(enumerate(stored)), dict(enumerate(now))
    if not (isinstance(stored, dict) and isinstance(now, dict)):
        if stored != now:
            yield path, f"stored {_short(stored)}, now {_short(now)}"
        return
    for key in [*stored, *(key for key in now if key not in stored)]:
        place = f"{path}.{key}" if path else str(key)
        if place in skipped:
            continue
        if key not in now:
            yield place, f"removed (stored {_short(stored[key])})"
        elif key not in stored:
            yield place, f"added (now {_short(now[key])})"
        else:
            yield from _differences(stored[key], now[key], skipped, place)


def _short(value: Any, limit: int = 80) -> str:
    text = json.dumps(value)
    return text if len(text) <= limit else text[: limit - 4] + " ..."
