"""The gated U-Net: known answers of its closed-form fill, properties and cost."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cfx_jax.generators import gated_unet
from cfx_jax.generators.gated_unet import apply

KEY = jax.random.key(0)
SIZE = (32, 48)


@jax.jit
def push_pull(images, mask):
    """The closed-form fill of images around grey."""
    return gated_unet.push_pull(mask * (images - gated_unet.GREY), mask) + gated_unet.GREY


MOST_MACS, MOST_PARAMS = 1.2e9, 3e6


@pytest.fixture(scope="module")
def untrained():
    return jax.jit(gated_unet.init)(KEY)


@pytest.fixture(scope="module")
def params(untrained):
    """Random weights, those too that start at zero."""
    return jax.tree.map(
        lambda leaf: leaf + 0.05 * jax.random.normal(KEY, leaf.shape) * (leaf.ndim == 4), untrained
    )


@pytest.fixture(scope="module")
def fill(params):
    compiled = jax.jit(apply)

    def run(images, mask, params=params):
        return np.asarray(compiled(params, images, mask, KEY))

    return run


def make_case(size=SIZE, keep=0.5, channels=3, count=2, seed=0):
    """Random images and random masks."""
    rng = np.random.default_rng(seed)
    images = rng.uniform(size=(count, *size, channels)).astype(np.float32)
    mask = (rng.uniform(size=(count, *size, 1)) < keep).astype(np.float32)
    return jnp.asarray(images), jnp.asarray(mask)


# The multi-scale fill.


@pytest.mark.parametrize("size", [(16, 16), (13, 22), (1, 7)])
@pytest.mark.parametrize("keep", [0.1, 0.5])
def test_push_pull_of_a_constant_image_is_the_constant(size, keep):
    colour = np.float32([0.9, 0.5, 0.1])
    _, mask = make_case(size, keep)
    images = jnp.broadcast_to(colour, (2, *size, 3))
    mask = mask.at[:, 0, 0].set(1.0)
    np.testing.assert_allclose(push_pull(images, mask) - colour, 0.0, atol=1e-6)


@pytest.mark.parametrize("place", [(0, 0), (5, 17), (12, 21)])
def test_push_pull_from_one_kept_pixel_is_its_colour(place):
    images, mask = make_case((13, 22), keep=0.0)
    mask = mask.at[:, place[0], place[1]].set(1.0)
    colour = images[:, place[0], place[1]][:, None, None]
    np.testing.assert_allclose(push_pull(images, mask) - colour, 0.0, atol=1e-6)


def test_push_pull_of_a_noisy_ramp_is_close_to_the_ramp():
    size = 64
    ramp = jnp.broadcast_to(jnp.linspace(0.0, 1.0, size)[:, None, None], (1, size, size, 3))
    _, mask = make_case((size, size), keep=0.5, count=1)
    error = np.abs(push_pull(ramp, mask) - ramp)
    assert error.max() < 4 / size
    assert error.mean() < 0.5 / size


def test_push_pull_of_a_row_by_hand():
    """Fills between 0 and 1.

    Their 2 x 2 cells upsampled with weights 3/4 and 1/4 give 1/4 and 3/4; then
    each hole takes the mean of left and right, and twice of itself, the mirrored row.
    """
    images = jnp.asarray([[0.0, 9.0, 9.0, 1.0]]).reshape(1, 1, 4, 1)
    mask = jnp.asarray([[1.0, 0.0, 0.0, 1.0]]).reshape(1, 1, 4, 1)
    low = (0.0 + 0.75 + 2 * 0.25) / 4
    expected = [0.0, low, 1 - low, 1.0]
    np.testing.assert_allclose(push_pull(images, mask).ravel(), expected, atol=1e-6)


def test_push_pull_of_nothing_is_grey_and_of_all_is_the_image():
    images, mask = make_case((13, 22), keep=0.0)
    np.testing.assert_array_equal(push_pull(images, mask), gated_unet.GREY)
    np.testing.assert_allclose(push_pull(images, jnp.ones_like(mask)), images, atol=1e-7)


def test_push_pull_stays_in_the_range_of_kept_pixels():
    images, mask = make_case((37, 64), keep=0.1)
    result = np.asarray(push_pull(0.2 + 0.5 * images, mask))
    assert result.min() >= 0.2 - 1e-6
    assert result.max() <= 0.7 + 1e-6


# The network.


def test_gated_unet_untrained_returns_push_pull(untrained, fill):
    images, mask = make_case()
    expected = jnp.where(mask > 0.5, images, push_pull(images, mask))
    np.testing.assert_allclose(fill(images, mask, params=untrained), expected, atol=1e-6)


@pytest.mark.parametrize("size", [(33, 50), (1, 9)])
def test_gated_unet_accepts_any_size(fill, size):
    images, mask = make_case(size)
    result = fill(images, mask)
    assert result.shape == images.shape
    assert result.dtype == np.float32
    assert np.isfinite(result).all()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("keep", [0.0, 0.02, 0.5, 1.0])
def test_gated_unet_infill_is_in_range_and_keeps_the_image(params, fill, keep, dtype):
    (images, mask), params = jax.tree.map(lambda x: x.astype(dtype), (make_case(keep=keep), params))
    result = fill(images, mask, params)
    assert result.dtype == dtype
    assert result.min() >= 0.0
    assert result.max() <= 1.0
    np.testing.assert_array_equal(np.where(mask == 1, result, 0), np.where(mask == 1, images, 0))


def test_gated_unet_uses_bfloat16_in_every_product(params):
    arguments = (params, *make_case())
    halves = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), arguments)
    operations = list(products(jax.make_jaxpr(apply)(*halves, KEY).jaxpr))
    assert len(operations) == 20
    assert {operand.aval.dtype for operation in operations for operand in operation.invars} == {
        jnp.dtype(jnp.bfloat16)
    }


def test_gated_unet_ignores_pixels_in_holes(fill):
    images, mask = make_case()
    kept_only, hole = images * mask, np.asarray(mask[..., 0] == 0)
    np.testing.assert_array_equal(fill(images, mask)[hole], fill(kept_only, mask)[hole])


def test_gated_unet_treats_images_independently(fill):
    images, mask = make_case()
    other_images, other_mask = make_case(seed=1, keep=0.1)
    mixed = fill(images.at[1].set(other_images[1]), mask.at[1].set(other_mask[1]))
    np.testing.assert_allclose(mixed[0], fill(images, mask)[0], atol=1e-5)
    np.testing.assert_allclose(mixed[1], fill(other_images, other_mask)[1], atol=1e-5)


def test_gated_unet_vmap_over_single_images_agrees(params, fill):
    images, mask = make_case(count=2)

    @jax.jit
    @jax.vmap
    def one_by_one(image, mask):
        return apply(params, image[None], mask[None], KEY)[0]

    np.testing.assert_allclose(one_by_one(images, mask), fill(images, mask), atol=1e-5)


def test_gated_unet_fills_grey_like_grey_rgb_images(fill):
    images, mask = make_case(channels=1)
    expected = fill(jnp.repeat(images, 3, axis=-1), mask)
    result = fill(images, mask)
    assert result.shape == images.shape
    # The mean is taken before clipping.
    inside = ((expected > 0) & (expected < 1)).all(-1)
    assert inside.mean() > 0.5
    np.testing.assert_allclose(result[inside][:, 0], expected[inside].mean(-1), atol=1e-5)


@pytest.mark.parametrize("channels", [2, 4])
def test_gated_unet_refuses_other_channels(params, channels):
    images, mask = make_case(channels=channels)
    with pytest.raises(
        ValueError, match=rf"shape \(2, 32, 48, {channels}\); expected \[N, H, W, 3\]"
    ):
        apply(params, images, mask, KEY)


@pytest.fixture(scope="module")
def loss_and_gradient():
    """The loss and its gradient by the parameters."""
    return jax.jit(jax.value_and_grad(lambda *args: gated_unet.loss(*args, KEY)[0]))


@pytest.mark.parametrize("keep", [0.0, 0.5, 1.0])
def test_gated_unet_gradients_are_finite_for_every_mask(params, loss_and_gradient, keep):
    _, gradient = loss_and_gradient(params, *make_case((16, 16), keep))
    leaves = jax.tree.leaves(gradient)
    assert all(np.isfinite(leaf).all() for leaf in leaves)
    # What is kept is given back, whatever the parameters.
    assert all(np.any(leaf) == (keep < 1) for leaf in leaves)


def test_gated_unet_descent_lowers_the_loss(untrained, loss_and_gradient):
    images, mask = make_case((16, 16))
    before, gradient = loss_and_gradient(untrained, 0.5 * images, mask)
    stepped = jax.tree.map(lambda p, g: p - 0.05 * g, untrained, gradient)
    after, _ = loss_and_gradient(stepped, 0.5 * images, mask)
    assert after < before


def test_gated_unet_loss_is_the_error_inside_the_hole(untrained):
    images, mask = make_case((16, 16))
    loss, infills, terms = jax.jit(gated_unet.loss)(untrained, images, mask, KEY)
    holes = np.broadcast_to(mask == 0, images.shape)
    error = np.abs(np.asarray(infills) - images)
    expected = np.mean([e[h].mean() for e, h in zip(error, holes, strict=True)])
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    assert terms == {}


# With noise.


def test_gated_unet_stochastic_infills_differ_by_key_and_row():
    params = jax.jit(gated_unet.init, static_argnames="stochastic")(KEY, stochastic=True)
    noisy = 0.1 * jax.random.normal(KEY, params["unet"]["residual"]["kernel"].shape)
    params["unet"]["residual"]["kernel"] = noisy
    images, mask = make_case(count=1)
    images, mask = (jnp.concatenate([array, array]) for array in (images, mask))
    compiled = jax.jit(apply)
    first, again, other = (
        np.asarray(compiled(params, images, mask, jax.random.key(seed))) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    kept = np.broadcast_to(mask == 1, images.shape)
    for one, two in ((first, other), (first[:1], first[1:])):
        differ = one != two
        assert differ[~kept[: len(one)]].mean() > 0.5
        assert not differ[kept[: len(one)]].any()


# The budget.


def products(jaxpr):
    """Yields all convolutions and matrix products of a jaxpr."""
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("conv_general_dilated", "dot_general"):
            yield equation
        for inner in equation.params.values():
            if hasattr(inner, "jaxpr"):
                yield from products(inner.jaxpr)


def multiply_adds(jaxpr):
    """Sums the multiply-adds of all convolutions and matrix products of a jaxpr."""
    total = 0
    for equation in products(jaxpr):
        left, right = equation.invars
        if equation.primitive.name == "conv_general_dilated":
            # Kernels are [height, width, in, out]: every output pixel sees the first three.
            terms = math.prod(right.aval.shape[:3])
        else:
            (summed, _), _ = equation.params["dimension_numbers"]
            terms = math.prod(left.aval.shape[axis] for axis in summed)
        total += math.prod(equation.outvars[0].aval.shape) * terms
    return total


def test_multiply_adds_of_a_known_network():
    image = jnp.zeros((1, 8, 8, 4))
    layer = nn.Conv(6, (3, 5), strides=2)
    params = jax.eval_shape(layer.init, KEY, image)

    @jax.jit
    def network(params, image):
        return layer.apply(params, image) @ jnp.zeros((6, 7))

    jaxpr = jax.make_jaxpr(network)(params, image).jaxpr
    assert multiply_adds(jaxpr) == 4 * 4 * 6 * (3 * 5 * 4) + 4 * 4 * 7 * 6


def test_gated_unet_budget_of_parameters_and_multiply_adds(params):
    images, mask = jnp.zeros((1, 224, 224, 3)), jnp.ones((1, 224, 224, 1))
    cost = multiply_adds(jax.make_jaxpr(apply)(params, images, mask, KEY).jaxpr)
    assert 0.5 * MOST_MACS < cost <= MOST_MACS
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) <= MOST_PARAMS
