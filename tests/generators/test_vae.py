"""The VAE in-filler: properties of a generator, random draws, and the evidence lower bound."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cfx_jax.generators import vae
from cfx_jax.generators.vae import DIGITS, PHOTOGRAPHS, Gaussian, gaussian_kl

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def params():
    return jax.jit(functools.partial(vae.init, architecture=DIGITS))(KEY)


@pytest.fixture(scope="module")
def fill():
    return jax.jit(functools.partial(vae.apply, architecture=DIGITS))


def make_case(keep=0.5, size=(28, 28), count=3):
    rng = np.random.default_rng(0)
    images = rng.uniform(size=(count, *size, 1)).astype(np.float32)
    mask = (rng.uniform(size=(count, *size, 1)) < keep).astype(np.float32)
    return jnp.asarray(images), jnp.asarray(mask)


@pytest.mark.parametrize("keep", [0.0, 0.5, 1.0])
def test_vae_infills_are_in_range_and_keep_the_image(params, fill, keep):
    images, mask = make_case(keep)
    infill = np.asarray(fill(params, images, mask, KEY))
    assert infill.shape == images.shape
    assert infill.min() >= 0.0
    assert infill.max() <= 1.0
    np.testing.assert_array_equal(infill[mask == 1], images[mask == 1])


def test_vae_draws_differ_by_key_and_row_and_repeat(params, fill):
    images, mask = make_case(0.2, count=1)
    images, mask = (jnp.concatenate([array, array]) for array in (images, mask))
    first, again, other = (fill(params, images, mask, jax.random.key(s)) for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3
    assert np.abs(first[0] - first[1]).max() > 1e-3


def test_vae_rows_are_independent(params, fill):
    images, mask = make_case()
    changed = fill(params, images.at[1:].set(0.5), mask.at[1:].set(0.0), KEY)
    np.testing.assert_allclose(changed[0], fill(params, images, mask, KEY)[0], atol=1e-5)


def test_vae_ignores_pixels_in_holes(params, fill):
    images, mask = make_case()
    hole = np.asarray(mask == 0)
    one, two = fill(params, images, mask, KEY), fill(params, images * mask, mask, KEY)
    np.testing.assert_array_equal(np.asarray(one)[hole], np.asarray(two)[hole])


def test_vae_accepts_photographs_of_any_size():
    images = jnp.full((1, 33, 50, 3), 0.3)
    mask = jnp.zeros((1, 33, 50, 1)).at[:, :10].set(1.0)
    infill = jax.jit(lambda key: vae.apply(vae.init(key), images, mask, key))(KEY)
    assert infill.shape == images.shape
    assert np.isfinite(infill).all()


@pytest.mark.parametrize(("architecture", "channels"), [(DIGITS, 3), (PHOTOGRAPHS, 1)])
def test_vae_refuses_other_channels(architecture, channels):
    images = jnp.zeros((1, 32, 32, channels))
    with pytest.raises(ValueError, match=rf"expected \[N, H, W, {architecture.channels}\]"):
        vae.apply({}, images, images[..., :1], KEY, architecture=architecture)


def test_gaussian_kl_by_hand_and_by_sampling():
    shape = (1, 1, 1, 2)
    first = Gaussian(jnp.asarray([0.0, 1.0]).reshape(shape), jnp.zeros(shape))
    second = Gaussian(jnp.zeros(shape), jnp.log(jnp.asarray([1.0, 2.0])).reshape(shape))
    by_hand = np.log(2) + (1 + 1) / 8 - 0.5
    np.testing.assert_allclose(gaussian_kl(first, second), [by_hand], rtol=1e-6)
    np.testing.assert_allclose(gaussian_kl(second, second), [0.0], atol=1e-7)
    draws = 1.0 + np.random.default_rng(0).normal(size=200_000)
    log_ratio = -0.5 * (draws - 1) ** 2 + 0.5 * (draws / 2) ** 2 + np.log(2)
    assert log_ratio.mean() == pytest.approx(by_hand, abs=0.01)


def test_vae_loss_adds_divergence_and_reaches_every_parameter(params):
    images, mask = make_case()

    @jax.jit
    def evaluate(params):
        def total(params):
            loss, infills, terms = vae.loss(params, images, mask, KEY, architecture=DIGITS)
            return loss, (infills, terms)

        return jax.value_and_grad(total, has_aux=True)(params)

    (loss, (infills, terms)), gradient = evaluate(params)
    np.testing.assert_allclose(loss, terms["reconstruction"] + terms["kl"], rtol=1e-6)
    errors = np.abs(np.asarray(infills) - images) / vae.PIXEL_SCALE
    expected = np.mean([e[m == 0].mean() for e, m in zip(errors, np.asarray(mask), strict=True)])
    np.testing.assert_allclose(terms["reconstruction"], expected, rtol=1e-5)
    assert terms["kl"] > 0
    for part in ("prior", "posterior", "decoder"):
        leaves = jax.tree.leaves(gradient[part])
        assert all(np.isfinite(leaf).all() and np.any(leaf) for leaf in leaves), part
