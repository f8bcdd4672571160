"""Reads files of class names: one name per line, numbers with names, or JSON."""

import codecs
import functools
import importlib.resources
import json
import pathlib
import re
from collections.abc import Sequence
from typing import Any

_NUMBERED = re.compile(r"(\d+)(?:\s*[:;,=|]\s*|\s+-\s+|\s+)(\S.*)")
_NUMBER_LAST = re.compile(r"(\S.*?)(?:\s*[:;,=|]\s*|\s+)(\d+)")
_EXPECTED = "expected one class name per line, or JSON: a list of names, or number -> name"


def read(path: str) -> list[str]:
    """Reads the names of classes in the order of their numbers.

    Args:
        path: path of a text file in UTF-8 or UTF-16. It contains one name per line; or one number
            and name per line, such as `0 tench` or `tench 0`, in any order, with numbers from 0; or
            a JSON list of names, or a JSON object `{"0": "tench", ...}`.

    Returns:
        At least one name.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is not text, an empty line is between others, the numbers are not 0, 1,
            2, ..., or the JSON has another form.
    """
    content = pathlib.Path(path).read_bytes()
    # Editors may add a byte order mark at the start and empty lines at the end.
    is_wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    text = content.decode("utf-16" if is_wide else "utf-8-sig").rstrip()
    if text.lstrip().startswith(("[", "{")):
        return _from_json(text)
    lines = [line.strip() for line in text.splitlines()]
    if not lines:
        raise ValueError(f"it is empty; {_EXPECTED}")
    if "" in lines:
        raise ValueError(
            f"line {lines.index('') + 1} is empty, which would shift the classes after it; "
            f"{_EXPECTED}"
        )
    return _without_numbers(lines)


@functools.cache
def read_packaged(file: str) -> tuple[str, ...]:
    """Returns the class names of a packaged file, in the order of the labels.

    The names of ImageNet-1k are WordNet lemmas.
    """
    text = importlib.resources.files("cfx_jax.weights").joinpath(file)
    return tuple(text.read_text(encoding="utf-8").splitlines())


def _without_numbers(lines: list[str]) -> list[str]:
    matches = [_NUMBERED.fullmatch(line) for line in lines]
    pairs = [(int(match[1]), match[2]) for match in matches if match]
    if len(pairs) < len(lines):
        return _without_last_numbers(lines)
    numbers = [number for number, _ in pairs]
    # Other numbers are part of the names, as in `30 km/h`.
    are_indices = min(numbers) <= 1 or max(numbers) <= len(lines)
    return _sort_names(pairs) if are_indices else lines


def _without_last_numbers(lines: list[str]) -> list[str]:
    """Sorts lines such as `tench 0`; keeps the numbers if the names without them repeat."""
    pairs = [(match[2], match[1]) for line in lines if (match := _NUMBER_LAST.fullmatch(line))]
    names = {int(number): name for number, name in pairs}
    are_indices = sorted(names) == list(range(len(lines))) and len(lines) > 1
    if not are_indices or len(set(names.values())) < len(lines):
        return lines
    return [names[number] for number in range(len(lines))]


def _from_json(text: str) -> list[str]:
    try:
        content: Any = json.loads(text)
    except ValueError as error:
        raise ValueError(f"it starts like JSON but is not valid ({error}); {_EXPECTED}") from error
    names = list(content.values()) if isinstance(content, dict) else content
    if not names or not all(isinstance(name, str) and name.strip() for name in names):
        raise ValueError(f"its JSON is not a list or an object of names; {_EXPECTED}")
    if isinstance(content, list):
        return names
    if wrong := [key for key in content if not re.fullmatch("[0-9]+", key)]:
        raise ValueError(f"the key {wrong[0]!r} of its JSON is not a number; {_EXPECTED}")
    return _sort_names([(int(key), name) for key, name in content.items()])


def _sort_names(pairs: Sequence[tuple[int, str]]) -> list[str]:
    numbers = sorted(number for number, _ in pairs)
    for expected, number in enumerate(numbers):
        if number != expected:
            what = "repeated" if number < expected else "missing"
            raise ValueError(
                f"of {len(pairs)} numbered names, {min(number, expected)} is {what}; "
                f"expected each of 0 to {len(pairs) - 1} once"
            )
    return [name for _, name in sorted(pairs)]
