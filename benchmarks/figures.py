"""Nested dictionaries of figures: merging and printing."""

from collections.abc import Iterator, Mapping
from typing import Any

Found = dict[str, Any]


def merge(found: Found, new: Mapping[str, Any]) -> None:
    """Adds figures to those of earlier stages."""
    for name, value in new.items():
        if isinstance(value, dict) and isinstance(found.get(name), dict):
            merge(found[name], value)
        else:
            found[name] = value


def show(found: Mapping[str, Any]) -> None:
    """Prints one line per figure."""
    for name, value in _flat(found):
        text = f"{value:,.4g}" if isinstance(value, float) else value
        print(f"{name:48} {text}", flush=True)


def _flat(found: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in found.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{name}.")
        else:
            yield above + name, value
