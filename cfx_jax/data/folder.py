"""A folder of images, with a table, with a sub-folder for each class, or without labels; or one."""

import collections
import logging
import os
import pathlib
import posixpath
import re
from collections.abc import Sequence

import numpy as np

from cfx_jax.config import ConfigError, DataConfig
from cfx_jax.data import images
from cfx_jax.data.digests import digest_file
from cfx_jax.data.labels import Classes
from cfx_jax.data.listing import (
    describe_not_read,
    is_left_behind,
    list_images,
    readable_suffixes,
)
from cfx_jax.data.manifest import Row, read_manifest
from cfx_jax.data.source import UNKNOWN_LABEL, Source, no_boxes

_logger = logging.getLogger(__name__)
# Ours, and that of Hugging Face.
_TABLES = ("manifest.csv", "metadata.csv")
_TABULAR = {".csv", ".tsv", ".jsonl", ".xlsx", ".parquet"}


def open_folder(config: DataConfig, classes: Classes) -> Source:
    """Opens a folder of images, or a single image, and says what is read and what is not.

    Args:
        config: the `data` section; `path`, `split` and `class_folders` are read.
        classes: what labels that are texts mean. Where there is no classifier such labels are
            errors when they are asked for.

    Returns:
        A `Source`; its ids are the paths of the files inside the folder.

    Raises:
        ConfigError: there is no such folder, or its table or class folders cannot be used.
    """
    root = find_folder(config)
    table = next((root / name for name in _TABLES if (root / name).is_file()), None)
    if config.split and (config.class_folders or table is None):
        raise ConfigError(
            f"data.split={config.split} is for a manifest.csv with a column `split`; for the "
            f"images of a sub-folder: --config.data.path={root / config.split}"
        )
    if root.is_file():
        return _open_single(root)
    if config.class_folders:
        return _open_class_folders(root, classes)
    if table is not None:
        return _open_table(table, config.split, classes)
    others = sorted(path.name for path in root.iterdir() if path.suffix.lower() in _TABULAR)
    if others:
        _logger.warning(
            "%s: labels are read from a table named %s, not from %s",
            root,
            " or ".join(_TABLES),
            ", ".join(others[:3]),
        )
    listing = list_images(root)
    _logger.info("%d images; %s", len(listing.images), describe_not_read(listing.not_read))
    return _make_source(root, listing.images, [UNKNOWN_LABEL] * len(listing.images))


def find_folder(config: DataConfig) -> pathlib.Path:
    """Returns the path of a folder, or of a file, that is there.

    Raises:
        ConfigError: nothing is there.
    """
    if not config.path or not os.path.exists(config.path):
        raise ConfigError(
            f"data.path: no image folder at {config.path!r}; give one with --config.data.path=DIR"
        )
    return pathlib.Path(config.path)


def _make_source(
    root: pathlib.Path,
    files: Sequence[str],
    labels: Sequence[int | str],
    ids: Sequence[str] | None = None,
    boxes: Sequence[np.ndarray] = (),
) -> Source:
    """Returns the source of files; a label that is a text is what is wrong with it."""

    def label(index: int) -> int:
        found = labels[index]
        if isinstance(found, str):
            raise ConfigError(found)
        return found

    return Source(
        name=root.resolve().name,
        # File names may be any bytes, ids are text: a byte that is none becomes `\\xNN`.
        ids=[os.fsencode(name).decode(errors="backslashreplace") for name in ids or files],
        label=label,
        boxes=boxes.__getitem__ if boxes else no_boxes,
        open_image=lambda index: images.open_file(root / files[index]),
        digest=lambda index: digest_file(root / files[index]),
    )


def _open_single(path: pathlib.Path) -> Source:
    try:
        readable_suffixes()  # Lets Pillow know of those that other packages read.
        with images.reading(path.name):
            images.open_file(path).close()
    except images.UnreadableImageError as error:
        hint = "; for arrays: --config.data.source=npz" if path.suffix == ".npz" else ""
        raise ConfigError(
            f"data.path: 0 of 1 readable; expected an image or a folder of images: {error}{hint}"
        ) from error
    _logger.info("1 image, %s", path)
    return _make_source(path.parent, [path.name], [UNKNOWN_LABEL])


def _open_class_folders(root: pathlib.Path, classes: Classes) -> Source:
    """Opens the images of all sub-folders, each of them a class."""
    if (root / "manifest.csv").exists():
        raise ConfigError(
            f"data.class_folders: {root} has a manifest.csv, which gives the classes too; remove "
            f"it or --config.data.class_folders"
        )
    # Those that programs make, such as .ipynb_checkpoints, are no classes.
    inside = [path for path in root.iterdir() if not is_left_behind(path.name)]
    folders = sorted(path.name for path in inside if path.is_dir())
    beside = sorted(path.name for path in inside if not path.is_dir())
    if wrong := [n for n in beside if pathlib.PurePath(n).suffix.lower() in readable_suffixes()]:
        raise ConfigError(
            f"data.class_folders: {root} has images beside its sub-folders, such as "
            f"{wrong[0]!r}; expected each image in the sub-folder of its class"
        )
    listings = [list_images(root / folder) for folder in folders]
    files = [
        f"{f}/{n}" for f, listing in zip(folders, listings, strict=True) for n in listing.images
    ]
    not_read = sum((listing.not_read for listing in listings), collections.Counter())
    if beside:
        not_read["beside the class folders"] += len(beside)
    _logger.info(
        "%d images in %d class folders; %s", len(files), len(folders), describe_not_read(not_read)
    )
    labels: list[int] = []
    if files:
        numbers = classes.number(folders, "data.class_folders")
        labels = np.repeat(numbers, [len(listing.images) for listing in listings]).tolist()
    return _make_source(root, files, labels)


