"""Lists the images of a folder, and counts the files that are not read, by reason."""

import collections
import dataclasses
import os
import pathlib
import unicodedata
from collections.abc import Collection, Iterable, Iterator

from PIL import features

from cfx_jax.config import ConfigError

# File names of tables: our own, and that of Hugging Face.
TABLES = ("manifest.csv", "metadata.csv")
_SUFFIXES = {
    ".apng", ".bmp", ".dib", ".gif", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm",
    ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp",
}  # fmt: skip
_HEIF = {".heic", ".heif"}
_LEFT_BEHIND = {"thumbs.db", "desktop.ini", "__macosx", "__pycache__", "@eadir", "lost+found",
                "$recycle.bin", "system volume information"}  # fmt: skip
_NUM_SHOWN = 5


@dataclasses.dataclass(frozen=True)
class Listing:
    """The images of a folder.

    Attributes:
        images: paths relative to the folder, sorted by name.
        not_read: number of other files by their kind.
        tables: paths, relative to the folder, of files that may be tables of images.
    """

    images: list[str]
    not_read: collections.Counter[str]
    tables: list[str]


def list_images(root: pathlib.Path) -> Listing:
    """Lists the images of a folder and of all its sub-folders.

    Links to folders are followed, but no folder is listed twice. Files that programs leave behind,
    such as `.DS_Store`, `__MACOSX` or `._a.png`, and files in the folder of a run are skipped.

    Args:
        root: the folder.
    """
    suffixes = readable_suffixes()
    found: list[pathlib.PurePath] = []
    not_read: collections.Counter[str] = collections.Counter()
    tables: list[str] = []
    for folder, names in _walk(root, not_read):
        tables += [(folder / name).as_posix() for name in TABLES if name in names]
        for name in names:
            suffix = os.path.splitext(name)[1].lower()
            if is_left_behind(name):
                not_read["left behind by a program"] += 1
            elif suffix in suffixes:
                found.append(folder / name)
            else:
                not_read[_describe(suffix)] += 1
    return Listing([path.as_posix() for path in sorted(found)], not_read, sorted(tables))


def readable_suffixes() -> set[str]:
    """Returns the suffixes of the files that the installed Pillow reads, in lower case."""
    suffixes = set(_SUFFIXES)
    if features.check("avif"):
        suffixes |= {".avif"}
    try:
        import pillow_heif
    except ImportError:
        return suffixes
    pillow_heif.register_heif_opener()
    return suffixes | _HEIF


def is_left_behind(name: str) -> bool:
    """Returns whether a file or folder was left behind by a program."""
    return name.startswith((".", "~$")) or name.lower() in _LEFT_BEHIND


def is_run(path: pathlib.Path) -> bool:
    """Returns whether a folder is the workdir of a run."""
    return (path / "manifest.json").is_file() and (path / "records.zarr").is_dir()


def match_forms(names: Iterable[str], there: Collection[str], where: str) -> dict[str, str]:
    """Finds files whose names differ from the given names only in their Unicode form.

    File systems and archives of macOS decompose letters (NFD), most other programs compose them
    (NFC). Both forms look the same, but the file is not found under the other form.

    Args:
        names: names to find.
        there: names of the files that exist.
        where: source of the names, for messages.

    Returns:
        For each name that differs from its file's name only in the form, the name of the file.

    Raises:
        ConfigError: two files have names that differ only in the form.
    """
    missing = set(names).difference(there)
    files: dict[str, set[str]] = {}
    for file in there if missing else ():
        files.setdefault(unicodedata.normalize("NFC", file), set()).add(file)
    found = {name: files.get(unicodedata.normalize("NFC", name), set()) for name in missing}
    for name, alike in found.items():
        if len(alike) > 1:
            raise ConfigError(
                f"{where}: {name!r} may be {' or '.join(map(ascii, sorted(alike)))}, which differ "
                "only in their Unicode form; rename one of them"
            )
    return {name: alike.pop() for name, alike in found.items() if alike}


def describe_not_read(not_read: collections.Counter[str]) -> str:
    """Describes the number of files that are not read, and their kinds."""
    not_read = +not_read
    most = not_read.most_common(_NUM_SHOWN)
    kinds = [f"{count} {kind}" for kind, count in most]
    if rest := not_read.total() - sum(count for _, count in most):
        kinds.append(f"{rest} of other kinds")
    return f"{not_read.total()} files not read" + (f": {', '.join(kinds)}" if kinds else "")


def _walk(
    root: pathlib.Path, not_read: collections.Counter[str]
) -> Iterator[tuple[pathlib.PurePath, list[str]]]:
    """Yields each folder, as a path relative to the root, and the names of the files in it."""

    def note(error: OSError) -> None:
        not_read[f"folder that cannot be opened ({error.strerror})"] += 1

    seen: set[tuple[int, int]] = set()
    # Links come last: a target inside the root is listed under its own name.
    waiting = collections.deque([root])
    while waiting:
        # Unlike `rglob`, `os.walk` needs no access to the disk to distinguish files from folders.
        for path, folders, names in os.walk(waiting.popleft(), onerror=note):
            status = os.stat(path)
            if (status.st_dev, status.st_ino) in seen:
                folders.clear()
                not_read["link to a folder that is read already"] += 1
                continue
            seen.add((status.st_dev, status.st_ino))
            if pathlib.Path(path) != root and is_run(pathlib.Path(path)):
                folders.clear()
                not_read["folder of a run"] += 1
                continue
            yield pathlib.PurePath(path).relative_to(root), names
            left = [name for name in folders if is_left_behind(name)]
            not_read["folder left behind by a program"] += len(left)
            rest = sorted(set(folders) - set(left))
            links = [name for name in rest if os.path.islink(os.path.join(path, name))]
            waiting.extend(pathlib.Path(path, name) for name in links)
            folders[:] = [name for name in rest if name not in links]


def _describe(suffix: str) -> str:
    if suffix in _HEIF:
        return f"{suffix} (Pillow reads it with the package pillow-heif)"
    if suffix == ".avif":
        return f"{suffix} (the installed Pillow cannot read it)"
    return suffix or "without a suffix"
