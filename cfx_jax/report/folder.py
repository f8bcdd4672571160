"""The folder of a gallery: replaces an earlier gallery, but no files of other programs."""

import os
import re
from collections.abc import Callable

from cfx_jax.records import Storage

PAGE = "index.html"
_MARK = "data/cfx_jax.txt"
_SAYS = b"A gallery of cfx_jax: python -m cfx_jax.report writes its files anew.\n"
# Every index.html that this program writes contains this tag.
_OURS = b'<meta name="generator" content="cfx_jax">'
_PARTS = re.compile(r"data/\d+/(rows|details)-\d+\.js|images/\d+/\d+/\d+\.webp")


class GalleryFolder(Storage):
    """The folder of a gallery, which distinguishes its own files from others.

    Example:
        >>> import tempfile
        >>> place = tempfile.mkdtemp()
        >>> folder = GalleryFolder(place, ())
        >>> folder.begin(), folder.write("data/0/rows-0.js", b"")
        (None, None)
        >>> GalleryFolder(place, ()).clear()  # Removes only files of earlier galleries.
        >>> folder.names("data/")
        ['data/cfx_jax.txt']
    """

    def __init__(
        self,
        location: str | os.PathLike[str],
        taken: tuple[str, ...],
        check: Callable[[], None] | None = None,
    ) -> None:
        """Inspects a folder; nothing is written yet.

        Args:
            location: location of the folder.
            taken: names of the files next to index.html.
            check: function called before each file is drawn and written; an exception in it ends
                the writing.

        Raises:
            FileExistsError: there are files with these names that do not belong to a gallery.
            ValueError: the location is empty, or of an unknown kind.
        """
        if not os.fspath(location):
            raise ValueError("the place of the gallery is empty; expected a folder")
        super().__init__(location)
        self.check = check or (lambda: None)
        page = self.read(PAGE)
        # A gallery that was never finished has no index.html yet.
        is_ours = self.read(_MARK) is not None if page is None else _OURS in page
        if not is_ours:
            self._refuse_to_take((PAGE, *taken))
        # Only files that exist now, so that another gallery written meanwhile keeps its files.
        self._earlier = {*self.names("data/"), *self.names("images/")} if is_ours else set()
        self._earlier = {name for name in self._earlier if _PARTS.fullmatch(name)}

    def _refuse_to_take(self, names: tuple[str, ...]) -> None:
        for name in names:
            if self.read(name) is not None:
                raise FileExistsError(
                    f"{self.place(name)} is not of a gallery of cfx_jax; expected a folder that is "
                    "new or empty, or that of a gallery, which is written anew"
                )

    @property
    def num_pictured(self) -> int:
        """Number of examples with pictures in the existing gallery, the minimum over its runs."""
        found = re.findall(rb'"pictured": ?(\d+)', self.read(PAGE) or b"")
        return min(map(int, found), default=0)

    def begin(self) -> None:
        """Marks the folder as a gallery of this program."""
        self.write(_MARK, _SAYS)

    def write(self, name: str, data: bytes) -> None:
        """Writes a file of this gallery, unless `check` raises."""
        self.check()
        super().write(name, data)
        self._earlier.discard(name)

    def clear(self) -> None:
        """Removes files of an earlier gallery that this gallery has not written."""
        for name in sorted(self._earlier):
            self.remove(name)
        self._earlier.clear()
