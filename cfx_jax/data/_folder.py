"""Image files: a folder with a table, with class sub-folders or without labels, or one file."""

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
from cfx_jax.data._manifest import Row, read_manifest
from cfx_jax.data.digests import digest_file
from cfx_jax.data.labels import Classes
from cfx_jax.data.listing import (
    TABLES,
    describe_not_read,
    is_left_behind,
    is_run,
    list_images,
    match_forms,
    readable_suffixes,
)
from cfx_jax.data.source import UNKNOWN_LABEL, Source, no_boxes

_logger = logging.getLogger(__name__)
_TABULAR = {".csv", ".tsv", ".jsonl", ".xlsx", ".parquet"}
# Names of other files that are probably tables; `manifest.json` belongs to a run.
_LABELS = re.compile(
    r"(labels?|annotations?|metadata)\b.*\.(txt|json)|manifest\.txt", re.IGNORECASE
)
# Common spellings of an unknown label; each of them could also be the name of a class.
_UNKNOWN = {"nan", "na", "n/a", "<na>", "#n/a", "nat", "none", "null", "nil", "unknown", "?", "-"}


def open_folder(config: DataConfig, classes: Classes) -> Source:
    """Opens a folder of images, or a single image, and logs the files that are read and ignored.

    Args:
        config: the `data` section; `path`, `split` and `class_folders` are read.
        classes: classes that text labels refer to. Without a classifier, a text label is an
            error, raised when it is read.

    Returns:
        A `Source`; its ids are the paths of the files inside the folder.

    Raises:
        ConfigError: the folder does not exist, or its table or class folders cannot be used.
    """
    root = find_folder(config)
    table = _find_table(root)
    if config.split and (config.class_folders or table is None):
        raise ConfigError(
            f"data.split={config.split} is for a manifest.csv with a column `split`; for the "
            f"images of a sub-folder: --config.data.path={root / config.split}"
        )
    if root.is_file():
        return _open_single(root)
    if config.files:
        return _open_files(root, config.files)
    if config.class_folders:
        if table is not None:
            raise ConfigError(
                f"data.class_folders: {root} has a {table.name}, which gives the classes too; "
                "remove it or --config.data.class_folders"
            )
        return _open_class_folders(root, classes)
    if table is not None:
        return _open_table(table, config.split, classes)
    others = sorted(path.name for path in root.iterdir() if _may_be_table(path))
    if others:
        _logger.warning(
            "%s: labels are read from a table named %s, not from %s",
            root,
            " or ".join(TABLES),
            ", ".join(others[:3]),
        )
    listing = list_images(root)
    _warn_of_tables(root, listing.tables)
    _logger.info("%d images; %s", len(listing.images), describe_not_read(listing.not_read))
    return _make_source(root, listing.images, [UNKNOWN_LABEL] * len(listing.images))


def find_folder(config: DataConfig) -> pathlib.Path:
    """Returns the path of the data, a folder or a file.

    Raises:
        ConfigError: the path does not exist.
    """
    if not config.path or not os.path.exists(config.path):
        raise ConfigError(
            f"data.path: no image folder at {config.path!r}; give one with --config.data.path=DIR"
        )
    return pathlib.Path(config.path)


def _find_table(root: pathlib.Path) -> pathlib.Path | None:
    found = [root / name for name in TABLES if (root / name).exists()]
    if len(found) > 1:
        raise ConfigError(
            f"{root}: both {found[0].name} and {found[1].name} are tables; remove one of them"
        )
    if found and not found[0].is_file():
        raise ConfigError(f"{found[0]}: is a folder; expected a table; rename the folder")
    return found[0] if found else None


def _may_be_table(path: pathlib.Path) -> bool:
    return path.suffix.lower() in _TABULAR or _LABELS.fullmatch(path.name) is not None


def _warn_of_tables(root: pathlib.Path, tables: Sequence[str]) -> None:
    """Warns that the tables of sub-folders are not read."""
    if tables:
        more = f" and {len(tables) - 1} more" if len(tables) > 1 else ""
        _logger.warning(
            "%s: tables of sub-folders are not read: %s%s; to read one, open its folder: "
            "--config.data.path=%s",
            root, tables[0], more, (root / tables[0]).parent,
        )  # fmt: skip


