"""Looks up names and paths that a user passes."""

import os
from collections.abc import Iterable, Mapping
from typing import Any


def look_up(kind: str, table: Mapping[str, Any], name: str, more: Iterable[str] = ()) -> Any:
    """Returns the entry of a table with a name.

    Args:
        kind: kind of the entries, for the error message.
        table: entries by name.
        name: name to look up.
        more: further known names, for the error message.

    Returns:
        The entry.

    Raises:
        ValueError: the name is unknown; the message lists the known names.
    """
    if name not in table:
        known = ", ".join(sorted({*table, *more}))
        raise ValueError(f"unknown {kind} {name!r}; known are {known}")
    return table[name]


def path_of(weights: str | os.PathLike[str] | None) -> str | None:
    """Returns the path of weights as text.

    Raises:
        ValueError: the path is empty.
    """
    if weights is not None and not os.fspath(weights):
        raise ValueError("weights is empty; pass a path, or None for the packaged weights")
    return None if weights is None else os.fspath(weights)
