"""The mask law: keep maps, masks and holes, each against an independent answer."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cfx_jax.fido.masks import MaskLaw, Relaxation
from cfx_jax.fido.resampling import upsample
from cfx_jax.fido.settings import MODES, get_settings


def test_keep_map_upsamples_the_probability_not_the_logit():
    cells = jnp.asarray([[-4.0, 4.0]] * 2)
    pixels = MaskLaw(Relaxation.CONCRETE).keep_map(cells, (3, 3))
    np.testing.assert_allclose(pixels.keep[:, 1], 0.5, atol=1e-6)
    cells = jnp.asarray([[0.0, 4.0]] * 2)
    pixels = MaskLaw(Relaxation.CONCRETE).keep_map(cells, (3, 3))
    mean = (0.5 + 1 / (1 + math.exp(-4))) / 2
    np.testing.assert_allclose(pixels.keep[:, 1], mean, atol=1e-6)
    np.testing.assert_allclose(pixels.logit[:, 1], math.log(mean / (1 - mean)), atol=1e-5)


@pytest.mark.parametrize("logit", [0.0, 20.0, -20.0, 60.0, -60.0, 1e4, -1e4])
def test_keep_map_and_its_gradient_stay_finite(logit):
    cells = jnp.full((3, 3), logit)

    def total(cells):
        return jnp.sum(MaskLaw(Relaxation.CONCRETE).keep_map(cells, (6, 6)).logit)

    value, gradient = jax.value_and_grad(total)(cells)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
    if abs(logit) <= 60:
        np.testing.assert_allclose(value / 36, logit, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("value", [-60.0, -20.0, -3.0, 0.0, 3.0, 12.0, 17.0, 20.0, 60.0])
def test_keep_map_gradient_is_right_for_saturated_logits(value):
    def total(cells, name):
        return getattr(MaskLaw(Relaxation.CONCRETE).keep_map(cells, (9, 9)), name).sum() / 81

    cells = jnp.full((3, 3), value)
    slopes = {name: jax.grad(total)(cells, name).sum() for name in ("logit", "keep", "drop")}
    slope = 1.0 / (2.0 + np.exp(value) + np.exp(-value))
    np.testing.assert_allclose(slopes["logit"], 1.0, rtol=1e-3)
    np.testing.assert_allclose([slopes["keep"], -slopes["drop"]], slope, rtol=1e-4)


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.8])
def test_draw_concrete_samples_match_closed_form_mean_and_gradient(keep):
    """At T = 0.1, against the expectation integrated numerically over logistic noise."""
    settings = get_settings("paper", num_samples=64)
    u = (np.arange(200_000) + 0.5) / 200_000
    noise = np.log(u) - np.log1p(-u)
    logit = math.log(keep / (1 - keep))
    soft = 1 / (1 + np.exp(-np.clip((logit + noise) / 0.1, -700, 700)))
    slope = (soft * (1 - soft) / 0.1).mean()

    def mean(cell):
        pixels = settings.mask_law.keep_map(jnp.full((64, 64), cell), (64, 64))
        return settings.mask_law.draw(jax.random.key(0), pixels, settings.num_samples)[0].mean()

    value, gradient = jax.value_and_grad(mean)(logit)
    # 262,144 samples: four standard errors.
    np.testing.assert_allclose(value, soft.mean(), atol=4 * soft.std() / 512)
    np.testing.assert_allclose(gradient, slope, atol=4 * (soft * (1 - soft) / 0.1).std() / 512)


@pytest.mark.parametrize("mode", ["fast", "paper"])
def test_draw_holes_are_rounded_masks_and_exact_bernoulli_samples(mode):
    settings = get_settings(mode, num_samples=50)
    pixels = settings.mask_law.keep_map(jnp.full((64, 64), math.log(3)), (64, 64))
    masks, holes = settings.mask_law.draw(jax.random.key(1), pixels, settings.num_samples)
    assert set(np.unique(holes)) == {0.0, 1.0}
    np.testing.assert_array_equal(np.round(masks), holes)
    np.testing.assert_allclose(holes.mean(), 0.75, atol=4 * math.sqrt(0.75 * 0.25 / holes.size))


def test_draw_noise_is_independent_across_pixels_and_samples():
    settings = get_settings("paper", num_samples=4)
    pixels = settings.mask_law.keep_map(jnp.zeros((2, 2)), (64, 64))
    _, holes = settings.mask_law.draw(jax.random.key(2), pixels, settings.num_samples)
    masks = np.asarray(holes)[..., 0] - 0.5
    assert abs(np.mean(masks[:, 1:] * masks[:, :-1])) < 4 * 0.25 / math.sqrt(masks[:, 1:].size)
    assert abs(np.mean(masks[1:] * masks[:-1])) < 4 * 0.25 / math.sqrt(masks[1:].size)


@pytest.mark.parametrize("block_size", [2, 7, 16])
def test_draw_with_blocks_preserves_pixel_probabilities(block_size):
    settings = get_settings("fast", num_samples=4000, block_size=block_size)
    cells = jnp.asarray([[-1.0, 0.0], [1.0, 2.0]])
    pixels = settings.mask_law.keep_map(cells, (16, 16))
    masks, holes = settings.mask_law.draw(jax.random.key(4), pixels, settings.num_samples)
    np.testing.assert_array_equal(np.round(masks), holes)
    # Five standard errors, for the largest of 256 pixels.
    np.testing.assert_allclose(holes[..., 0].mean(0), pixels.keep, atol=5 * 0.5 / math.sqrt(4000))


def test_draw_with_a_large_scale_gives_level_sets():
    """All pixels nearly share one draw, so of any two masks one contains the other."""
    law = MaskLaw(Relaxation.CONCRETE, smooth_scale=600.0)
    pixels = law.keep_map(jnp.asarray([[-2.0, 0.5], [1.0, 3.0]]), (8, 8))
    masks = np.asarray(law.draw(jax.random.key(1), pixels, 50)[1][..., 0], bool)
    nested = [(a <= b).all() or (b <= a).all() for a in masks for b in masks]
    assert np.mean(nested) == 1
    assert len({mask.sum() for mask in masks}) > 5


def test_draw_deterministic_masks_equal_the_map_with_holes_below_one():
    settings = MODES["bbmp"]
    cells = jnp.ones((4, 4)).at[0, 0].set(0.25)
    pixels = settings.mask_law.keep_map(cells, (8, 8))
    masks, holes = settings.mask_law.draw(jax.random.key(0), pixels, settings.num_samples)
    np.testing.assert_allclose(masks[0, ..., 0], upsample(cells, (8, 8)), atol=1e-6)
    np.testing.assert_array_equal(holes[0, ..., 0], upsample(cells, (8, 8)) >= 1)
