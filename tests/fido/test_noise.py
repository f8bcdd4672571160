"""Noise of the masks: its distribution at each pixel and its range."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cfx_jax.fido.masks import MaskLaw, Relaxation
from cfx_jax.fido.noise import block_noise, smooth_noise


def test_block_noise_is_shared_only_within_a_block():
    noise = block_noise(jax.random.normal, jax.random.key(3), (6, 20, 31), 8)
    assert noise.shape == (6, 20, 31)
    seams = [
        (np.flatnonzero((np.diff(mask, axis=0) != 0).any(1)) + 1).tolist()
        for image in np.asarray(noise)
        for mask in (image, image.T)
    ]
    for mask_seams in seams:
        # Whole blocks between the seams, which may start anywhere.
        assert set(np.diff(mask_seams)) == {8}
        assert 1 <= mask_seams[0] <= 8
    assert len({mask_seams[0] for mask_seams in seams}) > 3
    cuts = [len(np.unique(mask)) for mask in noise]
    rows, columns = (np.array([len(s) + 1 for s in seams[i::2]]) for i in (0, 1))
    np.testing.assert_array_equal(cuts, rows * columns)


def test_block_noise_of_one_pixel_is_the_published_noise():
    drawn = block_noise(jax.random.logistic, jax.random.key(5), (3, 8, 8), 1)
    np.testing.assert_array_equal(drawn, jax.random.logistic(jax.random.key(5), (3, 8, 8)))
    shares = block_noise(jax.random.uniform, jax.random.key(5), (1, 8, 8), 1)
    coins = jax.random.bernoulli(jax.random.key(5), 0.3, (8, 8))
    np.testing.assert_array_equal(shares[0] < 0.3, coins)


@pytest.mark.parametrize("scale", [4, 11])
def test_smooth_noise_is_normal_and_correlated_between_neighbours(scale):
    field = np.asarray(smooth_noise(jax.random.key(6), (3000, 24, 32), scale))
    # Five standard errors of a mean and of a variance of 3,000 draws, at the worst of 768 pixels.
    np.testing.assert_allclose(field.mean(0), 0.0, atol=5 / math.sqrt(3000))
    np.testing.assert_allclose(field.var(0), 1.0, atol=5 * math.sqrt(2 / 3000))
    centre = field[:, 12, 16]

    def agreement(distance):
        return np.corrcoef(centre, field[:, 12, 16 - distance])[0, 1]

    assert agreement(1) > 0.94
    assert 0.2 < agreement(scale) < 0.8
    assert abs(agreement(16)) < 0.1 or scale == 11


@pytest.mark.parametrize("scale", [0.1, 0.5])
def test_smooth_noise_preserves_pixel_probabilities(scale):
    law = MaskLaw(Relaxation.CONCRETE, temperature=0.4, smooth_scale=scale)
    cells = jnp.asarray([[-1.0, 0.0], [1.0, 2.0]])
    pixels = law.keep_map(cells, (16, 16))
    np.testing.assert_allclose(pixels.keep, law.upsample_keep(cells, (16, 16)), atol=1e-6)
    number = 1000
    masks, holes = law.draw(jax.random.key(4), pixels, number)
    np.testing.assert_array_equal(np.round(masks), holes)
    hard = jax.vmap(lambda key: law.draw_hard(key, pixels)[0])(
        jax.random.split(jax.random.key(5), number)
    )
    # Five standard errors, for the largest of 256 pixels.
    for drawn in (holes, hard):
        error = 5 * 0.5 / math.sqrt(number)
        np.testing.assert_allclose(drawn[..., 0].mean(0), pixels.keep, atol=error)
