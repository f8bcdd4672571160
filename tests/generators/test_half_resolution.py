"""In-filling at half the resolution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cfx_jax
from cfx_jax import Generator
from cfx_jax.generators import infill_at_half_resolution, mix

KEY = jax.random.key(0)


@pytest.mark.parametrize("size", [(8, 8), (7, 10), (1, 3)])
def test_infill_at_half_resolution_passes_means_and_masks_of_cells(size):
    """The generator gets the mean of each 2 x 2 pixels, kept if all four are kept."""
    rng = np.random.default_rng(0)
    images = rng.random((2, *size, 3)).astype(np.float32)
    mask = (rng.random((2, *size, 1)) < 0.8).astype(np.float32)
    given = []

    def fill(params, images, mask, key):
        given.append((images, mask))
        return jnp.full_like(images, params)

    generator = Generator(params=0.25, apply=fill, scalable=True)
    infills = infill_at_half_resolution(generator, jnp.asarray(images), jnp.asarray(mask), KEY)
    np.testing.assert_array_equal(infills, np.where(mask == 1, images, np.float32(0.25)))
    even = [(0, side % 2) for side in size]
    cells = [np.pad(a, ((0, 0), *even, (0, 0)), mode="edge") for a in (images, mask)]
    shape = (2, (size[0] + 1) // 2, 2, (size[1] + 1) // 2, 2, -1)
    means, kept = cells[0].reshape(shape).mean((2, 4)), cells[1].reshape(shape).min((2, 4))
    np.testing.assert_allclose(given[0][0], means, atol=1e-6)
    np.testing.assert_array_equal(given[0][1], kept)


def test_infill_at_half_resolution_is_close_to_the_full_one():
    """On a photograph with a hole of a quarter of each side; a grey in-fill is far from both."""
    image = jnp.asarray(cfx_jax.demo_images(64)[0][:1])
    mask = jnp.ones((1, 64, 64, 1)).at[:, 24:40, 24:40].set(0.0)
    generator = cfx_jax.load_generator("gated_unet")
    full = jax.jit(generator.apply)(generator.params, image, mask, KEY)
    half = jax.jit(infill_at_half_resolution)(generator, image, mask, KEY)
    hole = mask[..., 0] == 0
    distance = float(jnp.abs(half - full)[hole].mean())
    assert distance < 0.3 * float(jnp.abs(full - 0.45)[hole].mean())


@pytest.mark.parametrize(
    ("name", "scalable"), [("gated_unet", True), ("grey", False), ("vae_digits", False)]
)
def test_load_generator_knows_what_is_scalable(name, scalable):
    generator = cfx_jax.load_generator(name)
    assert generator.scalable == scalable
    assert mix([generator, cfx_jax.load_generator("gated_unet")]).scalable == scalable


@pytest.mark.parametrize("scalable", [True, False])
@pytest.mark.parametrize("coarse", [True, False])
def test_explain_fills_at_half_resolution_only_while_learning(scalable, coarse):
    sizes = []

    def fill(params, images, mask, key):
        sizes.append(images.shape[1])
        return jnp.zeros_like(images)

    classifier = cfx_jax.Classifier(params=(), apply=lambda _, x: x.mean((1, 2)))
    jax.eval_shape(
        lambda images: cfx_jax.explain(
            KEY, classifier, Generator((), fill, scalable=scalable), images, jnp.zeros(1, int),
            num_steps=4, coarse_infill=coarse,
        ),
        jnp.ones((1, 32, 32, 3)),
    )  # fmt: skip
    assert set(sizes) == ({16, 32} if scalable and coarse else {32})