def _make_source(
    root: pathlib.Path,
    files: Sequence[str],
    labels: Sequence[int | str],
    ids: Sequence[str] | None = None,
    boxes: Sequence[np.ndarray] = (),
) -> Source:
    """Returns the source of files; a text in `labels` is the error to raise for that label."""

    def label(index: int) -> int:
        found = labels[index]
        if isinstance(found, str):
            raise ConfigError(found)
        return found

    return Source(
        name=root.resolve().name,
        # File names may be any bytes, but ids are text: a byte that is not UTF-8 becomes `\\xNN`.
        ids=[os.fsencode(name).decode(errors="backslashreplace") for name in ids or files],
        label=label,
        boxes=boxes.__getitem__ if boxes else no_boxes,
        open_image=lambda index: images.open_file(root / files[index]),
        digest=lambda index: digest_file(root / files[index]),
    )


def _open_single(path: pathlib.Path) -> Source:
    try:
        readable_suffixes()  # Registers the image formats of other packages with Pillow.
        with images.reading(path.name):
            images.open_file(path).close()
    except images.UnreadableImageError as error:
        hint = "; for arrays: --config.data.source=npz" if path.suffix == ".npz" else ""
        raise ConfigError(
            f"data.path: 0 of 1 readable; expected an image or a folder of images: {error}{hint}"
        ) from error
    _logger.info("1 image, %s", path)
    return _make_source(path.parent, [path.name], [UNKNOWN_LABEL])


def _open_files(root: pathlib.Path, files: Sequence[str]) -> Source:
    readable_suffixes()  # Registers the image formats of other packages with Pillow.
    missing = [name for name in files if not (root / name).is_file()]
    if missing:
        forms = match_forms(missing, list_images(root).images, "data.files")
        files = [forms.get(name, name) for name in files]
        missing = [name for name in missing if name not in forms]
    if missing:
        raise ConfigError(
            f"data.files: {root / missing[0]} is not a file ({len(missing)} of {len(files)} are "
            "missing); expected paths of images inside data.path"
        )
    if len({*files}) < len(files):
        raise ConfigError(f"data.files names one of its {len(files)} files more than once")
    _check_one_readable(root, files)
    _logger.info("%d images of %s", len(files), root)
    return _make_source(root, files, [UNKNOWN_LABEL] * len(files))


def _check_one_readable(root: pathlib.Path, files: Sequence[str]) -> None:
    """Raises `ConfigError` if all files are unreadable, before anything is compiled."""
    first_error = None
    for name in files:
        try:
            with images.reading(name):
                images.open_file(root / name).close()
        except images.UnreadableImageError as error:
            first_error = first_error or error
        else:
            return
    raise ConfigError(f"0 of {len(files)} readable; expected images: {first_error}")


def _open_class_folders(root: pathlib.Path, classes: Classes) -> Source:
    """Opens the images of all sub-folders, each of them a class."""
    # Runs, and folders that programs leave behind, such as .ipynb_checkpoints, are not classes.
    inside = [path for path in root.iterdir() if not is_left_behind(path.name)]
    runs = [path for path in inside if is_run(path)]
    folders = sorted(path.name for path in inside if path.is_dir() and path not in runs)
    loose = sorted(path.name for path in inside if not path.is_dir())
    if wrong := [n for n in loose if pathlib.PurePath(n).suffix.lower() in readable_suffixes()]:
        raise ConfigError(
            f"data.class_folders: {root} has images outside of its sub-folders, such as "
            f"{wrong[0]!r}; expected each image in the sub-folder of its class"
        )
    listings = [list_images(root / folder) for folder in folders]
    files = [
        f"{f}/{n}" for f, listing in zip(folders, listings, strict=True) for n in listing.images
    ]
    not_read = sum((listing.not_read for listing in listings), collections.Counter())
    if loose:
        not_read["outside of the class folders"] += len(loose)
    not_read["folder of a run"] += len(runs)
    _logger.info(
        "%d images in %d class folders; %s", len(files), len(folders), describe_not_read(not_read)
    )
    inner = zip(folders, listings, strict=True)
    _warn_of_tables(root, [f"{f}/{name}" for f, listing in inner for name in listing.tables])
    labels: list[int] = []
    if files:
        numbers = classes.number(folders, "data.class_folders")
        labels = np.repeat(numbers, [len(listing.images) for listing in listings]).tolist()
    return _make_source(root, files, labels)


