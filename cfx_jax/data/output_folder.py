"""Checks that no results are written into the folder of the images."""

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from cfx_jax.config import ConfigError, DataConfig
from cfx_jax.data.listing import is_run, list_images
from cfx_jax.records import Storage


def check_output_folder(
    config: DataConfig,
    output: str | os.PathLike[str],
    option: str = "workdir",
    *,
    is_of_run: bool = False,
) -> None:
    """Checks that results are not written into the folder of the images, nor into a parent of it.

    The next command would read pictures of results as images, and deleting a folder of results
    would delete the images in it. Two cases are allowed, because the pictures in them are never
    read: the folder of a run inside the folder of the images, which every listing skips; and, if
    the config names its images individually, any folder that contains none of them.

    Args:
        config: the `data` section.
        output: folder to write to; an address in a bucket is always accepted.
        option: option that gives the folder, for the message.
        is_of_run: whether `output` is the folder of a run, which listings skip.

    Raises:
        ConfigError: the folder is, contains or is inside the folder of the images; symbolic links
            are followed.
    """
    location = Storage(output).root
    if config.source != "folder" or not os.path.exists(config.path) or location is None:
        return
    written, read = (pathlib.Path(os.path.realpath(path)) for path in (location, config.path))
    pictures = [read / file for file in config.files] if read.is_dir() else [read]
    if pictures:
        folders = {pathlib.Path(os.path.realpath(picture)).parent for picture in pictures}
        problem = any(folder.is_relative_to(written) for folder in folders) and "contains images"
    elif read.is_relative_to(written):
        problem = f"{'is' if read == written else 'contains'} the folder of the images"
    else:
        problem = written.is_relative_to(read) and _find_problem(config, read, written, is_of_run)
    if problem:
        raise ConfigError(
            f"{option} {os.fspath(output)} {problem} ({config.path}), and results would be mixed "
            "with images; expected a folder of its own"
        )


def check_output_folder_of_run(
    manifest: Mapping[str, Any], output: str | os.PathLike[str], option: str
) -> None:
    """Checks, like `check_output_folder`, that results are not mixed with the images of a run.

    Args:
        manifest: manifest of the run.
        output: folder to write to, as in `check_output_folder`.
        option: option that gives the folder, as in `check_output_folder`.

    Raises:
        ConfigError: as in `check_output_folder`.
    """
    stored = manifest.get("config", {}).get("data", {})
    known = {field.name for field in dataclasses.fields(DataConfig)}
    section = {name: value for name, value in stored.items() if name in known}
    check_output_folder(DataConfig(**section), output, option)


def _find_problem(
    config: DataConfig, read: pathlib.Path, written: pathlib.Path, is_of_run: bool
) -> str:
    """Returns the reason why a folder inside the folder of the images would be read, or ""."""
    above = [path for path in written.parents if path.is_relative_to(read) and path != read]
    if is_run(written) or any(map(is_run, above)):
        return ""
    # With class folders, listings skip only runs that are directly in the folder.
    if not is_of_run or (config.class_folders and above):
        return "lies inside the folder of the images"
    # Listings would skip these images once this is the folder of a run.
    return "contains images" if written.is_dir() and list_images(written).images else ""
