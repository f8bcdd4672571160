"""Quality of in-fills: known answers, and fixed masks."""

import math

import numpy as np
import pytest
from scipy import linalg

from cfx_jax.generators import Generator
from cfx_jax.train import masks
from cfx_jax.train.quality import (
    _ROWS,
    fill_images,
    frechet_distance,
    heldout_masks,
    measure_quality,
)


def test_measure_quality_of_a_constant_error_in_the_hole():
    images = np.full((2, 16, 16, 3), 0.5, np.float32)
    mask = np.ones((2, 16, 16, 1), np.float32)
    mask[0, :4] = 0.0
    mask[1, :, :8] = 0.0
    infilled = images + (1 - mask) * np.float32([0.1, 0.01])[:, None, None, None]
    quality = measure_quality(infilled, images, mask)
    assert quality.psnr == pytest.approx((20 + 40) / 2, abs=1e-3)
    assert quality.l1 == pytest.approx((0.1 + 0.01) / 2, abs=1e-6)
    assert quality.ssim < 1


def test_measure_quality_of_the_truth():
    images = np.random.default_rng(0).uniform(size=(2, 16, 16, 3)).astype(np.float32)
    mask = np.zeros((2, 16, 16, 1), np.float32)
    quality = measure_quality(images, images, mask)
    assert quality == (pytest.approx(20 * math.log10(255)), 0.0, pytest.approx(1.0))


def test_heldout_masks_repeat_and_differ_by_image():
    first, second = heldout_masks(3, (28, 28)), heldout_masks(3, (28, 28))
    assert tuple(first) == masks.HELDOUT_KINDS
    for kind, drawn in first.items():
        np.testing.assert_array_equal(drawn, second[kind])
        assert kind == "square" or not np.array_equal(drawn[0], drawn[1])


@pytest.mark.parametrize("count", [1, 8, 11])
def test_fill_images_keeps_the_order(count):
    def apply(params, images, mask, key):
        return images * params

    images = np.random.default_rng(0).uniform(size=(count, 8, 8, 1)).astype(np.float32)
    mask = np.zeros((count, 8, 8, 1), np.float32)
    filled = fill_images(Generator(params=np.float32(0.5), apply=apply), images, mask)
    np.testing.assert_allclose(filled, 0.5 * images, atol=1e-6)
    assert _ROWS == 8


def test_frechet_distance_of_independent_numbers_uses_their_moments():
    """`sum (m1 - m2)^2 + (s1 - s2)^2` where covariances are diagonal."""
    corners = np.asarray([[a, b] for a in (-1.0, 1.0) for b in (-1.0, 1.0)])
    first, second = corners * [1.0, 2.0] + [0.0, 5.0], corners * [3.0, 0.5] + [1.0, 4.0]
    scale = 4 / 3  # The sample covariance divides by one less.
    expected = (1 + 1) + scale * ((1 - 3) ** 2 + (2 - 0.5) ** 2)
    assert frechet_distance(first, second) == pytest.approx(expected)
    assert frechet_distance(first, first) == pytest.approx(0.0, abs=1e-9)


def test_frechet_distance_equals_scipy():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(40, 6)), rng.normal(size=(50, 6)) @ rng.normal(size=(6, 6))
    product = np.cov(first, rowvar=False) @ np.cov(second, rowvar=False)
    cross = np.trace(linalg.sqrtm(product).real)
    expected = np.square(first.mean(0) - second.mean(0)).sum() - 2 * cross
    expected += np.trace(np.cov(first, rowvar=False)) + np.trace(np.cov(second, rowvar=False))
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-6)
