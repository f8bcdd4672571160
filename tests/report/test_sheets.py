"""Sheets of images: where each image lies."""

import io

import numpy as np
from PIL import Image

from cfx_jax.report.sheets import draw_image, draw_sheet


def decode(data):
    return np.asarray(Image.open(io.BytesIO(data)))


def test_images_lie_in_rows_on_white():
    grey = [np.full((120, 130, 1), value, np.float32) for value in (0.0, 0.2, 0.4, 2.0)]
    sheet = decode(draw_sheet([grey[:2], grey[2:]]))
    assert sheet.shape == (244, 264, 3)
    assert sheet[60, 60].tolist() == [0, 0, 0]
    assert sheet[60, 200].tolist() == [51, 51, 51]
    assert sheet[200, 60].tolist() == [102, 102, 102]
    assert (sheet[120:124] == 255).all()
    assert (sheet[:, 130:134] == 255).all()
    assert (sheet[124:, 134:] == 255).all()


def test_small_images_are_enlarged_pixel_by_pixel():
    image = np.random.default_rng(0).uniform(size=(28, 28, 3)).astype(np.float32)
    sheet = decode(draw_sheet([[image]]))
    assert sheet.shape == (112, 112, 3)
    np.testing.assert_array_equal(sheet[::4, ::4], decode(draw_image(image)))


def test_an_image_by_itself_keeps_its_size_and_values():
    image = np.random.default_rng(0).integers(0, 256, (9, 7, 3)) / 255.0
    np.testing.assert_array_equal(decode(draw_image(image)), np.round(255 * image))
