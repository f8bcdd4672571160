"""Example sources: bundled photographs, an image folder, arrays in an .npz file, TFDS.

Example ids are text, unique, and belong to the data (a file name, a record of a TFDS split), never
to a place in a batch or a run.
"""

import csv
import dataclasses
import os
import pathlib
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from cfx_jax.config import ConfigError, DataConfig
from cfx_jax.data import images
from cfx_jax.data.source import UNKNOWN_LABEL, Source, no_boxes

_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
_BUNDLED = {"chelsea.png": 285, "coffee.png": 967, "rocket.jpg": 657}
# The arrays of an .npz file: ours, and as MNIST calls them.
_NPZ_NAMES = (("images", "x"), ("labels", "y"), ("ids",))


def open_source(config: DataConfig) -> Source:
    """Opens the examples a config names.

    Args:
        config: the `data` section.

    Returns:
        A `Source` with at least one example.

    Raises:
        ConfigError: the data are not there; the message says what is missing and how to get it.
    """
    source = _OPENERS[config.source](config)
    if config.max_examples is not None:
        source = dataclasses.replace(source, ids=source.ids[: config.max_examples])
    if not len(source):
        raise ConfigError(
            f"data: {source.name!r} holds no image; a folder needs files that end in "
            f"{', '.join(sorted(_SUFFIXES))} or a manifest.csv that lists some"
        )
    return source


def _bundled(config: DataConfig) -> Source:
    from skimage.data import data_dir

    paths = [pathlib.Path(data_dir) / name for name in _BUNDLED]
    return Source(
        name="scikit-image photographs",
        ids=[path.stem for path in paths],
        label=list(_BUNDLED.values()).__getitem__,
        boxes=no_boxes,
        open_image=lambda index: images.open_file(paths[index]),
    )


def _folder(config: DataConfig) -> Source:
    root = pathlib.Path(config.path)
    if not config.path or not root.is_dir():
        raise ConfigError(
            f"data.path: no image folder at {config.path!r}; give one with --config.data.path=DIR"
        )
    manifest = root / "manifest.csv"
    boxes: Sequence[np.ndarray] = ()
    if config.class_folders:
        names, labels = _list_class_folders(root)
    elif manifest.is_file():
        names, labels, boxes = _read_manifest(manifest, config.split)
    else:
        names = _list_images(root)
        labels = [UNKNOWN_LABEL] * len(names)
    return Source(
        name=root.resolve().name,
        # File names may be any bytes, ids are text: a byte that is none becomes `\\xNN`.
        ids=[os.fsencode(name).decode(errors="backslashreplace") for name in names],
        label=labels.__getitem__,
        boxes=boxes.__getitem__ if boxes else no_boxes,
        open_image=lambda index: images.open_file(root / names[index]),
    )


def _list_images(root: pathlib.Path) -> list[str]:
    found: list[pathlib.PurePath] = []
    # Tells files from folders without asking the disk for each, as `rglob` would have to.
    for folder, _, names in os.walk(root):
        inside = pathlib.PurePath(folder).relative_to(root)
        found += [inside / name for name in names if _is_image(pathlib.PurePath(name))]
    return [path.as_posix() for path in sorted(found)]


def _is_image(path: pathlib.PurePath) -> bool:
    return path.suffix.lower() in _SUFFIXES


def _list_class_folders(root: pathlib.Path) -> tuple[list[str], list[int]]:
    """Lists the images of all sub-folders; the class of one is the number of its sub-folder."""
    if (root / "manifest.csv").exists():
        raise ConfigError(
            f"data.class_folders: {root} has a manifest.csv, which gives the classes too; remove "
            f"it or --config.data.class_folders"
        )
    beside = [path.name for path in root.iterdir() if _is_image(path) and not path.is_dir()]
    if beside:
        raise ConfigError(
            f"data.class_folders: {root} has images beside its sub-folders, such as "
            f"{min(beside)!r}; expected each image in the sub-folder of its class"
        )
    # Hidden ones are made by programs, such as .ipynb_checkpoints, and would shift the numbers.
    folders = sorted(p.name for p in root.iterdir() if p.is_dir() and p.name[0] != ".")
    lists = [[f"{folder}/{name}" for name in _list_images(root / folder)] for folder in folders]
    labels = [label for label, names in enumerate(lists) for _ in names]
    return [name for names in lists for name in names], labels


