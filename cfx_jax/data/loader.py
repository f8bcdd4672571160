"""The examples of a run, decoded by threads ahead of the devices, unit by unit."""

import collections
import concurrent.futures
import dataclasses
import zlib
from collections.abc import Iterable, Iterator

import numpy as np

from cfx_jax.data.images import Resize, UnreadableImageError
from cfx_jax.data.source import Source

# While a unit is explained, the next unit waits, and the unit after it is decoded.
_UNITS_AHEAD = 2
# Label, digest, the image or the reason why it is unreadable, and the allowed pixels.
_Loaded = tuple[int, int, np.ndarray | str, np.ndarray | None]


@dataclasses.dataclass(frozen=True)
class Examples:
    """The n examples of a unit of work, m of them readable.

    Attributes:
        unit: index of the unit.
        ids: ids of all n examples.
        labels: class of each example, int32 `[n]`; `UNKNOWN_LABEL` if it is unknown.
        targets: classes to explain, int32 `[n]`; values below 0 are ranks, see `Source.target`.
        digests: digests of the content, uint64 `[n]`, see `Source.digest`.
        pixels: images of the readable examples, uint8 `[m, H, W, C]`.
        readable: rows of the readable examples, int `[m]`.
        problems: one message for each unreadable example.
        allowed: pixels that the regions may contain, bool `[m, H, W]`; None = all.
    """

    unit: int
    ids: list[str]
    labels: np.ndarray
    targets: np.ndarray
    digests: np.ndarray
    pixels: np.ndarray
    readable: np.ndarray
    problems: list[str]
    allowed: np.ndarray | None = None

    @property
    def identities(self) -> np.ndarray:
        """Checksums of the ids of the readable examples, uint32 `[m]`, independent of position."""
        checksums = [zlib.crc32(self.ids[row].encode()) for row in self.readable]
        return np.asarray(checksums, np.uint32)


def load_units(
    source: Source,
    units: Iterable[tuple[int, range]],
    shape: tuple[int, int, int],
    resize: str | Resize,
) -> Iterator[Examples]:
    """Decodes units in order, ahead of the unit that the caller processes.

    Pillow releases the interpreter lock while it decodes and resizes, so threads keep all cores
    busy.

    Args:
        source: the examples.
        units: pairs of the index of a unit and the range of its examples.
        shape: shape of the images, `(H, W, C)`, C = 3 for RGB or 1 for grey.
        resize: resizing rule, as in `Source.load`.

    Yields:
        `Examples` of each unit.
    """
    with concurrent.futures.ThreadPoolExecutor(thread_name_prefix="decode") as pool:
        ahead: collections.deque[tuple[int, range, list[concurrent.futures.Future[_Loaded]]]]
        ahead = collections.deque()
        try:
            for unit, indices in units:
                futures = [pool.submit(_load, source, i, shape, resize) for i in indices]
                ahead.append((unit, indices, futures))
                if len(ahead) > _UNITS_AHEAD:
                    yield _gather(source, shape, *ahead.popleft())
            while ahead:
                yield _gather(source, shape, *ahead.popleft())
        finally:
            pool.shutdown(cancel_futures=True)


def _load(source: Source, index: int, shape: tuple[int, int, int], resize: str | Resize) -> _Loaded:
    label, digest = source.label(index), source.digest(index)
    try:
        allowed = None
        if source.open_allowed is not None:
            allowed = source.allowed(index, shape[:2], resize)
        return label, digest, source.pixels(index, shape, resize), allowed
    except UnreadableImageError as error:
        return label, digest, str(error), None


def _gather(
    source: Source,
    shape: tuple[int, int, int],
    unit: int,
    indices: range,
    futures: list[concurrent.futures.Future[_Loaded]],
) -> Examples:
    target = source.target or source.label
    labels, digests, contents, allowed = zip(*(future.result() for future in futures), strict=True)
    readable = [row for row, image in enumerate(contents) if not isinstance(image, str)]
    return Examples(
        unit=unit,
        ids=[source.ids[index] for index in indices],
        labels=np.asarray(labels, np.int32),
        targets=np.asarray([target(index) for index in indices], np.int32),
        digests=np.asarray(digests, np.uint64),
        pixels=np.stack([np.zeros(shape, np.uint8), *(contents[row] for row in readable)])[1:],
        readable=np.asarray(readable, int),
        problems=[problem for problem in contents if isinstance(problem, str)],
        allowed=_stack_allowed(source, shape, [allowed[row] for row in readable]),
    )


def _stack_allowed(
    source: Source, shape: tuple[int, int, int], rows: list[np.ndarray]
) -> np.ndarray | None:
    if source.open_allowed is None:
        return None
    return np.stack([np.zeros(shape[:2], bool), *rows])[1:]
