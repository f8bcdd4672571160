"""Files of class names: a name a line, numbers with names, or JSON."""

import codecs
import functools
import importlib.resources
import json
import pathlib
import re
from collections.abc import Sequence
from typing import Any

_NUMBERED = re.compile(r"(\d+)(?:\s*[:;,=|]\s*|\s+-\s+|\s+)(\S.*)")
_EXPECTED = "expected one class name a line, or JSON: a list of names, or number -> name"


def read(path: str) -> list[str]:
    """Reads the names of classes in the order of their numbers.

    Args:
        path: of a text file in UTF-8 or UTF-16. It holds a name a line; or a number from 0 on and a
            name a line, such as `0 tench`, in any order; or a JSON list of names, or a JSON object
            `{"0": "tench", ...}`.

    Returns:
        The names, at least one.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no text, a line in the middle is empty, the numbers are not 0, 1, 2, ...,
            or the JSON is something else.
    """
    content = pathlib.Path(path).read_bytes()
    # Editors may begin files with a byte order mark and end them with empty lines.
    is_wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    text = content.decode("utf-16" if is_wide else "utf-8-sig").rstrip()
    if text.lstrip().startswith(("[", "{")):
        return _from_json(text)
    lines = [line.strip() for line in text.splitlines()]
    if not lines:
        raise ValueError(f"it is empty; {_EXPECTED}")
    if "" in lines:
        raise ValueError(
            f"line {lines.index('') + 1} is empty, which would shift the classes behind it; "
            f"{_EXPECTED}"
        )
    return _without_numbers(lines)


@functools.cache
def read_packaged(file: str) -> tuple[str, ...]:
    """Returns the class names of a packaged file, in the order of the labels.

    ImageNet-1k: WordNet lemmas.
    """
    text = importlib.resources.files("cfx_jax.weights").joinpath(file)
    return tuple(text.read_text(encoding="utf-8").splitlines())


def _without_numbers(lines: list[str]) -> list[str]:
    found = [_NUMBERED.fullmatch(line) for line in lines]
    pairs = [(int(match[1]), match[2]) for match in found if match]
    if len(pairs) < len(lines):
        return lines
    numbers = [number for number, _ in pairs]
    # Others are part of the names, as in `30 km/h`.
    is_count = min(numbers) <= 1 or max(numbers) <= len(lines)
    return _in_order(pairs) if is_count else lines


def _from_json(text: str) -> list[str]:
    try:
        found: Any = json.loads(text)
    except ValueError as error:
        raise ValueError(f"it begins as JSON but is none ({error}); {_EXPECTED}") from error
    names = list(found.values()) if isinstance(found, dict) else found
    if not names or not all(isinstance(name, str) and name.strip() for name in names):
        raise ValueError(f"its JSON is no list of names and no object of them; {_EXPECTED}")
    if isinstance(found, list):
        return names
    if wrong := [key for key in found if not re.fullmatch("[0-9]+", key)]:
        raise ValueError(f"the key {wrong[0]!r} of its JSON is no number; {_EXPECTED}")
    return _in_order([(int(key), name) for key, name in found.items()])


def _in_order(pairs: Sequence[tuple[int, str]]) -> list[str]:
    numbers = sorted(number for number, _ in pairs)
    for expected, number in enumerate(numbers):
        if number != expected:
            what = "there twice" if number < expected else "missing"
            raise ValueError(
                f"of {len(pairs)} numbered names, {min(number, expected)} is {what}; "
                f"expected each of 0 to {len(pairs) - 1} once"
            )
    return [name for _, name in sorted(pairs)]
