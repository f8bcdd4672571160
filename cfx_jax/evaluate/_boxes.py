"""Checks the boxes of the data for an evaluation, and transforms them like the images."""

import logging
from collections.abc import Sequence

import numpy as np

from cfx_jax.config import ConfigError
from cfx_jax.data import Resize, Source

_logger = logging.getLogger(__name__)
# Share of the width or height by which a hand-drawn box may reach beyond its image.
_OVERHANG = 0.5


def find_boxes(
    source: Source, indices: Sequence[int], size: tuple[int, int], resize: str | Resize
) -> list[np.ndarray]:
    """Returns the boxes of some examples; warns of boxes that are outside or far beyond the image.

    Args:
        source: the examples.
        indices: positions of examples that can be read.
        size: size of the fitted images, `(H, W)`.
        resize: resizing rule, as in `Source.load`.

    Returns:
        Boxes of each example, float32 `[k, 4]` in pixels of the fitted image, not clamped to it.

    Raises:
        ConfigError: all coordinates are in [0, 1], so they are shares of the image instead of
            pixels.
    """
    given = {index: boxes for index in indices if len(boxes := source.boxes(index))}
    if given:
        _check_pixels(source, given)
    if beyond := [index for index in given if _is_beyond(source, index)]:
        _logger.warning(
            "boxes of %d images lie outside of the image or reach far beyond it; the first is %r "
            "with %s; expected pixels of the image",
            len(beyond),
            source.ids[beyond[0]],
            given[beyond[0]].tolist(),
        )
    return [source.fitted_boxes(index, size, resize) for index in indices]


def _check_pixels(source: Source, given: dict[int, np.ndarray]) -> None:
    values = np.concatenate([*given.values()])
    if values.min() >= 0 and 0 < values.max() <= 1:
        index, boxes = next(iter(given.items()))
        numbers = " ".join(f"{number:g}" for number in boxes[0])
        raise ConfigError(
            f"example {source.ids[index]!r} has the box {numbers}, expected x0 y0 x1 y1 in pixels: "
            "these look like shares of the image; multiply x by its width and y by its height"
        )


def _is_beyond(source: Source, index: int) -> bool:
    # Relative to the whole image, so that parts cut off by a crop do not count.
    shares = source.fitted_boxes(index, (1, 1), "stretch")
    is_outside = (shares[:, 2:] <= 0) | (shares[:, :2] >= 1)
    is_far = (shares < -_OVERHANG) | (shares > 1 + _OVERHANG)
    return bool(is_outside.any() or is_far.any())
