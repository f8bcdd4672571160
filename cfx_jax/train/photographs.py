"""Keeps all photographs of a training on every device, and cuts crops there.

Each channel is one array of bytes that contains all photographs in sequence, line by line, at their
original sizes. Nothing is scaled, cut or padded to a common size, so crops equal the crops of the
host byte for byte.
"""

import concurrent.futures
import functools
import itertools
import logging
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import psutil

from cfx_jax.runs import device_memory, parallel
from cfx_jax.train.crops import Crops

_logger = logging.getLogger(__name__)
# Shares of the memory that a program may take: there are two copies while photographs are copied,
# and the training itself needs most of the memory.
_DEVICE_SHARE = 0.25
_HOST_SHARE = 0.25
_MAX_PIXELS = 2**31 - 1  # The largest int32.
_DECODED_AHEAD = 64


class MemoryCrops:
    """The same crops as in `Crops`, but cut on the devices."""

    def __init__(
        self,
        crops: Crops,
        photographs: Sequence[np.ndarray | None],
        devices: Sequence[jax.Device],
    ) -> None:
        """Copies the photographs to the devices.

        Args:
            crops: crops to draw.
            photographs: pixels of each image of the source, uint8 `[H, W, C]`; None for an image
                that cannot be decoded, which the next image replaces.
            devices: devices, each of which gets all photographs.

        Raises:
            ConfigError: there is no photograph.
        """
        self._crops = crops
        readable = [place for place, pixels in enumerate(photographs) if pixels is not None]
        if not readable:
            raise crops.refuse()
        decoded = [pixels for pixels in photographs if pixels is not None]
        self._sizes = [(pixels.shape[1], pixels.shape[0]) for pixels in decoded]
        ends = itertools.accumulate(width * height for width, height in self._sizes)
        self._starts = [0, *ends]
        # The photograph drawn for each image of the source: its own, or the next one.
        next_one = np.searchsorted(readable, np.arange(len(photographs)))
        self._drawn = (next_one % len(readable)).tolist()
        self._planes = parallel.replicate(
            tuple(
                np.concatenate([pixels[..., channel].ravel() for pixels in decoded])
                for channel in range(crops.channels)
            ),
            devices,
        )
        self._cut = parallel.map_over_devices(
            functools.partial(cut, size=crops.size), devices, num_mapped=1, num_shared=1
        )

    def batches(self, first_step: int, last_step: int, num_rows: int) -> Iterator[np.ndarray]:
        """Yields the windows of the crops of each step, int32 `[num_rows, 3]`, see `cut`."""
        for step in range(first_step, last_step):
            yield np.asarray([self._window(step, row) for row in range(num_rows)], np.int32)

    def on_devices(self, batch: np.ndarray) -> jax.Array:
        """Cuts the crops of a sharded batch of windows; does not wait for the devices."""
        crops: jax.Array = self._cut(batch, self._planes)
        return crops

    def _window(self, step: int, row: int) -> tuple[int, int, bool]:
        rng = self._crops.generator(step, row)
        index = self._drawn[int(rng.integers(len(self._drawn)))]
        width, _ = self._sizes[index]
        left, top, mirrored = self._crops.draw(rng, self._sizes[index])
        return self._starts[index] + top * width + left, width, mirrored


def load_crops(crops: Crops, num_draws: int, devices: Sequence[jax.Device]) -> Crops | MemoryCrops:
    """Copies all photographs to the devices, if they fit and each is drawn once on average.

    Args:
        crops: crops to draw.
        num_draws: number of crops that remain to be drawn.
        devices: devices that train.

    Returns:
        `MemoryCrops` with the same bytes; or `crops`, if the photographs need more than a quarter
        of the memory that a program may take on a device, or of the free memory of the host.

    Raises:
        ConfigError: none of the images can be decoded.
    """
    if num_draws < len(crops.source):
        return crops
    free = _HOST_SHARE * psutil.virtual_memory().available
    most_bytes = min(_DEVICE_SHARE * device_memory(devices[0]), free)
    photographs = _decode_all(crops, min(_MAX_PIXELS, int(most_bytes / crops.channels)))
    if photographs is None:
        _logger.info("the photographs do not fit on a device; they are decoded as they are drawn")
        return crops
    return MemoryCrops(crops, photographs, devices)


def cut(window: jax.Array, planes: Sequence[jax.Array], *, size: int) -> jax.Array:
    """Cuts out one crop.

    Args:
        window: position of the crop, int32 `[3]`: index of its first pixel, pixels per line, and
            whether the crop is mirrored.
        planes: pixels of all photographs, uint8 `[all pixels]` for each channel.
        size: side of the crop in pixels.

    Returns:
        Crop, uint8 `[size, size, channels]`.

    Example:
        >>> cut(jnp.asarray([1, 3, 0]), [jnp.arange(9, dtype=jnp.uint8)], size=2)[..., 0].tolist()
        [[1, 2], [4, 5]]
    """
    first, width, mirrored = window
    starts = first + width * jnp.arange(size)
    # Slice whole lines, because a gather of single bytes is slow on TPU.
    lines = [
        jax.vmap(lambda start, plane=plane: jax.lax.dynamic_slice(plane, (start,), (size,)))(starts)
        for plane in planes
    ]
    crop = jnp.stack(lines, axis=-1)
    return jnp.where(mirrored == 1, crop[:, ::-1], crop)


def _decode_all(crops: Crops, most_pixels: int) -> list[np.ndarray | None] | None:
    """Decodes the source in threads; returns None as soon as it exceeds `most_pixels`."""
    photographs: list[np.ndarray | None] = []
    pixels_left = most_pixels

    def decode(place: int) -> np.ndarray | None:
        image = crops.decode(place)
        if image is None:
            return None
        return np.asarray(image).reshape(image.height, image.width, -1)

    with concurrent.futures.ThreadPoolExecutor() as pool:
        places = range(len(crops.source))
        for start in places[::_DECODED_AHEAD]:
            photographs += pool.map(decode, places[start : start + _DECODED_AHEAD])
            new = [pixels for pixels in photographs[start:] if pixels is not None]
            pixels_left -= sum(pixels.shape[0] * pixels.shape[1] for pixels in new)
            if pixels_left < 0:
                return None
    return photographs
