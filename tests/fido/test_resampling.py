"""Resampling between cells and pixels, against independent answers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from cfx_jax.fido.resampling import smooth_cells, upsample


def align_corners(cells, size):
    """Independent bilinear interpolation."""
    places = [np.linspace(0, n - 1, out) for n, out in zip(np.shape(cells), size, strict=True)]
    grid = np.meshgrid(*places, indexing="ij")
    return ndimage.map_coordinates(np.asarray(cells, float), grid, order=1)


@pytest.mark.parametrize(
    ("cells", "size"), [((3, 3), (7, 7)), ((4, 2), (9, 5)), ((5, 5), (5, 5)), ((1, 1), (3, 4))]
)
def test_upsample_aligns_corners(cells, size):
    values = np.random.default_rng(0).normal(size=cells).astype(np.float32)
    result = upsample(jnp.asarray(values), size)
    np.testing.assert_allclose(result, align_corners(values, size), atol=1e-6)
    np.testing.assert_allclose(result[0, 0], values[0, 0], atol=1e-7)
    np.testing.assert_allclose(result[-1, -1], values[-1, -1], atol=1e-6)


def test_upsample_differs_from_half_pixel_resizing():
    cells = jnp.asarray([[0.0, 1.0], [0.0, 1.0]])
    half_pixel = jax.image.resize(cells, (4, 4), "linear")
    np.testing.assert_allclose(upsample(cells, (4, 4))[0], [0, 1 / 3, 2 / 3, 1], atol=1e-6)
    assert abs(float(half_pixel[0, 1]) - 1 / 3) > 0.05


def test_smooth_cells_averages_neighbours_with_a_gaussian():
    cells = np.zeros((7, 9), np.float32)
    cells[3, 4] = 1.0
    found = smooth_cells(jnp.asarray(cells), 1.0)
    rows, columns = (np.exp(-0.5 * np.square(np.arange(-reach, reach + 1))) for reach in (3, 4))

    # Each cell divides by its own sum, which is cut off at the border.
    def weights(length):
        all_weights = np.exp(
            -0.5 * np.square(np.subtract.outer(np.arange(length), np.arange(length)))
        )
        return all_weights.sum(1)

    expected = np.outer(rows / weights(7), columns / weights(9))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_allclose(smooth_cells(jnp.full((4, 4), 2.5), 3.0), 2.5, rtol=1e-6)
    assert smooth_cells(found, 0.0) is found
