"""Random crops to train on, decoded on the host ahead of the devices.

The crops of step t depend only on (seed, t, row), so a resumed training has the same crops as an
uninterrupted training, whether they are cut on the host or on the devices (see `photographs`).
"""

import collections
import concurrent.futures
from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np
from PIL import Image

from cfx_jax.config import ConfigError
from cfx_jax.data import Source, UnreadableImageError

_BATCHES_AHEAD = 4


class Window(NamedTuple):
    """The position of a crop in its photograph, in pixels, and whether the crop is mirrored."""

    left: int
    top: int
    mirrored: bool


class Crops:
    """Square crops of the images of a source; half of the colour crops are mirrored.

    Grey crops are not mirrored: they are digits, and a mirrored digit is not a digit.

    Attributes:
        source: images to draw from.
        size: side of a crop in pixels.
        channels: number of channels of a crop.
        unreadable: id -> error message of the drawn images that could not be decoded; the next
            image of the source replaces each of them.
    """

    def __init__(self, source: Source, size: int, channels: int, seed: int) -> None:
        """Stores the arguments; nothing is decoded yet.

        Args:
            source: images of any size; images smaller than a crop are enlarged.
            size: side of a crop in pixels.
            channels: number of channels, 3, or 1 for grey.
            seed: random seed of all draws.
        """
        self.source = source
        self.size = size
        self.channels = channels
        self._seed = seed
        self.unreadable: dict[str, str] = {}

    def batches(self, first_step: int, last_step: int, num_rows: int) -> Iterator[np.ndarray]:
        """Yields the batches of the steps from `first_step` up to, but not including, `last_step`.

        Args:
            first_step: first step, at least 0.
            last_step: end of the range of steps, at least `first_step`.
            num_rows: number of crops in a batch.

        Yields:
            Crops, uint8 `[num_rows, size, size, channels]`.

        Raises:
            ConfigError: none of the images can be decoded.
        """
        with concurrent.futures.ThreadPoolExecutor() as pool:
            ahead: collections.deque[list[concurrent.futures.Future[np.ndarray]]]
            ahead = collections.deque()
            try:
                for step in range(first_step, last_step):
                    ahead.append([pool.submit(self.crop, step, row) for row in range(num_rows)])
                    if len(ahead) > _BATCHES_AHEAD:
                        yield np.stack([future.result() for future in ahead.popleft()])
                for futures in ahead:
                    yield np.stack([future.result() for future in futures])
            finally:
                pool.shutdown(cancel_futures=True)

    def on_devices(self, batch: np.ndarray) -> np.ndarray | jax.Array:
        """Returns a sharded batch unchanged, because it already consists of crops."""
        return batch

    def crop(self, step: int, row: int) -> np.ndarray:
        """Draws one crop, uint8 `[size, size, channels]`."""
        rng = self.generator(step, row)
        image = self._decode(int(rng.integers(len(self.source))))
        left, top, mirrored = self.draw(rng, image.size)
        pixels = np.asarray(image.crop((left, top, left + self.size, top + self.size)))
        if mirrored:
            pixels = pixels[:, ::-1]
        return pixels.reshape(self.size, self.size, -1)

    def generator(self, step: int, row: int) -> np.random.Generator:
        """Returns the random generator of a row; it draws the photograph, then the window."""
        return np.random.default_rng((self._seed, step, row))

    def draw(self, rng: np.random.Generator, image_size: tuple[int, int]) -> Window:
        """Draws a window in a photograph of size `(width, height)`."""
        left, top = (int(rng.integers(side - self.size + 1)) for side in image_size)
        return Window(left, top, self.channels == 3 and bool(rng.random() < 0.5))

    def decode(self, place: int) -> Image.Image | None:
        """Decodes a photograph, at least as large as a crop; None if it cannot be decoded."""
        if self.source.ids[place] in self.unreadable:
            return None
        try:
            image = self.source.decode(place, self.channels)
        except UnreadableImageError as error:
            self.unreadable[self.source.ids[place]] = str(error)
            return None
        scale = self.size / min(image.size)
        if scale > 1:
            width, height = (max(self.size, round(side * scale)) for side in image.size)
            image = image.resize((width, height), Image.Resampling.BICUBIC)
        return image

    def refuse(self) -> ConfigError:
        """Returns the error for a source without readable images."""
        return ConfigError(
            f"data: none of the {len(self.source)} images of {self.source.name!r} can be "
            f"decoded; for example {next(iter(self.unreadable.values()))}"
        )

    def _decode(self, index: int) -> Image.Image:
        for offset in range(len(self.source)):
            image = self.decode((index + offset) % len(self.source))
            if image is not None:
                return image
        raise self.refuse()
