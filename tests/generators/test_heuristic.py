"""Heuristic in-fills: each against a naive oracle, and properties of all of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

import cfx_jax

KEY = jax.random.key(0)
MEAN = (0.485, 0.456, 0.406)
NAMES = ["grey", "local_mean", "blur", "random_color"]


@pytest.fixture(params=NAMES)
def generator(request):
    return cfx_jax.load_generator(request.param)


def make_case(seed=0, size=(21, 34), channels=3, keep=0.5):
    """Two random images and random masks."""
    rng = np.random.default_rng(seed)
    images = rng.uniform(size=(2, *size, channels)).astype(np.float32)
    mask = (rng.uniform(size=(2, *size, 1)) < keep).astype(np.float32)
    return jnp.asarray(images), jnp.asarray(mask)


def fill(name, images, mask, key=KEY):
    generator = cfx_jax.load_generator(name)
    return np.asarray(generator.apply(generator.params, images, mask, key))


def naive_local_mean(image, mask):
    """Pixel by pixel in float64: the mean of what is kept up to 7 pixels away."""
    image, mask = np.asarray(image, np.float64), np.asarray(mask)[..., 0]
    height, width = mask.shape
    out = np.empty_like(image)
    for y in range(height):
        for x in range(width):
            kept = [
                image[v, u]
                for v in range(max(0, y - 7), min(height, y + 8))
                for u in range(max(0, x - 7), min(width, x + 8))
                if mask[v, u] == 1
            ]
            out[y, x] = np.mean(kept, axis=0) if kept else MEAN
    return out


def test_grey_is_the_mean_imagenet_colour():
    images, mask = make_case()
    np.testing.assert_array_equal(
        fill("grey", images, mask), np.broadcast_to(np.float32(MEAN), images.shape)
    )


@pytest.mark.parametrize("keep", [0.0, 0.004, 0.5, 1.0])
def test_local_mean_equals_the_naive_mean_of_the_kept_pixels(keep):
    images, mask = make_case(keep=keep)
    result = fill("local_mean", images, mask)
    for i in range(2):
        np.testing.assert_allclose(result[i], naive_local_mean(images[i], mask[i]), atol=2e-6)


def test_local_mean_sees_seven_pixels_far_and_no_further():
    images = jnp.zeros((1, 40, 40, 3)).at[0, 20, 20].set((0.9, 0.6, 0.3))
    mask = jnp.zeros((1, 40, 40, 1)).at[0, 20, 20].set(1.0)
    result = fill("local_mean", images, mask)[0]
    np.testing.assert_allclose(result[13:28, 13:28] - np.float32([0.9, 0.6, 0.3]), 0, atol=1e-6)
    outside = np.ones((40, 40), bool)
    outside[13:28, 13:28] = False
    np.testing.assert_array_equal(result[outside] - np.float32(MEAN), 0)


@pytest.mark.parametrize("size", [(64, 90), (224, 31), (7, 1), (2, 3)])
def test_blur_equals_scipy(size):
    """Sigma 10 cut at 4 sigma; SciPy's `mirror` does not repeat the border pixel."""
    images, mask = make_case(size=size)
    expected = ndimage.gaussian_filter(
        np.asarray(images, np.float64), sigma=(0, 10, 10, 0), mode="mirror", truncate=4
    )
    np.testing.assert_allclose(fill("blur", images, mask), expected, atol=1e-6)


def test_random_color_is_one_colour_an_image_with_noise():
    images, mask = make_case(size=(96, 96))
    # Clipping moves neither the median nor the quartiles of a colour well inside the box.
    fills = np.concatenate(
        [fill("random_color", images, mask, jax.random.key(seed)) for seed in range(20)]
    )
    low, colors, high = np.quantile(fills, [0.25, 0.5, 0.75], axis=(1, 2))
    inside = (colors > 0.2) & (colors < 0.8)
    assert inside.sum() > 50
    np.testing.assert_allclose((high - low)[inside] / 1.349, 0.2, rtol=0.06)
    assert np.isin([0.0, 1.0], fills).all()
    # Uniform colours: the mean of 120 independent ones, four standard errors.
    assert abs(colors.mean() - 0.5) < 4 / np.sqrt(12 * colors.size)
    assert np.ptp(colors) > 0.8
    noise = fills[0, ..., 0] - colors[0, 0]
    assert abs(np.corrcoef(noise[:, 1:].ravel(), noise[:, :-1].ravel())[0, 1]) < 0.05


def test_random_color_follows_its_key():
    images, mask = make_case()
    first, again, other = (
        fill("random_color", images, mask, jax.random.key(seed)) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).mean() > 0.05
    assert np.abs(first[0] - first[1]).mean() > 0.05


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("keep", [0.0, 0.5, 1.0])
def test_heuristic_infills_have_the_image_shape_and_range(generator, keep, channels):
    images, mask = make_case(keep=keep, channels=channels)
    for extreme in (images, jnp.zeros_like(images), jnp.ones_like(images)):
        result = generator.apply(generator.params, extreme, mask, KEY)
        assert result.shape == images.shape
        assert result.dtype == jnp.float32
        assert np.isfinite(result).all()
        assert float(result.min()) >= 0.0
        # A mean of ones may round to a little more than one.
        assert float(result.max()) <= 1.0 + 1e-6


def test_heuristic_infill_is_the_same_under_jit_and_vmap(generator):
    images, mask = make_case()
    eager = generator.apply(generator.params, images, mask, KEY)
    compiled = jax.jit(generator.apply)(generator.params, images, mask, KEY)
    np.testing.assert_allclose(compiled, eager, atol=1e-6)

    def one(image, mask, key):
        return generator.apply(generator.params, image[None], mask[None], key)[0]

    keys = jax.random.split(KEY, 2)
    mapped = jax.vmap(one)(images, mask, keys)
    looped = jnp.stack([one(*row) for row in zip(images, mask, keys, strict=True)])
    np.testing.assert_allclose(mapped, looped, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "blur"])
def test_heuristic_infill_ignores_pixels_in_holes(name):
    images, mask = make_case()
    other = jnp.where(mask == 1, images, make_case(seed=1)[0])
    assert float(jnp.abs(images - other).max()) > 0.5
    np.testing.assert_array_equal(fill(name, images, mask), fill(name, other, mask))


def test_blur_alone_depends_on_pixels_in_holes():
    images, mask = make_case(keep=0.0)
    assert np.abs(fill("blur", images, mask) - fill("blur", 1.0 - images, mask)).max() > 0.01


@pytest.mark.parametrize("keep", [0.0, 0.5, 1.0])
def test_heuristic_gradients_are_finite(generator, keep):
    images, mask = make_case(keep=keep)

    def total(images, mask):
        return jnp.sum(generator.apply(generator.params, images, mask, KEY) ** 2)

    for gradient in jax.grad(total, argnums=(0, 1))(images, mask):
        assert np.isfinite(gradient).all()
