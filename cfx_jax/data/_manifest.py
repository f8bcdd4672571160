"""The table of a folder of images, `manifest.csv`: files, labels, boxes and splits."""

import csv
import difflib
import io
import logging
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from cfx_jax.config import ConfigError

_logger = logging.getLogger(__name__)
_DELIMITERS = ",;\t|"
# First bytes of other kinds of files, which may still be named .csv.
_OTHER_KINDS = {
    b"PK\x03\x04": "a spreadsheet (.xlsx) or a zip file",
    b"\xd0\xcf\x11\xe0": "a spreadsheet (.xls)",
    b"\x1f\x8b": "compressed by gzip",
    b"PAR1": "a Parquet file",
    b"%PDF": "a PDF file",
    b"SQLite": "a database",
    b"\xff\xfe": "UTF-16 or UTF-32",
    b"\xfe\xff": "UTF-16",
}
# Accepted names of each column, without case, spaces and punctuation; also those of Hugging Face.
_COLUMNS = {"file": "file", "filename": "file", "label": "label", "boxes": "boxes",
            "split": "split"}  # fmt: skip
# Similar names are an error, because such a column may be one of ours or something else.
_ALIKE: dict[str, set[str]] = {
    "file": {"path", "image", "img", "name", "id"},
    "label": {"class", "classes", "target", "category", "y", "truth", "groundtruth", "synset",
              "wnid"},
    "boxes": {"box", "bbox", "boundingbox"},
    "split": set(),
}  # fmt: skip
_EXPECTED = (
    "expected a column `file`, if labels are known a column `label`, if boxes are known a column "
    "`boxes` such as `4 0 96 64.5; 8 8 20 20` (x0 y0 x1 y1 in pixels), and a column `split` with "
    "data.split"
)


class Row(NamedTuple):
    """A row of the table.

    Attributes:
        place: name of the row in messages.
        file: path of the image, as written in the table.
        label: text of the label; "" if it is unknown.
        boxes: boxes in the image, float32 `[k, 4]`, `x0 y0 x1 y1` in pixels.
        split: name of the split; None without a column `split`.
    """

    place: str
    file: str
    label: str
    boxes: np.ndarray
    split: str | None


def read_manifest(path: pathlib.Path) -> list[Row]:
    """Reads a table in UTF-8, with any delimiter and any spelling of its column names.

    Args:
        path: path of the table. Columns other than `file` (or `file_name`), `label`, `boxes` and
            `split` are logged and ignored.

    Returns:
        The rows that are not empty.

    Raises:
        ConfigError: the file is not UTF-8 text or not a table, has no column `file`, has a column
            whose name is similar to a known name, or a row does not fit the columns.
    """
    text = _read_text(path)
    if not text.strip():
        raise ConfigError(f"{path}: is empty; {_EXPECTED}")
    header, rows = _split_cells(path, text)
    columns = _name_columns(path, header)
    found = []
    for line, cells in rows:
        place = f"{path}, line {line}"
        if len(cells) != len(header):
            raise ConfigError(
                f"{place}: {len(cells)} cells, but the first line names {len(header)} columns; put "
                'a text with a delimiter in it in quotes, "...", and name each column that is used'
            )
        values = {column: cells[index] for column, index in columns.items()}
        if not values["file"]:
            raise ConfigError(f"{place}: names no file")
        try:
            boxes = _parse_boxes(values.get("boxes", ""))
        except ValueError as error:
            raise ConfigError(f"{place}: {error}; {_EXPECTED}") from error
        label, split = values.get("label", ""), values.get("split")
        found.append(Row(place, values["file"], label, boxes, split))
    return found


def _read_text(path: pathlib.Path) -> str:
    """Returns the text of a file in UTF-8, with or without a byte order mark."""
    content = path.read_bytes()
    for start, kind in _OTHER_KINDS.items():
        if content.startswith(start):
            raise ConfigError(f"{path}: is {kind}; expected text: save it as CSV in UTF-8")
    try:
        text = content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path}: is not UTF-8 at byte {error.start}; save it as CSV in UTF-8"
        ) from error
    if "\0" in text:
        raise ConfigError(
            f"{path}: has a zero byte, as UTF-16 without a mark has; save it as CSV in UTF-8"
        )
    return text