def _open_table(table: pathlib.Path, split: str, classes: Classes) -> Source:
    """Opens the images that a table lists, in its order."""
    rows = read_manifest(table)
    listing = list_images(table.parent)
    there = set(listing.images)
    root = str(table.parent.resolve())
    file_of = {row.file: _locate(row.file, root, there) for row in rows}
    if split:
        rows = _take_split(rows, split, table)
    files = [file_of[row.file] for row in rows]
    _check_there(table, files, there)
    listing.not_read[".csv"] -= 1
    listing.not_read[f"not listed in {table.name}"] = len(there - set(file_of.values()))
    labels = _read_labels(rows, classes)
    _logger.info(
        "%d images listed in %s, %d of them with a label; %s",
        len(rows),
        table.name,
        sum(label != UNKNOWN_LABEL for label in labels),
        describe_not_read(listing.not_read),
    )
    ids = _name_rows(rows, files, labels)
    return _make_source(table.parent, files, labels, ids, [row.boxes for row in rows])


def _take_split(rows: Sequence[Row], split: str, table: pathlib.Path) -> list[Row]:
    if rows and rows[0].split is None:
        raise ConfigError(f"{table}: data.split={split} asks for a column `split`; it has none")
    taken = [row for row in rows if row.split == split]
    if not taken:
        known = ", ".join(sorted({str(row.split) for row in rows})) or "none"
        raise ConfigError(f"{table}: holds no image of split {split!r}; its splits are {known}")
    return taken


def _locate(name: str, root: str, there: set[str]) -> str:
    """Returns the path inside the folder of a file as a table lists it, such as `./a.png`."""
    path = posixpath.normpath(name)
    if path.startswith(root + os.sep):
        path = os.path.relpath(path, root)
    if "\\" in path and path not in there:
        # Tables from Windows have `sub\\a.png`.
        windows = posixpath.normpath(path.replace("\\", "/"))
        return windows if windows in there else path
    return path


def _check_there(table: pathlib.Path, files: Sequence[str], there: set[str]) -> None:
    """Counts the files that are not there; without any there is nothing to explain."""
    root = str(table.parent)
    gone = [n for n in files if n not in there and not os.path.lexists(os.path.join(root, n))]
    if gone and len(gone) == len(files):
        raise ConfigError(
            f"{table}: 0 of {len(files)} readable: no file is there, such as "
            f"{str(table.parent / gone[0])!r}; paths in the table begin in its folder"
        )
    if gone:
        _logger.warning(
            "%s: %d of %d files are not there, such as %r", table, len(gone), len(files), gone[0]
        )


def _read_labels(rows: Sequence[Row], classes: Classes) -> list[int | str]:
    """Returns the class of each row, or what is wrong with it where no classifier says."""
    found: dict[str, int | str] = {}
    for row in rows:
        if row.label not in found:
            found[row.label] = _read_label(row, classes)
    texts = {text: n for text, n in found.items() if not re.fullmatch("[-0-9.]*", text)}
    named = {text: n for text, n in texts.items() if isinstance(n, int)}
    if named:
        _logger.info("labels: %s", classes.describe(named))
    return [found[row.label] for row in rows]


def _read_label(row: Row, classes: Classes) -> int | str:
    # Where some are missing, pandas writes whole numbers as 3.0.
    text = re.sub(r"^(-?[0-9]+)\.0+$", r"\1", row.label)
    if text in ("", str(UNKNOWN_LABEL)):
        return UNKNOWN_LABEL
    if re.fullmatch("-[0-9]+", text):
        raise ConfigError(f"{row.place}: label {text}; expected a class, or -1 where none is known")
    try:
        number = classes.find(text)
    except ValueError as error:
        raise ConfigError(f"{row.place}: label {error}") from error
    if number is not None:
        return number
    problem = f"{row.place}: label {classes.explain_unknown(text)}"
    if classes.are_known:
        raise ConfigError(problem)
    return problem


def _name_rows(rows: Sequence[Row], files: Sequence[str], labels: Sequence[int | str]) -> list[str]:
    """Returns an id for each row: its file, and its label where the file has several."""
    labels_of: dict[str, set[int | str]] = {}
    for row, file, label in zip(rows, files, labels, strict=True):
        known = labels_of.setdefault(file, set())
        if label in known:
            raise ConfigError(
                f"{row.place}: {row.file} is listed twice with the same label; expected one row, "
                "with all its boxes, or data.split to choose rows"
            )
        known.add(label)
    return [
        f"{row.file}#label={row.label}" if row.label and len(labels_of[file]) > 1 else row.file
        for row, file in zip(rows, files, strict=True)
    ]