def _open_table(table: pathlib.Path, split: str, classes: Classes) -> Source:
    """Opens the images that a table lists, in its order."""
    rows = read_manifest(table)
    if not rows:
        raise ConfigError(f"{table}: contains no image: it has no row below its header")
    listing = list_images(table.parent)
    there = set(listing.images)
    roots = {str(table.parent.resolve()), os.path.abspath(table.parent)}
    file_of = {row.file: _locate(row.file, roots, there) for row in rows}
    forms = match_forms(file_of.values(), there, str(table))
    file_of = {name: forms.get(file, file) for name, file in file_of.items()}
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
    if rows[0].split is None:
        raise ConfigError(f"{table}: data.split={split} needs a column `split`; it has none")
    taken = [row for row in rows if row.split == split]
    if not taken:
        known = ", ".join(sorted({str(row.split) for row in rows}))
        raise ConfigError(f"{table}: contains no image of split {split!r}; its splits are {known}")
    return taken


def _locate(name: str, roots: set[str], there: set[str]) -> str:
    """Returns the path, relative to the folder, of a file that a table lists, such as `./a.png`."""
    path = posixpath.normpath(name)
    for root in roots:
        if path.startswith(root + os.sep):
            path = os.path.relpath(path, root)
    if "\\" in path and path not in there:
        # Tables from Windows have `sub\\a.png`.
        windows = posixpath.normpath(path.replace("\\", "/"))
        return windows if windows in there else path
    return path


def _check_there(table: pathlib.Path, files: Sequence[str], there: set[str]) -> None:
    """Warns of listed files that do not exist; raises `ConfigError` if none of them exists."""
    root = str(table.parent)
    gone = [n for n in files if n not in there and not os.path.lexists(os.path.join(root, n))]
    if gone and len(gone) == len(files):
        raise ConfigError(
            f"{table}: 0 of {len(files)} readable: no file exists, such as "
            f"{str(table.parent / gone[0])!r}; paths in the table are relative to its folder"
        )
    if gone:
        _logger.warning(
            "%s: %d of %d files do not exist, such as %r", table, len(gone), len(files), gone[0]
        )


def _read_labels(rows: Sequence[Row], classes: Classes) -> list[int | str]:
    """Returns the class of each row, or an error message if no classifier defines it."""
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
    # If some labels are missing, pandas writes whole numbers as 3.0.
    text = re.sub(r"^(-?[0-9]+)\.0+$", r"\1", row.label)
    if text in ("", str(UNKNOWN_LABEL)):
        return UNKNOWN_LABEL
    if re.fullmatch("-[0-9]+", text):
        raise ConfigError(f"{row.place}: label {text}; expected a class, or -1 if unknown")
    try:
        number = classes.find(text)
    except ValueError as error:
        raise ConfigError(f"{row.place}: label {error}") from error
    if number is not None:
        return number
    problem = f"{row.place}: label {classes.explain_unknown(text)}"
    if text.casefold() in _UNKNOWN:
        problem += "; leave it empty if it is unknown"
    if classes.are_known:
        raise ConfigError(problem)
    return problem


def _name_rows(rows: Sequence[Row], files: Sequence[str], labels: Sequence[int | str]) -> list[str]:
    """Returns one id per row: its file, with its label if the file has several labels."""
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
        f"{file}#label={row.label}" if row.label and len(labels_of[file]) > 1 else file
        for row, file in zip(rows, files, strict=True)
    ]
