"""The pixels that a region may contain: one picture for all images, or one per image."""

import dataclasses
import pathlib
import unicodedata
from collections.abc import Callable

from cfx_jax.config import ConfigError
from cfx_jax.data import images
from cfx_jax.data.digests import UNREADABLE, digest, digest_file
from cfx_jax.data.listing import list_images, readable_suffixes
from cfx_jax.data.source import Source


def add_allowed(source: Source, location: str) -> Source:
    """Returns a source whose examples come with the pixels that their regions may contain.

    Args:
        source: the examples.
        location: path of a picture, or of a folder with one picture per id; suffixes may differ.

    Raises:
        ConfigError: the path does not exist, or the folder has no picture for an image.
    """
    path = pathlib.Path(location)
    if not path.exists():
        raise ConfigError(f"data.allowed: no picture or folder at {location!r}")
    readable_suffixes()  # Registers the image formats of other packages with Pillow.
    find = _find_files(source, path) if path.is_dir() else lambda index: path

    def digest_both(index: int) -> int:
        parts = source.digest(index), digest_file(find(index))
        return UNREADABLE if UNREADABLE in parts else digest(f"{parts}".encode())

    return dataclasses.replace(
        source, open_allowed=lambda index: images.open_file(find(index)), digest=digest_both
    )


def _find_files(source: Source, folder: pathlib.Path) -> Callable[[int], pathlib.Path]:
    """Returns a function from an index to the file in the folder that is named like its id."""
    files: dict[str, str] = {}
    for file in list_images(folder).images:
        if (other := files.setdefault(_stem(file), file)) != file:
            raise ConfigError(
                f"data.allowed: {folder} has both {_escaped(other)} and {_escaped(file)}; expected "
                "one picture for each image"
            )
    stems = [_stem(name.partition("#label=")[0]) for name in source.ids]
    missing = [stem for stem in stems if stem not in files]
    if missing:
        raise ConfigError(
            f"data.allowed: {folder} has no picture for {len(missing)} of {len(stems)} images; "
            f"expected, for example, {missing[0]}.png"
        )
    return lambda index: folder / files[stems[index]]


def _escaped(name: str) -> str:
    # Two Unicode forms of a name look the same.
    return ascii(name)[1:-1]


def _stem(name: str) -> str:
    # The forms of letters in names differ between systems, see `match_forms`.
    name = unicodedata.normalize("NFC", name)
    path = pathlib.PurePosixPath(name)
    is_file = path.suffix.lower() in readable_suffixes()
    return path.with_suffix("").as_posix() if is_file else name
