"""Photographs for trainings."""

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def write_photographs(tmp_path):
    """Writes photographs of noise, `0.png`, `1.png`, ..., of sizes `(height, width)`.

    They are the same in every test. Returns the folder.
    """

    def write(sizes):
        rng = np.random.default_rng(0)
        for index, (height, width) in enumerate(sizes):
            pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"{index}.png")
        return tmp_path

    return write
