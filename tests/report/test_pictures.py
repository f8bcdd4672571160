"""Pictures: saliency equal to that of explanations, colours, sheets and plots."""

import io

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from cfx_jax.fido.explanation import saliency
from cfx_jax.fido.masks import MaskLaw, Relaxation
from cfx_jax.fido.objective import DIRECTIONS
from cfx_jax.report import pictures

CONCRETE = MaskLaw(Relaxation.CONCRETE)


@pytest.mark.parametrize("objective", ["ssr", "sdr"])
@pytest.mark.parametrize(
    "law",
    [
        CONCRETE,
        MaskLaw(Relaxation.CONCRETE, block_size=5),
        MaskLaw(Relaxation.DETERMINISTIC),
        MaskLaw(Relaxation.CONCRETE, smooth_scale=0.2, sharpness=3.0),
    ],
)
def test_saliency_picture_equals_that_of_the_explanation(objective, law):
    logits = np.random.default_rng(2).normal(size=(4, 3)).astype(np.float32)
    cells = law.cells(jnp.asarray(logits))
    expected = saliency(cells, DIRECTIONS[objective], (12, 10), law)
    drawn = pictures.saliency(logits, objective, (12, 10), law)
    np.testing.assert_allclose(drawn, expected, atol=1e-6)


def test_saliency_of_infinite_logits_is_certain():
    keep = pictures.saliency(np.array([[np.inf, -np.inf]], np.float16), "ssr", (3, 3), CONCRETE)
    np.testing.assert_allclose(keep, np.tile([1, 0.5, 0], (3, 1)), atol=1e-9)


def test_draw_saliency_converts_to_grey_like_pillow():
    photo = np.random.default_rng(0).integers(0, 256, (2, 2, 3), np.uint8)
    grey = np.asarray(Image.fromarray(photo).convert("L"), float)
    plain = pictures.draw_saliency(np.zeros((2, 2)), "ssr", np.zeros_like(photo), CONCRETE)
    drawn = pictures.draw_saliency(np.zeros((2, 2)), "ssr", photo, CONCRETE)
    share = 1 - pictures._COLOR_SHARE
    np.testing.assert_allclose(
        drawn - plain.astype(float), share * np.stack([grey] * 3, -1), atol=1
    )


def test_draw_sheet_places_images_in_rows_on_white():
    grey = [np.full((120, 130, 1), value, np.float32) for value in (0.0, 0.2, 0.4, 2.0)]
    sheet = pictures.draw_sheet([grey[:2], grey[2:]])
    assert sheet.shape == (244, 264, 3)
    assert sheet[60, 60].tolist() == [0, 0, 0]
    assert sheet[60, 200].tolist() == [51, 51, 51]
    assert sheet[200, 60].tolist() == [102, 102, 102]
    assert (sheet[120:124] == 255).all()
    assert (sheet[:, 130:134] == 255).all()
    assert (sheet[124:, 134:] == 255).all()


def test_draw_sheet_enlarges_small_images_pixel_by_pixel():
    image = np.random.default_rng(0).uniform(size=(28, 28, 3)).astype(np.float32)
    sheet = pictures.draw_sheet([[image]])
    assert sheet.shape == (112, 112, 3)
    np.testing.assert_array_equal(sheet[::4, ::4], pictures.to_pixels(image))


def test_encode_png_keeps_the_values():
    image = np.random.default_rng(0).integers(0, 256, (9, 7, 3)) / 255.0
    file = pictures.encode_png(pictures.to_pixels(image))
    np.testing.assert_array_equal(Image.open(io.BytesIO(file)), np.round(255 * image))


def test_draw_maps_uses_the_colours_of_saliency():
    levels = np.linspace(0, 1, 5)
    plot = pictures.draw_maps({"one": np.tile(levels[:, None, None], (1, 8, 8))})
    for level in levels:
        color = pictures.draw_saliency(np.full((1, 1), _logit(level)), "ssr", None, CONCRETE)[0, 0]
        assert (np.abs(plot[..., :3].astype(int) - color).max(axis=-1) <= 1).sum() > 1000


def _logit(level):
    return np.log(level + 1e-12) - np.log(1 - level + 1e-12)


def test_draw_curves_draws_one_for_each_infill():
    curve = np.linspace(1, 0, 6)[None, None].repeat(2, axis=1)
    scores = {"random": {"deletion": curve, "insertion": 1 - curve}}
    plot = pictures.draw_curves(scores, ["grey", "black"])
    assert plot.shape == (800, 1200, 4)
    color = plot[..., :3].astype(int)
    assert (np.ptp(color, axis=-1) > 60).sum() > 500, "no line in colour"


def test_half_region_holds_half_of_the_mass():
    importance = np.array([[0.1, 0.2], [0.3, 0.6]])
    assert pictures.half_region(importance).tolist() == [[False, False], [False, True]]
    assert pictures.half_region(np.ones((2, 2))).all(), "equal pixels are in it together"
    assert not pictures.half_region(np.zeros((2, 2))).any()


def test_trace_outline_surrounds_the_region():
    importance = np.zeros((12, 10))
    importance[2:8, 3:9] = 1
    path = pictures.trace_outline(importance)
    steps = np.array(path.strip("Mz").replace("l", " ").split(), int).reshape(-1, 2)
    points = np.cumsum(steps, axis=0) / 2
    (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
    np.testing.assert_allclose([left, top, right, bottom], [3, 2, 9, 8], atol=0.6)
    assert pictures.trace_outline(np.zeros((4, 4))) == ""
    assert pictures.trace_outline(np.ones((4, 4))).startswith("M"), "along the edge of the picture"


@pytest.mark.parametrize(("size", "expected"), [(28, 112), (224, 224), (227, 227), (2000, 1024)])
def test_draw_strip_keeps_tiles_separate(size, expected):
    colors = [(200, 30, 30), (30, 200, 30), (30, 30, 200)]
    tiles = [np.full((size, size, 3), color, np.uint8) for color in colors]
    strip, (height, width, pitch, before) = pictures.draw_strip(tiles)
    assert (height, width) == (expected, expected)
    assert strip.shape == (height, 3 * pitch, 3)
    decoded = np.asarray(Image.open(io.BytesIO(pictures.encode_webp(strip)))).astype(int)
    for at, color in enumerate(colors):
        # With the adjacent columns, which are mixed in where the picture is scaled.
        tile = decoded[:, at * pitch + before - 1 : at * pitch + before + width + 1]
        assert np.abs(tile - color).max() < 12
