"""What a run ends with: its page and the table on the terminal, no accelerator needed."""

import itertools
import os
import re

from cfx_jax.report.examples import describe, rather, read_units
from cfx_jax.report.gallery import write_gallery
from cfx_jax.runs.explanations import Explanations

_MAX_SUMMARY_ROWS = 40
_ID_WIDTH, _CLASS_WIDTH = 24, 32


def write_report(workdir: str | os.PathLike[str], max_images: int | None = 100) -> str:
    """Writes the page of a run, of all it has computed so far.

    Args:
        workdir: the run's folder, as `RecordWriter` made it.
        max_images: show pictures of the first so many computed examples, None of all; the numbers
            are of all.

    Returns:
        Place of `report/index.html` in `workdir`.

    Raises:
        FileNotFoundError: there is no run in the folder.
        RecordsError: the manifest or a chunk is damaged, or of something else than a run.
        ValueError: `max_images` is negative.
    """
    return write_gallery([workdir], f"{os.fspath(workdir).rstrip('/')}/report", max_images)


def summary(workdir: str | os.PathLike[str]) -> str:
    """Returns the table of a run as text: class, log-odds before and after, area, status.

    Args:
        workdir: the run's folder, as `RecordWriter` made it.

    Returns:
        A line for each computed example and objective, at most 40, and a last one that counts.
    """
    run = Explanations(workdir)
    rows = [("image", "explained class", "objective", "before", "after", "kept", "status")]
    described = (
        describe(run, unit, row) for unit in read_units(run) for row in range(len(unit.indices))
    )
    for example in itertools.islice(described, _MAX_SUMMARY_ROWS // len(run.objectives)):
        for name, result in example["results"].items():
            cells = (result["before"], result["after"], result["kept_area"], result["status"])
            rows.append((_end(example["id"]), _begin(example["target"]), name.upper(), *cells))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    # Of an image with several classes to explain, each is an example.
    what = "images" if run.asked("top_classes") is None else "examples"
    lines.append(f"{run.complete.sum()} of {run.num_examples} {what}; before, after: ")
    lines[-1] += f"probability (log-odds) of the class{_visible(rather(run))}"
    return "\n".join(lines)


def _end(text: str) -> str:
    """Returns the end of an id, which tells files of one folder apart."""
    text = _visible(text)
    return text if len(text) <= _ID_WIDTH else f"…{text[1 - _ID_WIDTH :]}"


def _begin(text: str) -> str:
    """Returns the beginning of the name of a class, and its number, which tells it for sure."""
    text = _visible(text)
    if len(text) <= _CLASS_WIDTH:
        return text
    number = found[0] if (found := re.search(r" \(\d+\)$", text)) else ""
    return f"{text[: _CLASS_WIDTH - 1 - len(number)]}…{number}"


def _visible(text: str) -> str:
    """Escapes what would move the cursor, turn the line round or not be seen on a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
