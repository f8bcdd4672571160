"""The images of the demo."""

import re

import numpy as np
import pytest

import cfx_jax
from cfx_jax.config import DataConfig
from cfx_jax.data import open_source


def test_demo_images_are_those_of_the_demo_source():
    images, classes = cfx_jax.demo_images(32)
    assert images.shape == (3, 32, 32, 3)
    assert images.dtype == np.float32
    assert classes.dtype == np.int32
    assert classes.tolist() == [967, 665, 920]
    np.testing.assert_array_equal(images[1], open_source(DataConfig()).load(1, (32, 32), "crop"))


@pytest.mark.parametrize("size", [0, (64, 32), "64", 64.0])
def test_demo_images_refuses_an_invalid_size(size):
    with pytest.raises(ValueError, match=re.escape(f"size is {size!r}; expected a whole number")):
        cfx_jax.demo_images(size)