def _read_manifest(path: pathlib.Path, split: str) -> tuple[list[str], list[int], list[np.ndarray]]:
    """Reads the columns `file`, `label`, `boxes` and `split`, where present, of a manifest.csv."""
    try:
        # Spreadsheets begin UTF-8 files with a byte order mark.
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
        if split:
            rows = [row for row in rows if row["split"] == split]
        names = [row["file"] for row in rows]
        labels = [int(row.get("label") or UNKNOWN_LABEL) for row in rows]
        if not all(names) or min(labels, default=0) < UNKNOWN_LABEL:
            raise ValueError("a row has no file or a label below -1")
        boxes = [_parse_boxes(row.get("boxes") or "") for row in rows]
    except (KeyError, ValueError, csv.Error) as error:
        raise ConfigError(
            f"{path}: expected a column `file`, if labels are known a column `label` of whole "
            f"numbers, if boxes are known a column `boxes` such as `4 0 96 64.5; 8 8 20 20` "
            f"(x0 y0 x1 y1 in pixels), and a column `split` if one is asked for "
            f"({type(error).__name__}: {error})"
        ) from error
    if len(set(names)) != len(names):
        raise ConfigError(f"{path}: a file is listed twice, but each example needs its own id")
    return names, labels, boxes


def _parse_boxes(text: str) -> np.ndarray:
    boxes = [[float(number) for number in box.split()] for box in text.split(";") if box.strip()]
    for box in boxes:
        if len(box) != 4 or not np.isfinite(box).all() or box[0] > box[2] or box[1] > box[3]:
            raise ValueError(f"boxes {text!r} are not of four numbers with x0 <= x1 and y0 <= y1")
    return np.array(boxes, np.float32).reshape(-1, 4)


def _npz(config: DataConfig) -> Source:
    pixels, labels, ids = _read_npz(config)
    if pixels.shape[3:] == (1,):
        pixels = pixels[..., 0]
    is_image = pixels.ndim == 3 or (pixels.ndim == 4 and pixels.shape[3] == 3)
    if pixels.dtype != np.uint8 or not is_image or 0 in pixels.shape[1:]:
        expected = "uint8 [N, H, W], [N, H, W, 1] or [N, H, W, 3]"
        raise _unexpected(config, "images", expected, pixels)
    num_images = len(pixels)
    if labels is None:
        labels = np.full(num_images, UNKNOWN_LABEL)
    if ids is None:
        width = len(str(num_images))
        ids = np.array([str(index).zfill(width) for index in range(num_images)], str)
    is_integer = labels.dtype.kind in "iu" and labels.shape == (num_images,)
    if not is_integer or labels.min(initial=0) < UNKNOWN_LABEL:
        raise _unexpected(config, "labels", f"integers of at least -1, [{num_images}]", labels)
    is_text = ids.dtype.kind == "U" and ids.shape == (num_images,)
    if not is_text or len(set(ids.tolist())) != num_images:
        raise _unexpected(config, "ids", f"text, [{num_images}], each its own", ids)
    return Source(
        name=pathlib.Path(config.path).stem + (f"/{config.split}" if config.split else ""),
        ids=ids.tolist(),
        label=lambda index: int(labels[index]),
        boxes=no_boxes,
        open_image=lambda index: Image.fromarray(pixels[index]),
    )


def _read_npz(config: DataConfig) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Returns images and, where present, labels and ids, as they are."""
    ending = f"_{config.split}" if config.split else ""
    try:
        # A pickle could execute code. NumPy does not close the files that it fails to read.
        with open(config.path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            known = list(archive)
            pixels, labels, ids = (
                next((archive[name + ending] for name in names if name + ending in known), None)
                for names in _NPZ_NAMES
            )
    except Exception as error:  # A damaged archive raises any type.
        raise ConfigError(
            f"data.path: {config.path!r} cannot be read as an .npz file "
            f"({images.first_line(error)}); give one with --config.data.path=FILE"
        ) from error
    if pixels is None:
        raise ConfigError(
            f"{config.path}: expected an array `images{ending}` or `x{ending}`; it has "
            f"{', '.join(known) or 'none'}. data.split=train stands for x_train and y_train"
        )
    return pixels, labels, ids


def _unexpected(config: DataConfig, what: str, expected: str, array: np.ndarray) -> ConfigError:
    return ConfigError(
        f"{config.path}: {what}: expected {expected}; got {array.dtype} {list(array.shape)}"
    )


def _tfds(config: DataConfig) -> Source:
    # Where it is asked for: what it needs takes seconds to import.
    from cfx_jax.data.tfds import open_tfds

    return open_tfds(config)


_OPENERS: dict[str, Callable[[DataConfig], Source]] = {
    "bundled": _bundled,
    "folder": _folder,
    "npz": _npz,
    "tfds": _tfds,
}