def _split_cells(
    path: pathlib.Path, text: str
) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """Returns the column names, and the line number and cells of each row.

    The delimiter is read from a first line such as `sep=;`, which Excel writes. Otherwise it is the
    delimiter with which the header has most of our columns.
    """
    separator = re.match(r"sep=(.)(?=[\r\n])", text, re.IGNORECASE)
    text = text[separator.end() :] if separator else text

    def num_known(delimiter: str) -> int:
        try:
            _, names = next(_read_rows(path, text, delimiter), (0, []))
        except ConfigError:  # With this delimiter, a quoted cell does not end.
            return -1
        return len({_COLUMNS.get(_fold(name)) for name in names} - {None})

    rows = _read_rows(path, text, separator[1] if separator else max(_DELIMITERS, key=num_known))
    _, header = next(rows, (0, [""]))
    # Spreadsheets end each line with the delimiters of empty columns.
    width = len(header)
    while width > 1 and not header[width - 1]:
        width -= 1
    cut = ((line, cells if any(cells[width:]) else cells[:width]) for line, cells in rows)
    return header[:width], cut


def _read_rows(path: pathlib.Path, text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True
    )
    try:
        for cells in reader:
            stripped = [cell.strip() for cell in cells]
            if any(stripped):
                yield reader.line_num, stripped
    except csv.Error as error:
        raise ConfigError(f"{path}, line {reader.line_num}: {error}; {_EXPECTED}") from error


def _fold(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.casefold())


def _name_columns(path: pathlib.Path, header: Sequence[str]) -> dict[str, int]:
    """Returns the index of each known column."""
    columns: dict[str, int] = {}
    unknown = []
    for index, name in enumerate(header):
        column = _COLUMNS.get(_fold(name))
        if column is None:
            unknown.append(name)
        elif column in columns:
            raise ConfigError(
                f"{path}: columns {header[columns[column]]!r} and {name!r} are both `{column}`"
            )
        else:
            columns[column] = index
    parts = {_COLUMNS.get(_fold(part)) for part in re.split(r"[\s:]+", header[0])} - {None}
    if len(header) == 1 and len(parts) > 1:
        raise ConfigError(
            f"{path}: the first line names one column, {header[0]!r}; put commas between the "
            f"columns; {_EXPECTED}"
        )
    for name in unknown:
        near = _near_column(_fold(name))
        if near is not None and near not in columns:
            raise ConfigError(
                f"{path}: unknown column {name!r}; did you mean `{near}`? Rename or remove it"
            )
    if "file" not in columns:
        raise ConfigError(f"{path}: the first line names {', '.join(header)!r}; {_EXPECTED}")
    if unknown:
        names = ", ".join(name or "one without a name" for name in unknown)
        _logger.info("%s: columns not used: %s", path, names)
    return columns


def _near_column(name: str) -> str | None:
    """Returns the known column that an unknown name probably means, or None."""
    for column, others in _ALIKE.items():
        if name in others or column in name:
            return column
    # Names such as `class_id` and `target_name`.
    for column, others in _ALIKE.items():
        if any(len(other) > 2 and name.startswith(other) for other in others):
            return column
    near = difflib.get_close_matches(name, _COLUMNS, 1, cutoff=0.7)
    return _COLUMNS[near[0]] if near else None


def _parse_boxes(text: str) -> np.ndarray:
    boxes = [[float(number) for number in box.split()] for box in text.split(";") if box.strip()]
    for box in boxes:
        if len(box) != 4 or not np.isfinite(box).all() or box[0] > box[2] or box[1] > box[3]:
            raise ValueError(f"boxes {text!r} are not of four numbers with x0 <= x1 and y0 <= y1")
    return np.array(boxes, np.float32).reshape(-1, 4)
