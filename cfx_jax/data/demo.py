"""The pictures of the demo, as arrays."""

import numpy as np

from cfx_jax.config import DataConfig
from cfx_jax.data.sources import open_source


def demo_images(size: int = 224) -> tuple[np.ndarray, np.ndarray]:
    """Returns the three pictures of the demo: a cup of espresso, a motorcycle and a traffic light.

    Two of them are photographs of scikit-image; the traffic light is drawn.

    Args:
        size: height and width of the images, in pixels.

    Returns:
        Images, float32 `[3, size, size, 3]` in [0, 1], and their ImageNet classes, int32 `[3]`.

    Raises:
        ValueError: `size` is not a whole number, or is below 1.
    """
    if not isinstance(size, int | np.integer) or size < 1:
        raise ValueError(f"size is {size!r}; expected a whole number of pixels, at least 1")
    source = open_source(DataConfig())
    images = [source.load(index, (size, size), "crop") for index in range(len(source))]
    return np.stack(images), np.array([source.label(i) for i in range(len(source))], np.int32)
