"""A folder of images: with a manifest, with a sub-folder for each class, or without labels."""

import os
import pathlib
from collections.abc import Sequence

import numpy as np

from cfx_jax.config import ConfigError, DataConfig
from cfx_jax.data import images
from cfx_jax.data.digests import digest_file
from cfx_jax.data.manifest import read_manifest
from cfx_jax.data.source import UNKNOWN_LABEL, Source, no_boxes

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}


def open_folder(config: DataConfig) -> Source:
    """Opens a folder of images.

    Args:
        config: the `data` section; `path`, `split` and `class_folders` are read.

    Returns:
        A `Source`; its ids are the paths of the files inside the folder.

    Raises:
        ConfigError: there is no such folder, or its manifest or class folders cannot be used.
    """
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
        names, labels, boxes = read_manifest(manifest, config.split)
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
        digest=lambda index: digest_file(root / names[index]),
    )


def _list_images(root: pathlib.Path) -> list[str]:
    found: list[pathlib.PurePath] = []
    # Tells files from folders without asking the disk for each, as `rglob` would have to.
    for folder, _, names in os.walk(root):
        inside = pathlib.PurePath(folder).relative_to(root)
        found += [inside / name for name in names if _is_image(pathlib.PurePath(name))]
    return [path.as_posix() for path in sorted(found)]


def _is_image(path: pathlib.PurePath) -> bool:
    return path.suffix.lower() in SUFFIXES


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
