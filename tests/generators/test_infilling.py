"""In-filling without an explanation: the composite, and errors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cfx_jax
from cfx_jax.fido.precision import in_bfloat16
from cfx_jax.generators import blend, checks, mix

KEY = jax.random.key(0)


def test_infill_keeps_fills_and_blends_pixels(fill_half, images):
    mask = jnp.linspace(0.0, 1.0, 16)[None, :, None, None] * jnp.ones((5, 16, 16, 1))
    infilled = cfx_jax.infill(KEY, fill_half, images, mask)
    np.testing.assert_allclose(infilled, mask * images + (1 - mask) * 0.5, atol=1e-6)


def test_blend_of_numpy_arrays_runs_on_the_host():
    images, mask = np.float32([[[[0.2, 0.4]]]]), np.float32([[[[0.75]]]])
    blended = blend(images, mask, 1.0)
    assert type(blended) is np.ndarray
    np.testing.assert_allclose(blended, [[[[0.4, 0.55]]]], rtol=1e-6)


def test_infill_passes_the_rounded_mask_and_the_key(images):
    def apply(params, images, mask, key):
        return 0.5 * mask + 0.25 * jax.random.uniform(key) + 0.0 * images

    generator = cfx_jax.Generator(params=(), apply=apply)
    mask = jnp.full((5, 16, 16, 1), 0.75)
    seen = (cfx_jax.infill(KEY, generator, images, mask) - 0.75 * images) / 0.25
    np.testing.assert_allclose(seen, 0.5 + 0.25 * jax.random.uniform(KEY), atol=1e-5)


@pytest.mark.parametrize("name", ["grey", "local_mean", "blur", "random_color"])
@pytest.mark.parametrize("channels", [1, 3])
def test_infill_with_all_kept_is_the_image(name, channels, images):
    generator = cfx_jax.load_generator(name)
    images, whole = images[..., :channels], jnp.ones((5, 16, 16, 1))
    np.testing.assert_array_equal(cfx_jax.infill(KEY, generator, images, whole), images)
    assert np.isfinite(cfx_jax.infill(KEY, generator, images, 0.0 * whole)).all()


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (np.full((5, 16, 16, 1), 1.5), r"mask ranges over \[1.5, 1.5\]; expected \[0, 1\]"),
        (np.full((5, 16, 16, 1), -0.1), r"mask ranges over \[-0.1, -0.1\]"),
        (np.full((5, 16, 16, 1), np.nan), r"mask ranges over \[nan, nan\]"),
        (np.ones((5, 8, 16, 1)), r"mask has shape \(5, 8, 16, 1\); expected \(5, 16, 16, 1\)"),
        (np.ones((5, 16, 16)), r"mask has shape \(5, 16, 16\); expected \(5, 16, 16, 1\)"),
    ],
)
def test_infill_refuses_invalid_masks(fill_half, images, mask, expected):
    with pytest.raises(ValueError, match=expected):
        cfx_jax.infill(KEY, fill_half, images, mask)


@pytest.mark.parametrize(
    ("bad", "expected"),
    [
        (lambda images: 255 * images, "divide 8-bit images by 255"),
        (lambda images: images.astype(jnp.int32), "expected float32"),
        (lambda images: images[0], r"expected \[N, H, W, C\]"),
    ],
)
def test_infill_refuses_invalid_images(fill_half, images, bad, expected):
    with pytest.raises(ValueError, match=expected):
        cfx_jax.infill(KEY, fill_half, bad(images), jnp.ones((5, 16, 16, 1)))


def test_infill_works_under_jit(fill_half, images):
    mask = jnp.zeros((5, 16, 16, 1))
    compiled = jax.jit(cfx_jax.infill)(KEY, fill_half, images, mask)
    np.testing.assert_allclose(compiled, 0.5, atol=1e-6)


@pytest.mark.parametrize(
    ("scale", "shift", "expected"),
    [
        (1.0, 0.0, ""),
        (1.1, -0.05, ""),
        (
            2.0,
            -1.0,
            r"'custom' fills with values over \[-0\.99.*, 0\.99.*\]; .* \(x \+ 1\) / 2",
        ),
        (255.0, 0.0, r"over \[0\..*, 25.*\]; expected \[0, 1\].*: divide 8-bit values by 255"),
        (2.0, -0.5, r"over \[-0\.49.*, 1\.5\]; expected .*: clip them"),
        (1.0, 0.5, r"over \[0\.5.*, 1\.5\]; expected .*: clip them"),
    ],
)
def test_infill_refuses_fills_that_are_no_pixels(images, scale, shift, expected):
    def apply(params, images, mask, key):
        noise = jax.random.uniform(key, images.shape).at[0, 0, 0, 0].set(jnp.nan)
        return scale * noise + shift

    generator = cfx_jax.Generator(params=(), apply=apply)
    mask = jnp.zeros((5, 16, 16, 1))
    if not expected:
        assert np.isnan(cfx_jax.infill(KEY, generator, images, mask)).sum() == 1
        return
    with pytest.raises(ValueError, match=expected):
        cfx_jax.infill(KEY, generator, images, mask)
    # The values of traced fills are not known.
    jax.eval_shape(functools.partial(cfx_jax.infill, KEY, generator), images, mask)


@pytest.mark.parametrize(
    ("fill", "expected"),
    [
        (lambda images, mask: images, ""),
        (lambda images, mask: jnp.round(images).astype(jnp.int32), ""),
        (lambda images, mask: 2 * images - 1, r"'own' fills with values over \[-1, 1\]"),
        (lambda images, mask: jnp.where(mask > 0.5, jnp.nan, images), "'own' .* not finite;"),
        # A mask that is half transparent shows it.
        (lambda images, mask: jnp.where(mask > 0.5, 1e6, images), r"over \[0, 1e\+06\]"),
        (lambda images, mask: images + 0j, "'own' returns complex64; expected float32"),
    ],
)
def test_explain_checks_the_fills_of_a_user_generator(images, fill, expected):
    classifier = cfx_jax.Classifier(params=(), apply=lambda _, x: x.mean((1, 2)))
    generator = cfx_jax.Generator(
        params=(), apply=lambda _, x, mask, key: fill(x, mask), name="own"
    )

    def explain(images):
        return cfx_jax.explain(
            KEY, classifier, generator, images, mode="bbmp", num_steps=2, mask_size=4
        )

    if not expected:
        explain(images)
        return
    with pytest.raises(ValueError, match=expected):
        explain(images)
    if "complex" not in expected:
        jax.eval_shape(explain, images)  # The values of traced fills are not known.


def test_check_fills_does_not_run_packaged_generators(monkeypatch):
    monkeypatch.setattr(checks, "_fill", lambda *_: pytest.fail("it is run"))
    for name in ("grey", "gated_unet", "blur+local_mean"):
        generator = cfx_jax.load_generator(name)
        checks.check_fills(generator, (8, 8, 3))
        checks.check_fills(in_bfloat16(generator), (8, 8, 3))
    own = cfx_jax.Generator(params=(), apply=lambda *_: 1.0, name="grey")
    with pytest.raises(pytest.fail.Exception, match="it is run"):
        checks.check_fills(mix([generator, own]), (8, 8, 3))
