"""Names and paths as they are given."""

import os
from collections.abc import Iterable, Mapping
from typing import Any


def look_up(kind: str, table: Mapping[str, Any], name: str, more: Iterable[str] = ()) -> Any:
    """Returns what a table has under a name.

    Args:
        kind: what is looked for, as an error calls it.
        table: by name.
        name: to look for.
        more: names that are known beside those of the table.

    Raises:
        ValueError: there is no such name; the known ones are listed.
    """
    if name not in table:
        known = ", ".join(sorted({*table, *more}))
        raise ValueError(f"unknown {kind} {name!r}; known are {known}")
    return table[name]


def path_of(weights: str | os.PathLike[str] | None) -> str | None:
    """Returns the path of weights as text.

    Raises:
        ValueError: it is empty.
    """
    if weights is not None and not os.fspath(weights):
        raise ValueError("weights='': give a path, or None for the packaged weights")
    return None if weights is None else os.fspath(weights)
