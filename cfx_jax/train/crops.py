"""Random crops to train on, decoded ahead of the accelerator.

What batch t holds follows from (seed, t, row) alone, so a training that is resumed at step t sees
what it would have seen.
"""

import collections
import concurrent.futures
from collections.abc import Iterator

import numpy as np
from PIL import Image

from cfx_jax.config import ConfigError
from cfx_jax.data.images import UnreadableImageError
from cfx_jax.data.source import Source

_BATCHES_AHEAD = 4


class Crops:
    """Square crops of the images of a source; half of those in colour are mirrored.

    Grey ones are not: they are digits, and a mirrored digit is none.

    Attributes:
        unreadable: id -> what was wrong, of the images that were drawn but could not be decoded.
            The next image of the source takes the place of such a one.
    """

    def __init__(self, source: Source, size: int, channels: int, seed: int) -> None:
        """Remembers what to draw from.

        Args:
            source: images of any size; those smaller than a crop are enlarged.
            size: side of a crop in pixels.
            channels: 3, or 1 for grey.
            seed: of all draws.
        """
        self._source = source
        self._size = size
        self._channels = channels
        self._seed = seed
        self.unreadable: dict[str, str] = {}

    def batches(self, first_step: int, last_step: int, num_rows: int) -> Iterator[np.ndarray]:
        """Yields the batches of the steps `first_step` up to, not including, `last_step`.

        Args:
            first_step: at least 0.
            last_step: at least `first_step`.
            num_rows: crops in a batch.

        Yields:
            uint8 `[num_rows, size, size, channels]`.

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

    def crop(self, step: int, row: int) -> np.ndarray:
        """Draws one crop, uint8 `[size, size, channels]`."""
        rng = np.random.default_rng((self._seed, step, row))
        image = self._decode(int(rng.integers(len(self._source))))
        scale = self._size / min(image.size)
        if scale > 1:
            width, height = (max(self._size, round(side * scale)) for side in image.size)
            image = image.resize((width, height), Image.Resampling.BICUBIC)
        left, top = (int(rng.integers(side - self._size + 1)) for side in image.size)
        pixels = np.asarray(image.crop((left, top, left + self._size, top + self._size)))
        if self._channels == 3 and rng.random() < 0.5:
            pixels = pixels[:, ::-1]
        return pixels.reshape(self._size, self._size, -1)

    def _decode(self, index: int) -> Image.Image:
        for offset in range(len(self._source)):
            place = (index + offset) % len(self._source)
            if self._source.ids[place] in self.unreadable:
                continue
            try:
                return self._source.decode(place, self._channels)
            except UnreadableImageError as error:
                self.unreadable[self._source.ids[place]] = str(error)
        raise ConfigError(
            f"data: none of the {len(self._source)} images of {self._source.name!r} can be "
            f"decoded; for example {next(iter(self.unreadable.values()))}"
        )
